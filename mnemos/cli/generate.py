"""`mnemos generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro

import mnemos as mn
from mnemos.errors import DataError, InvalidValue, RunError
from mnemos.models.generation import Stream, stream
from mnemos.train import Tokenizer, find_checkpoint


def command(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    prompt: str | None = None,
    prompt_file: Path | None = None,
    length: int = 300,
    temperature: float = 0.8,
    top_p: float | None = None,
    seed: int | None = None,
    state: Path | None = None,
    save_state: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Let a trained model continue a text.

    The prompt and its continuation are printed as they come. The text ends after --length tokens or where the
    model ends the document. With --save-state, what the memory holds after the last token is kept in a file;
    with --state the model goes on from there without reading the earlier text again.

    For example:

      mnemos generate runs/first --prompt "def fibonacci(" --length 300

      mnemos generate runs/first --prompt-file chapter1.txt --length 0 --save-state read.safetensors

      mnemos generate runs/first --state read.safetensors --prompt "Then" --temperature 0

    Args:
        checkpoint: The folder of a run, for its newest checkpoint, or of one checkpoint.
        prompt: The text to continue. With no prompt at all, the model begins a document.
        prompt_file: A UTF-8 file with the text to continue.
        length: New tokens at most.
        temperature: How freely to draw; 0 always takes the likeliest token.
        top_p: Draw only from the fewest tokens that have this much probability together, in (0, 1].
        seed: Repeats the same draws; every call differs if not given.
        state: A file that --save-state wrote, of the same model.
        save_state: Where to keep the memory afterwards.
        overwrite: Let --save-state replace an existing file.
    """
    if save_state is not None and save_state.exists() and not overwrite:
        raise RunError(f"--save-state {save_state} exists already. Give another name, or --overwrite to replace it.")
    if save_state is not None and not save_state.parent.is_dir():
        raise RunError(f"--save-state {save_state}: there is no folder {save_state.parent}. Make it first.")
    text = _prompt(prompt, prompt_file)
    if state is not None and not text:
        raise InvalidValue("--state needs a text to go on with. Give --prompt or --prompt-file.")
    found = find_checkpoint(checkpoint)
    tokenizer, model = found.tokenizer(), found.model()
    held = None if state is None else mn.load_state(state, for_=model)
    if held is not None and held.batch != 1:
        raise InvalidValue(
            f"--state {state} holds {held.batch} rows; one text needs one. Save state.select(...) of it."
        )

    ids = tokenizer.encode(text).tolist() or [tokenizer.end_of_document]
    end = tokenizer.end_of_document
    run = stream(
        model,
        torch.tensor([ids]),
        length=length,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        state=held,
        stop=end,
    )
    _print(text)
    new: list[int] = []
    _print_all(run, new, tokenizer)
    if save_state is not None:
        unread = new[-1:] or ids
        with torch.no_grad():
            _, after = model(torch.tensor([unread]), run.state)
        after.save(save_state)
        print(f"memory of {after.nbytes:,} bytes kept in {save_state}", file=sys.stderr)


def _prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if prompt_file is None:
        return prompt or ""
    if prompt is not None:
        raise InvalidValue("both --prompt and --prompt-file were given. Give one of them.")
    try:
        return prompt_file.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"--prompt-file {prompt_file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"--prompt-file {prompt_file} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from error


def _print_all(run: Stream, new: list[int], tokenizer: Tokenizer) -> None:
    def ids():
        for token in run:
            new.append(int(token))
            yield int(token)

    for piece in tokenizer.pieces(ids()):
        _print(piece)
    print(flush=True)


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
