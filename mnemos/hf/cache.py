"""The cache of a retention policy, for `model.generate(past_key_values=)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from transformers import PretrainedConfig

from mnemos.errors import InvalidType, expect, expect_kind
from mnemos.hf.layer import Decode, PolicyLayer, Prefill
from mnemos.hf.memory_cache import MemoryCache, load_saved, text_config
from mnemos.hf.rotary import Rotary
from mnemos.memory import KVMemory, Policy, from_json

Positions = Literal["original", "kept"]


class PolicyCache(MemoryCache):
    """A cache of keys and values that a retention policy keeps at its budget, for unmodified decoders of Hugging Face
    transformers whose layers are all full softmax attention (Llama, Mistral and Qwen without windows, ...).

        model.set_attn_implementation("mnemos")
        cache = PolicyCache(model.config, HeavyHitters(budget=512, recent=64))
        model.generate(**inputs, past_key_values=cache)

    Each row and head of keys keeps entries of its own; what is dropped is gone, and `nbytes` is what is held. Rows may
    be padded, on either side, as attention_mask says. Entries have the model's precision; what a policy notes of them
    has float32 at least.

    policy: one for all layers, or one a layer. Budgets count tokens, padding excluded.
    prefill: what happens to several tokens at once. "stream": exactly what would happen to them one by one, so that
    nothing depends on how a prompt is cut. "whole": all of them read all that came before, then each head is cut to
    its budget - what most published results mean, with the memory of the whole prompt for a moment; depends on the cut.
    ratio: instead of the policy's budget that share of the first prompt's tokens (of the longest row), in (0, 1];
    "whole" only.
    decode: what happens to single tokens after such a prompt. "hold": they keep to the budget too; "grow": they are all
    kept, only prompts are cut, "whole" only.
    positions: what rotary positions count. "original": all tokens, keys stay turned as the model turned them. "kept":
    the entries that a head keeps, in their order, so that no distance ever exceeds the budget (StreamingLLM, arXiv
    2309.17453); keys are turned back and turned again whenever something before them is dropped. For models whose
    rotary positions are known to be plain (`mnemos.hf.rotary`).

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
        positions: Positions = "original",
    ) -> None:
        text = text_config(config, "PolicyCache")
        number = text.num_hidden_layers
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
        expect(
            positions in ("original", "kept"), f'PolicyCache(positions=) is "original" or "kept"; got {positions!r}.'
        )
        rotary = Rotary.of(text, 'PolicyCache(positions="kept")') if positions == "kept" else None
        self.prefill, self.decode, self.positions = prefill, decode, positions
        super().__init__(text, [PolicyLayer(one, prefill, ratio, decode, rotary) for one in policies])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that is kept, and what the policies know of it, to one file; `PolicyCache.load` reads it back.
        Raises StateError if there is nothing yet, or if the file cannot be written."""
        return self._save(path, {"prefill": self.prefill, "decode": self.decode, "positions": self.positions}, {})

    @classmethod
    def load(cls, path: str | os.PathLike[str], config: PretrainedConfig, device: torch.device | str = "cpu") -> Self:
        """The cache that `save` wrote, for a model of the same shape. Raises StateError if the file is missing, cut
        short or no saved cache, or if the model has another number of layers or heads."""
        facts, states, beside = load_saved(path, text_config(config, "PolicyCache"), PolicyCache)
        memories = [from_json(str(dict(state.owner)["memory"])) for state in states]
        policies = [memory.retain for memory in memories if isinstance(memory, KVMemory)]
        options = facts["prefill"], None, facts["decode"], facts.get("positions", "original")
        cache = cls(config, policies, *options)  # pyright: ignore
        for layer, memory, state in zip(cache.memory_layers, memories, states, strict=True):
            layer.memory, layer.state, layer.seen = memory, state.to(device), int(beside["seen"][0])
            layer.filled = int((state["slot"] > 0).sum(-1).max())
        return cache


def _sequence(policy: object) -> Sequence[Policy]:
    if not isinstance(policy, Sequence):
        raise InvalidType(f"policy= takes a policy or a list of them, for example HeavyHitters(512); got {policy!r}.")
    return policy
