"""`mnemos evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from mnemos.errors import InvalidValue, RunError
from mnemos.evaluate import (
    BitsPerByte,
    LossByPosition,
    Streaming,
    bits_per_byte,
    held_out_stream,
    loss_by_position,
    streaming,
)
from mnemos.evaluate.pictures import size
from mnemos.train import find_checkpoint, open_corpus
from mnemos.train.files import replace_text
from mnemos.train.run import config_of


def command(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    data: str | None = None,
    length: int | None = None,
    tokens: int = 262144,
    stream: int = 204800,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    overwrite: bool = False,
) -> None:
    """Measure a trained model: how well it predicts, how far it remembers, what a long stream costs.

    Three things are measured on held-out text: bits per byte in windows of the training length; bits per byte
    by position in windows far longer than that; and the seconds and bytes of state that each token takes along
    one long stream. Intervals are of 95 %, over windows.

    For example:

      mnemos evaluate runs/first

      mnemos evaluate runs/first --data other-texts/ --length 16384 --json measured.json

    Args:
        checkpoint: The folder of a run, for its newest checkpoint, or of one checkpoint inside it.
        data: A text file, a folder of text files, or the word stdlib; what the run was trained on if not given.
        length: Longest text for the loss by position; 8 training lengths if not given.
        tokens: Held-out tokens to read for each of the first two measurements.
        stream: Tokens of the stream; held-out text that is shorter is read again from its start.
        device: Where to compute; auto is a CUDA device if there is one.
        json_file: Also write everything measured to this file.
        overwrite: Let --json replace an existing file.
    """
    if json_file is not None and json_file.exists() and not overwrite:
        raise RunError(f"--json {json_file} exists already. Give another name, or --overwrite to replace it.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidValue("--device cuda was asked for, but there is no CUDA device. Write --device cpu.")
    found = find_checkpoint(checkpoint)
    config = config_of(found.folder)
    corpus = open_corpus(data or config.data, found.tokenizer())
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else device
    model = found.model().to("cpu" if chosen == "auto" else chosen)
    separate = config.documents == "separate"

    # The one that is refused for too short a text comes first.
    by_position = loss_by_position(
        model, corpus, training_length=config.length, length=length, tokens=tokens, separate=separate
    )
    held_out = bits_per_byte(model, corpus, length=config.length, tokens=tokens, separate=separate)
    streamed = streaming(model, held_out_stream(corpus, stream + 1), bytes_per_token=corpus.bytes_per_token)
    print("\n".join(lines(held_out, by_position, streamed)))
    if json_file is not None:
        measured = {"held_out": held_out, "by_position": by_position, "streaming": streamed}
        text = json.dumps({name: json.loads(result.to_json()) for name, result in measured.items()}, indent=2)
        replace_text(json_file, text + "\n")
        print(f"written to {json_file}")


def lines(held_out: BitsPerByte, by_position: LossByPosition, streamed: Streaming) -> list[str]:
    """What was measured, for the terminal."""
    state = "constant" if streamed.state_constant else "grown over the stream"
    return [
        f"held-out bits per byte    {held_out.value} in {held_out.value.count} windows of {held_out.length:,} tokens",
        "",
        f"bits per byte by position in {by_position.windows} windows of {by_position.length:,} tokens",
        *(f"  {b.first:>8,} to {b.last:<8,}    {b.value}" for b in by_position.buckets),
        f"  beyond the training length of {by_position.training_length:,}: {by_position.beyond}",
        f"  in its second half: {by_position.within}",
        "",
        f"one stream of {streamed.tokens:,} tokens in pieces of {streamed.piece:,}",
        f"  cost of a token, late over early    {streamed.late_over_early:.3f}",
        f"  tokens per second                   {streamed.tokens_per_second:,.0f}",
        f"  state                               {size(streamed.state_bytes)}, {state}",
        f"  bits per byte                       {streamed.bits_per_byte:.3f}",
    ]
