"""The other process of `save_and_continue`: model and state from disk, the rest of the stream."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from mnemos.evaluate.continuation import stream
from mnemos.evaluate.windows import device_of, measuring
from mnemos.state import load_state
from mnemos.train import load_model


def go_on(checkpoint: Path, folder: Path, piece: int, threads: int) -> None:
    """Go on from `state.safetensors` over `tokens.safetensors` in `folder`; writes `logits.safetensors`."""
    torch.set_num_threads(threads)  # another number of threads may add up in another order
    model = load_model(checkpoint)
    state = load_state(folder / "state.safetensors", for_=model).to(device_of(model))
    with measuring(model):
        logits, _ = stream(model, load_file(folder / "tokens.safetensors")["tokens"], state, piece)
    save_file({"logits": logits.contiguous()}, folder / "logits.safetensors")


if __name__ == "__main__":
    go_on(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
