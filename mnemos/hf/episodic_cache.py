"""The cache of an episodic memory, for `model.generate(past_key_values=)`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PretrainedConfig

from mnemos.errors import expect, expect_kind
from mnemos.hf.episodic_layer import EpisodicLayer
from mnemos.hf.memory_cache import MemoryCache, load_saved, text_config
from mnemos.hf.rotary import Rotary
from mnemos.memory import EpisodicMemory, from_json


class EpisodicCache(MemoryCache):
    """A cache that keeps everything in episodes, of which each query reads the first tokens, the near past and those
    episodes that it finds (EM-LLM, arXiv 2407.09450; InfLLM, arXiv 2402.04617), for unmodified decoders of Hugging
    Face transformers whose layers are all full softmax attention (Llama, Mistral and Qwen without windows, ...).

        model.set_attn_implementation("mnemos")
        memory = EpisodicMemory(Surprise(), Representatives(4), Recall(1024, 512, "tokens"), window=1024, sinks=64)
        cache = EpisodicCache(model.config, memory)
        model.generate(**inputs, past_key_values=cache)

    Everything is decided token by token, so that nothing depends on how a prompt is cut, and each layer finds episodes
    of its own. Rows may be padded, on either side, as attention_mask says.

    memory: what is kept and found, `together`, with a window. With rotary=None keys stay turned to their original
    positions, and a memory that finds everything is full attention. With rotary=, which must be the base of the model's
    own rotary positions, keys are turned back, and what is further away than the window is read as if it were `window`
    tokens ago, as the papers have it (`mnemos.hf.rotary` lists the models). Surprise(of="keys") cuts where keys change,
    in each layer by itself; Surprise(of="control") where the model itself is surprised, as EM-LLM does, and needs
    `with own_surprise(model):` around the model's calls. `scale` is the model's.
    device: where entries are kept and read, None for the model's: on "cpu" they take no room beside a model on an
    accelerator, and only queries, new entries and answers travel.

    Unlike the papers, every token of a prompt finds episodes by itself, where they find once for a block of 512.

    Raises InvalidValue for a model with other layers than full attention, and for a memory that cannot stand in for
    attention, InvalidType for anything but an EpisodicMemory. Used with a model whose attention is not "mnemos" it
    raises StateError.
    """

    def __init__(
        self, config: PretrainedConfig, memory: EpisodicMemory, device: torch.device | str | None = None
    ) -> None:
        text = text_config(config, "EpisodicCache")
        expect_kind(memory, EpisodicMemory, "memory", "EpisodicMemory(Every(32), window=256, sinks=4)")
        expect(
            memory.together and memory.window >= 1,
            "EpisodicCache(memory=) stands in for attention, in which a token reads itself and one softmax goes over "
            f"all: use together=True and window=256; got together={memory.together}, window={memory.window}.",
        )
        own = [control.name for control in memory.controls if control.name != "surprise"]
        expect(
            not own,
            f"EpisodicCache(memory=): a model has nothing to give as {', '.join(map(repr, own))}, which "
            f"{memory.summary} asks for; use MeanKey() or Representatives(4).",
        )
        expect(
            memory.scale is None,
            f"EpisodicCache(memory=): the scale of the scores is the model's; leave scale=None, got {memory.scale}.",
        )
        rotary = None if memory.rotary is None else Rotary.of(text, "EpisodicMemory(rotary=)")
        expect(
            rotary is None or rotary.base == memory.rotary,
            f"EpisodicMemory(rotary=) must be the base of the model's rotary positions, {rotary and rotary.base}; got "
            f"{memory.rotary}.",
        )
        self.memory = memory
        self.expected: Tensor | None = None  # logits for the next token, (B, vocabulary)
        super().__init__(text, [EpisodicLayer(memory, rotary, device) for _ in range(text.num_hidden_layers)])

    @property
    def surprised(self) -> bool:
        """Whether its episodes begin where the model is surprised."""
        return bool(self.memory.boundary.controls)

    def tell(self, surprise: Tensor) -> None:
        """The surprise (B, T) of the tokens that the model reads next, padding included, for all layers."""
        for layer in self.memory_layers:
            layer.surprise = surprise

    def draft(self) -> EpisodicCache:
        """A cache that goes on from this one and leaves it as it is."""
        other = EpisodicCache.__new__(EpisodicCache)
        other.memory, other.expected = self.memory, None
        MemoryCache.__init__(other, self.config, [layer.draft() for layer in self.memory_layers])
        return other

    def reset(self) -> None:
        """Forget everything."""
        self.expected = None
        super().reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows with these indices (beam search)."""
        self._select_expected(beam_idx)
        super().reorder_cache(beam_idx)  # pyright: ignore[reportArgumentType]

    def batch_select_indices(self, indices: Tensor) -> None:
        """The rows with these indices, repeats allowed."""
        self._select_expected(indices)
        super().batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        if self.expected is not None:
            self.expected = self.expected.repeat_interleave(repeats, 0)
        super().batch_repeat_interleave(repeats)

    def _select_expected(self, rows: Tensor) -> None:
        if self.expected is not None:
            self.expected = self.expected.index_select(0, rows.to(self.expected.device))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that is kept to one file; `EpisodicCache.load` reads it back. Raises StateError if there is nothing
        yet, or if the file cannot be written."""
        beside = {} if self.expected is None else {"expected": self.expected}
        return self._save(path, {"memory": self.memory.to_json()}, beside)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], config: PretrainedConfig, device: torch.device | str | None = None
    ) -> Self:
        """The cache that `save` wrote, for a model of the same shape, its entries on `device`. Raises StateError
        if the file is missing, cut short or no saved cache, or if the model has another number of layers or heads."""
        facts, states, beside = load_saved(path, text_config(config, "EpisodicCache"), EpisodicCache)
        memory = from_json(facts["memory"])
        assert isinstance(memory, EpisodicMemory)
        cache = cls(config, memory, device)
        for layer, state in zip(cache.memory_layers, states, strict=True):
            layer.memory = from_json(str(dict(state.owner)["memory"]))
            layer.state, layer.seen = state if device is None else state.to(device), int(beside["seen"][0])
        cache.expected = beside.get("expected")
        return cache
