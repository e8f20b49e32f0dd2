"""The model's own surprise, for caches whose episodes begin where it is large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnemos.errors import InvalidType, InvalidValue
from mnemos.hf.episodic_cache import EpisodicCache


@contextmanager
def own_surprise(model: nn.Module) -> Iterator[None]:
    """Inside, all that `model` reads into an `EpisodicCache` of `Surprise(of="control")` comes with its surprise,
    -log p(token | those before it), as EM-LLM (arXiv 2407.09450) has it:

        with own_surprise(model):
            model.generate(**inputs, past_key_values=cache)

    A single token's is known from the logits before it. Several tokens at once are read twice, first without
    surprise, to know what the model expected, and again with it; so logits depend a little on how a prompt is cut, and
    those of the first reading take (B, T, vocabulary) numbers: generate(prefill_chunk_size=512) bounds both. The first
    token of all has no surprise.

    Raises InvalidType for anything but a module; a call in it raises InvalidValue where the model is given embeddings
    instead of tokens.
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(f"own_surprise takes the model that reads; got {type(model).__name__}.")
    watcher = _Watcher()
    hooks = [
        model.register_forward_pre_hook(watcher.before, with_kwargs=True),
        model.register_forward_hook(watcher.after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Watcher:
    """What happens around a call of the model."""

    def __init__(self) -> None:
        self.drafting = False
        self.last: Tensor | None = None  # the logits at each row's last real token, from the first reading

    def before(self, model: nn.Module, given: tuple[Any, ...], further: dict[str, Any]) -> None:
        cache = further.get("past_key_values")
        if self.drafting or not isinstance(cache, EpisodicCache) or not cache.surprised:
            return
        tokens = further.get("input_ids", given[0] if given else None)
        if not isinstance(tokens, Tensor):
            raise InvalidValue("a model's surprise is that of tokens: call it with input_ids=, not with embeddings.")
        real = cache.memory_layers[0].real_tokens(further.get("attention_mask"), tokens.shape[1])
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real.to(tokens.device)
        place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        last = torch.where(real, place, -1).cummax(1).values  # the last real token up to each place
        previous = F.pad(last[:, :-1], (1, 0), value=-1)
        surprise = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        if cache.expected is not None:
            at_first = -torch.log_softmax(cache.expected.float(), -1).gather(1, tokens)
            surprise = torch.where(previous < 0, at_first, surprise)
        self.last = cache.expected
        if tokens.shape[1] > 1:
            logits = self._draft(model, given, further, cache, surprise)
            shown = logits.take_along_dim(previous.clamp(min=0)[..., None], 1).float()
            within = F.cross_entropy(shown.transpose(1, 2), tokens.to(logits.device), reduction="none")
            surprise = torch.where(previous >= 0, within.to(surprise.device), surprise)
            ending = logits.take_along_dim(last[:, -1:, None].clamp(min=0), 1)[:, 0]
            nothing = torch.zeros_like(ending) if self.last is None else self.last
            self.last = torch.where(last[:, -1:] >= 0, ending, nothing)
        cache.tell(surprise)

    def _draft(
        self, model: nn.Module, given: tuple[Any, ...], further: dict[str, Any], cache: EpisodicCache, like: Tensor
    ) -> Tensor:
        draft = cache.draft()
        draft.tell(torch.zeros_like(like))
        self.drafting = True
        try:
            with torch.no_grad():
                options = {"past_key_values": draft, "logits_to_keep": 0, "return_dict": True}
                return model(*given, **further | options).logits
        finally:
            self.drafting = False

    def after(self, model: nn.Module, given: tuple[Any, ...], further: dict[str, Any], output: Any) -> None:
        cache = further.get("past_key_values")
        if self.drafting or not isinstance(cache, EpisodicCache) or not cache.surprised:
            return
        logits = (output.logits if hasattr(output, "logits") else output[0])[:, -1].detach()
        mask = further.get("attention_mask")
        if mask is not None and self.last is not None:  # a row that ends with padding
            ends = mask[:, cache.get_seq_length() - 1 : cache.get_seq_length()].bool()
            logits = torch.where(ends, logits, self.last)
        cache.expected, self.last = logits, None
