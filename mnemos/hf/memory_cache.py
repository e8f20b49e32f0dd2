"""What our caches share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache

from mnemos.errors import InvalidType, StateError, expect
from mnemos.hf.cache_layer import MemoryCacheLayer
from mnemos.state import State, load_state


class MemoryCache(Cache):
    """A cache whose layers are memories, for unmodified decoders of Hugging Face transformers whose layers are all full
    softmax attention."""

    def __init__(self, config: PretrainedConfig, layers: list[Any]) -> None:
        self.config = config
        super().__init__(layers=layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's layers."""
        used = self.config._attn_implementation
        if used != "mnemos":
            raise StateError(
                f"the model's attention is {used!r}, which cannot ask a memory. "
                'Write model.set_attn_implementation("mnemos") first.'
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    @property
    def memory_layers(self) -> list[Any]:
        """All layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, MemoryCacheLayer)]

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self.memory_layers)

    def _save(self, path: str | os.PathLike[str], facts: dict[str, str], beside: dict[str, Tensor]) -> Path:
        states = {f"layer {i}": layer.state for i, layer in enumerate(self.memory_layers) if layer.state is not None}
        if len(states) < len(self.layers):
            raise StateError("the cache has seen nothing yet: save it after the model has read something.")
        seen = torch.full((next(iter(states.values())).batch,), self.get_seq_length())
        owner = (("cache", type(self).__name__), *facts.items())
        own = {"seen": seen, **beside}
        return State(owner, own | states, {name: x[:1] for name, x in own.items()}).save(path)


def load_saved(
    path: str | os.PathLike[str], config: PretrainedConfig, kind: type[MemoryCache]
) -> tuple[dict[str, str], list[State], dict[str, Tensor]]:
    """What `_save` wrote: the facts, the layers' states, and the tensors beside them, "seen" the tokens seen. Raises
    StateError if the file is missing, cut short or no such cache, or if the model has another number of layers or
    heads."""
    saved = load_state(path)
    facts = {name: str(fact) for name, fact in saved.owner}
    if facts.get("cache") != kind.__name__:
        raise StateError(f"{path} is a saved state, but not of {article(kind.__name__)}.")
    states = [saved.child(name) for name, entry in saved.entries.items() if isinstance(entry, State)]
    found = (len(states), dict(states[0].owner)["heads"])
    if found != (config.num_hidden_layers, config.num_key_value_heads):
        raise StateError(
            f"{path} has {found[0]} layers of {found[1]} heads of keys; the model has {config.num_hidden_layers} of "
            f"{config.num_key_value_heads}."
        )
    return facts, states, {name: entry for name, entry in saved.entries.items() if isinstance(entry, Tensor)}


def text_config(config: PretrainedConfig, kind: str) -> PretrainedConfig:
    """The part of a model's configuration that its decoder uses. Raises unless all layers are full attention."""
    if not isinstance(config, PretrainedConfig):
        raise InvalidType(f"config= takes a model's configuration, model.config; got {type(config).__name__}.")
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if getattr(text, "sliding_window", None) is not None:
        kinds |= {"sliding_attention"}
    expect(
        kinds == {"full_attention"},
        f"{article(kind)} is for models whose layers are all full attention; {type(config).__name__} has "
        f"{', '.join(sorted(kinds - {'full_attention'}))} layers.",
    )
    return text


def article(kind: str) -> str:
    """The name of a class with its article."""
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"
