"""A bank of texts and their explicit memories, found by vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect
from mnemos.models.explicit_memory import ExplicitMemory
from mnemos.models.key_index import KeyIndex

Embed = Callable[[Tensor], Tensor]
"""Tokens (T,) -> a vector (channels,)."""


class MemoryBank:
    """Texts, and what a model made of them (Memory^3, arXiv 2407.01178). It needs no network, and lies in the host's
    memory: only what is read goes to the model's device.

        bank = MemoryBank(32, embed, write=lambda text: write_explicit(model, text))
        bank.add(texts)
        logits, state = read_with_memories(model, tokens, bank.recall(5))

    channels: the width of what `embed` makes of a text. write: makes the memory of a text. A text is written when it is
    first read, and what was written is kept, unless `add(now=True)` has done it before. method: how
    vectors are found (`KeyIndex`).
    """

    def __init__(
        self,
        channels: int,
        embed: Embed,
        write: Callable[[Tensor], ExplicitMemory],
        method: Literal["exact", "usearch"] = "exact",
    ):
        self.index = KeyIndex(channels, method)
        self.embed, self.write = embed, write
        self.texts: list[Tensor] = []
        self.memories: dict[int, ExplicitMemory] = {}

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def nbytes(self) -> int:
        """Bytes of all memories written so far."""
        return sum(memory.nbytes for memory in self.memories.values())

    def add(self, texts: Sequence[Tensor], now: bool = False) -> range:
        """Takes up texts, int64 (T,) each; returns their numbers. now: write their memories at once.

        Raises InvalidType for other tensors, and what `embed` and `write` raise.
        """
        for text in texts:
            if not isinstance(text, Tensor) or text.dtype != torch.int64 or text.ndim != 1:
                raise InvalidType("MemoryBank.add takes a list of int64 token ids, (time,) each.")
        numbers = self.index.add(torch.stack([self.embed(text).detach() for text in texts])) if texts else range(0)
        self.texts += [text.detach().cpu().clone() for text in texts]
        if now:
            for number in numbers:
                self.fetch(number)
        return numbers

    def fetch(self, number: int) -> ExplicitMemory:
        """The memory of a text, written now unless it was before. Raises InvalidValue for a number that is none."""
        if number not in self.memories:
            expect(0 <= number < len(self), f"this bank holds the texts 0 to {len(self) - 1}; got {number}.")
            self.memories[number] = self.write(self.texts[number])
        return self.memories[number]

    def search(self, tokens: Tensor, number: int) -> list[int]:
        """The numbers of the texts whose vectors are nearest to that of `tokens` (T,), best first. Raises what
        `KeyIndex.search` raises."""
        return self.index.search(self.embed(tokens)[None], number)[0][0].tolist()

    def recall(self, number: int) -> Callable[[Tensor], list[ExplicitMemory]]:
        """A function from tokens to the memories of the `number` nearest texts, for `read_with_memories`."""
        return lambda tokens: [self.fetch(found) for found in self.search(tokens, number)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes vectors, texts and the memories written so far to one safetensors file, whole or not at all."""
        path = Path(path)
        tensors = {"vectors": self.index.vectors.contiguous()}
        tensors |= {f"text.{i}": text for i, text in enumerate(self.texts)}
        for i, memory in self.memories.items():
            tensors |= {f"keys.{i}": memory.keys.contiguous(), f"values.{i}": memory.values.contiguous()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file(tensors, temporary, {"format": FORMAT})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def load(self, path: str | os.PathLike[str]) -> MemoryBank:
        """Takes up everything in a file that `save` wrote, and returns itself. Raises InvalidValue unless this bank is
        empty and the file holds vectors of its width."""
        expect(len(self) == 0, f"a bank is loaded while it is empty; this one holds {len(self)} texts.")
        if not Path(path).is_file():
            raise InvalidValue(f"there is no bank at {path}.")
        tensors = load_file(path)
        expect("vectors" in tensors, f"{path} is a safetensors file but no bank.")
        self.index.add(tensors["vectors"])
        self.texts = [tensors[f"text.{i}"] for i in range(len(self.index))]
        written = [int(name.removeprefix("keys.")) for name in tensors if name.startswith("keys.")]
        self.memories = {i: ExplicitMemory(tensors[f"keys.{i}"], tensors[f"values.{i}"]) for i in sorted(written)}
        return self


FORMAT = "mnemos-bank-1"
