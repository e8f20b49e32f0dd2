"""Whether a saved state is the whole memory: a fresh process that loads it must give the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnemos.errors import DataError, RunError
from mnemos.evaluate.result import Result
from mnemos.evaluate.windows import Model, device_of, measuring, token_bits


@dataclass(frozen=True)
class Continuation(Result):
    """The unbroken stream against the one that a fresh process took up from the state on disk."""

    tokens_before: int
    tokens_after: int
    state_file_bytes: int
    largest_difference: float
    """Of any logit; 0 where the two are equal to the last bit."""
    loss_unbroken: float
    """Bits per token after the save."""
    loss_reloaded: float
    """The same from the fresh process."""
    exact: bool


def save_and_continue(checkpoint: Path, tokens: Tensor, *, piece: int = 2048) -> Continuation:
    """Stream half of `tokens`, save the state, and stream the other half here and in a fresh Python process.

    checkpoint: what `mnemos.train.load_model` reads; tokens: (count,) int64; piece: tokens of one call.

    Raises:
        DataError: fewer than 4 tokens.
        RunError: the fresh process failed; its own message is in the text.
    """
    from mnemos.train import load_model

    if tokens.numel() < 4:
        raise DataError(f"save_and_continue needs at least 4 tokens to cut in two; got {tokens.numel()}.")
    model = load_model(checkpoint)
    half = tokens.numel() // 2
    with tempfile.TemporaryDirectory() as folder, measuring(model):
        _, state = stream(model, tokens[:half], None, piece)
        saved = state.save(Path(folder) / "state.safetensors")
        save_file({"tokens": tokens[half:-1].contiguous()}, Path(folder) / "tokens.safetensors")
        state_file_bytes = saved.stat().st_size
        unbroken, _ = stream(model, tokens[half:-1], state, piece)
        reloaded = _in_fresh_process(checkpoint, Path(folder), piece)
    targets = tokens[None, half + 1 :]
    return Continuation(
        tokens_before=half,
        tokens_after=unbroken.shape[1],
        state_file_bytes=state_file_bytes,
        largest_difference=(unbroken - reloaded).abs().max().item(),
        loss_unbroken=token_bits(unbroken, targets).mean().item(),
        loss_reloaded=token_bits(reloaded, targets).mean().item(),
        exact=torch.equal(unbroken, reloaded),
    )


def stream(model: Model, tokens: Tensor, state: Any, piece: int) -> tuple[Tensor, Any]:
    """Logits (1, count, vocabulary) on the CPU and the last state, after `tokens` (count,) in pieces."""
    device, parts = device_of(model), []
    for part in tokens.split(piece):
        logits, state = model(part[None].to(device), state)
        parts.append(logits.cpu())
    return torch.cat(parts, 1), state


def _in_fresh_process(checkpoint: Path, folder: Path, piece: int) -> Tensor:
    source = str(Path(__file__).parents[2])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [
        sys.executable,
        "-m",
        "mnemos.evaluate.fresh_process",
        str(checkpoint),
        str(folder),
        str(piece),
        str(torch.get_num_threads()),
    ]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode != 0:
        raise RunError(
            f"the fresh process that was to go on from the saved state of {checkpoint} failed:\n{done.stderr.strip()}"
        )
    return load_file(folder / "logits.safetensors")["logits"]
