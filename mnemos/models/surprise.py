"""Reading with the model's own surprise: what no layer can see, given to its memories."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import expect
from mnemos.layers import given
from mnemos.models.language_model import LanguageModel
from mnemos.state import State


def read_with_surprise(
    model: LanguageModel,
    tokens: Tensor,
    state: State | None = None,
    *,
    before: Tensor | None = None,
    block: int = 512,
) -> tuple[Tensor, State]:
    """Logits (B, T, vocabulary) and the state after tokens (B, T), each of which is read with -log p(token | those
    before it) given as the control "surprise" (EM-LLM, arXiv 2407.09450).

    For memories whose boundary is `Surprise(of="control")` in layers that take it by `Given("surprise")`, such as
    zoo.em_llm(given=True). The tokens are read in blocks, each twice: first without surprise, to know what the model
    expected, and again with it. A block of one token is read once.

    state: to go on from. before: the logits (B, vocabulary) for the first token, those that came with the state; with
    none, its surprise is 0. Raises InvalidValue for a block that cannot be, and what the model raises.
    """
    expect(isinstance(block, int) and block >= 1, f"read_with_surprise(block=) is at least 1; got {block!r}.")
    now = model.init_state(len(tokens)) if state is None else state
    outputs = []
    for piece in tokens.split(block, 1):
        surprise = _surprise(before, piece[:, :1], model)
        if piece.shape[1] > 1:
            with torch.no_grad(), given(surprise=torch.zeros(piece.shape, device=surprise.device)):
                draft, _ = model(piece, now.clone())
            further = F.cross_entropy(draft[:, :-1].transpose(1, 2), piece[:, 1:].to(draft.device), reduction="none")
            surprise = torch.cat([surprise, further], 1)
        with given(surprise=surprise):
            logits, now = model(piece, now)
        before = logits[:, -1]
        outputs.append(logits)
    empty = model.embedding.weight.new_zeros(*tokens.shape, model.spec.vocabulary)
    return torch.cat(outputs, 1) if outputs and tokens.shape[1] else empty, now


def _surprise(before: Tensor | None, first: Tensor, model: LanguageModel) -> Tensor:
    """(B, 1)"""
    if before is None:
        return model.embedding.weight.new_zeros(first.shape)
    return F.cross_entropy(before.detach(), first[:, 0].to(before.device), reduction="none")[:, None]
