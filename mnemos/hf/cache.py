"""The cache that goes into `model.generate(past_key_values=)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache

from mnemos.errors import InvalidType, StateError, expect, expect_kind
from mnemos.hf.layer import Decode, PolicyLayer, Prefill
from mnemos.memory import KVMemory, Policy, from_json
from mnemos.state import State, load_state


class PolicyCache(Cache):
    """A cache of keys and values that a retention policy keeps at its budget, for unmodified decoders of Hugging Face
    transformers whose layers are all full softmax attention (Llama, Mistral and Qwen without windows, ...).

        model.set_attn_implementation("mnemos")
        cache = PolicyCache(model.config, HeavyHitters(budget=512, recent=64))
        model.generate(**inputs, past_key_values=cache)

    Each row and head of keys keeps entries of its own; what is dropped is gone, and `nbytes` is what is held. Keys stay
    turned to the positions that the model gave them. Rows may be padded, on either side, as attention_mask says.

    policy: one for all layers, or one a layer. Budgets count tokens, padding excluded.
    prefill: what happens to several tokens at once. "stream": exactly what would happen to them one by one, so that
    nothing depends on how a prompt is cut. "whole": all of them read all that came before, then each head is cut to
    its budget - what most published results mean, with the memory of the whole prompt for a moment; depends on the cut.
    ratio: instead of the policy's budget that share of the first prompt's tokens (of the longest row), in (0, 1];
    "whole" only.
    decode: what happens to single tokens after such a prompt. "hold": they keep to the budget too; "grow": they are all
    kept, only prompts are cut, "whole" only.

    Raises InvalidValue for a model with other layers than full attention and for options that cannot be, InvalidType
    for anything but policies. Used with a model whose attention is not "mnemos" it raises StateError.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        policy: Policy | Sequence[Policy],
        prefill: Prefill = "stream",
        ratio: float | None = None,
        decode: Decode = "hold",
    ) -> None:
        self.config = _text_config(config)
        number = self.config.num_hidden_layers
        policies = [policy] * number if isinstance(policy, Policy) else list(_sequence(policy))
        for one in policies:
            expect_kind(one, Policy, "policy", "HeavyHitters(budget=512)")
        expect(len(policies) == number, f"policy= has {len(policies)} policies; the model has {number} layers.")
        expect(prefill in ("stream", "whole"), f'PolicyCache(prefill=) is "stream" or "whole"; got {prefill!r}.')
        expect(ratio is None or 0 < ratio <= 1, f"PolicyCache(ratio=) must lie in (0, 1]; got {ratio}.")
        expect(
            ratio is None or prefill == "whole",
            'PolicyCache(ratio=) is a share of a prompt that is read whole: pass prefill="whole" too.',
        )
        expect(decode in ("hold", "grow"), f'PolicyCache(decode=) is "hold" or "grow"; got {decode!r}.')
        expect(
            decode == "hold" or prefill == "whole",
            'PolicyCache(decode="grow") never drops anything but from a prompt that is read whole: pass '
            'prefill="whole" too.',
        )
        self.prefill, self.decode = prefill, decode
        super().__init__(layers=[PolicyLayer(one, prefill, ratio, decode) for one in policies])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's layers."""
        used = self.config._attn_implementation
        if used != "mnemos":
            raise StateError(
                f"the model's attention is {used!r}, which cannot tell a policy what was looked at. "
                'Write model.set_attn_implementation("mnemos") first.'
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(layer.nbytes for layer in self._policy_layers)

    @property
    def _policy_layers(self) -> list[PolicyLayer]:
        return [layer for layer in self.layers if isinstance(layer, PolicyLayer)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that is kept, and what the policies know of it, to one file; `PolicyCache.load` reads it back.
        Raises StateError if there is nothing yet, or if the file cannot be written."""
        states = {f"layer {i}": layer.state for i, layer in enumerate(self._policy_layers) if layer.state is not None}
        if len(states) < len(self.layers):
            raise StateError("the cache has seen nothing yet: save it after the model has read something.")
        one = next(iter(states.values()))
        seen = torch.full((one.batch,), self.get_seq_length())
        owner = (("cache", "PolicyCache"), ("prefill", self.prefill), ("decode", self.decode))
        return State(owner, {"seen": seen, **states}, {"seen": seen[:1]}).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: PretrainedConfig, device: torch.device | str = "cpu") -> Self:
        """The cache that `save` wrote, for a model of the same shape. Raises StateError if the file is missing, cut
        short or no saved cache, or if the model has another number of layers or heads."""
        saved, text = load_state(path), _text_config(config)
        facts = dict(saved.owner)
        if facts.get("cache") != "PolicyCache":
            raise StateError(f"{path} is a saved state, but not of a PolicyCache.")
        states = [saved.child(name) for name in saved.entries if name != "seen"]
        heads = text.num_key_value_heads
        found = (len(states), dict(states[0].owner)["heads"])
        if found != (text.num_hidden_layers, heads):
            raise StateError(
                f"{path} has {found[0]} layers of {found[1]} heads of keys; the model has {text.num_hidden_layers} of "
                f"{heads}."
            )
        memories = [from_json(str(dict(state.owner)["memory"])) for state in states]
        policies = [memory.retain for memory in memories if isinstance(memory, KVMemory)]
        cache = cls(config, policies, facts["prefill"], None, facts["decode"])  # pyright: ignore
        for layer, memory, state in zip(cache._policy_layers, memories, states, strict=True):
            layer.memory, layer.state, layer.seen = memory, state.to(device), int(saved["seen"][0])
            layer.filled = int((state["slot"] > 0).sum(-1).max())
        return cache


def _text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a model's configuration that its decoder uses. Raises unless all layers are full attention."""
    if not isinstance(config, PretrainedConfig):
        raise InvalidType(f"config= takes a model's configuration, model.config; got {type(config).__name__}.")
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if getattr(text, "sliding_window", None) is not None:
        kinds |= {"sliding_attention"}
    expect(
        kinds == {"full_attention"},
        f"a PolicyCache is for models whose layers are all full attention; {type(config).__name__} has "
        f"{', '.join(sorted(kinds - {'full_attention'}))} layers.",
    )
    return text


def _sequence(policy: object) -> Sequence[Policy]:
    if not isinstance(policy, Sequence):
        raise InvalidType(f"policy= takes a policy or a list of them, for example HeavyHitters(512); got {policy!r}.")
    return policy
