"""Law: documents packed into one row are as good as separate runs, and padding is inert, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import (
    HEADS,
    SOME,
    WIDTH,
    Inputs,
    assert_close,
    assert_states_close,
    each,
    each_model,
    make_model,
    some_tokens,
)
from torch import Tensor

import mnemos as mn
from mnemos.memory import AnyMemory
from mnemos.state import State

Run = Callable[[int, Tensor, State], tuple[Tensor, State]]
"""(row, indices of its tokens, a state of one row) -> outputs (1, tokens, ...), the state after them"""


def separately(run: Run, start: State, fresh: State, reset: Tensor, mask: Tensor) -> list[tuple[Tensor, State]]:
    """Each row by itself, each document by itself, padding left out. Outputs of padding are zero."""
    results = []
    for row in range(reset.shape[0]):
        state = start.select(torch.tensor([row]))
        pieces: list[list[int]] = [[]]
        for t in range(reset.shape[1]):
            if reset[row, t]:
                pieces.append([])
            if mask[row, t]:
                pieces[-1].append(t)
        written: dict[int, Tensor] = {}
        for n, piece in enumerate(pieces):
            if n:
                state = fresh
            if piece:
                out, state = run(row, torch.tensor(piece), state)
                written |= {t: out[0, i] for i, t in enumerate(piece)}
        shape = next(iter(written.values())) if written else None
        out = [
            written[t] if t in written else torch.zeros_like(shape) if shape is not None else None
            for t in range(reset.shape[1])
        ]
        results.append((torch.stack(out) if shape is not None else torch.zeros(()), state))  # pyright: ignore
    return results


def layouts(time: int) -> dict[str, tuple[Tensor, Tensor]]:
    """(reset, mask) for three rows."""
    none, every = torch.zeros(3, time, dtype=torch.bool), torch.ones(3, time, dtype=torch.bool)
    left, right, middle, whole_row, first, everywhere = (x.clone() for x in (every, every, every, every, none, none))
    left[0, :5], left[1, :1] = False, False
    right[0, 3:], right[2, -1:] = False, False
    middle[0, 4:9], middle[1, ::2] = False, False
    whole_row[1] = False
    first[:, 0] = True
    everywhere[0] = True
    packed = none.clone()
    packed[0, 4], packed[1, [2, 3, 11]], packed[2, [0, time - 1]] = True, True, True
    return {
        "padding on the left": (none, left),
        "padding on the right": (none, right),
        "padding in the middle": (none, middle),
        "a row of nothing but padding": (none, whole_row),
        "nothing but padding": (none, ~every),
        "a reset at the first token": (first, every),
        "documents": (packed, every),
        "a document a token": (everywhere, every),
        "documents and padding": (packed, left & middle & right),
        "at random": (torch.rand(3, time) < 0.2, torch.rand(3, time) < 0.7),
    }


LAYOUTS = pytest.mark.parametrize("layout", list(layouts(13)))


@each(SOME)
@LAYOUTS
def test_memory(memory: AnyMemory, layout: str) -> None:
    reset, mask = layouts(13)[layout]
    inputs = Inputs(memory, 13, batch=3).require_grad()
    start = inputs.lived()
    fresh = inputs.init().select(torch.tensor([0]))
    per_token = [inputs.q, inputs.k, inputs.v, *inputs.controls.values()]

    def run(row: int, piece: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v, *controls = (x[row : row + 1, piece] for x in per_token)
        return mn.run(memory, q, k, v, dict(zip(inputs.controls, controls, strict=True)), state=state)

    expected = separately(run, start, fresh, reset, mask)
    out, after = mn.run(memory, *inputs.cut(0, 13), state=start, reset=reset, mask=mask)
    assert out.shape == (3, 13, 2, inputs.value_dim)
    assert not out[~mask].any()
    for row, (by_itself, last) in enumerate(expected):
        if mask[row].any():
            assert_close(out[row], by_itself, f"row {row}")
        assert_states_close(after.select(torch.tensor([row])), last, f"row {row}: state")

    if mask.any() and memory.differentiable:
        loss = out.square().sum()
        separate = sum((by_itself.square().sum() for by_itself, _ in expected), torch.zeros(()))
        found = torch.autograd.grad(loss, per_token, allow_unused=True)
        wanted = torch.autograd.grad(separate, per_token, allow_unused=True)
        for one, other in zip(found, wanted, strict=True):
            if one is not None and other is not None:
                assert_close(one, other, "gradient", 1e-7)
                assert not one[~mask].any(), "a gradient reached padding"


@each_model()
@pytest.mark.parametrize("layout", ["documents and padding", "at random", "nothing but padding"])
def test_layer(spec: mn.ModelSpec, layout: str) -> None:
    reset, mask = layouts(21)[layout]
    layer = spec.pattern[0].build(WIDTH, HEADS).double()
    with torch.no_grad():
        _, start = layer(torch.randn(3, 7, WIDTH, dtype=torch.float64))
        x = torch.randn(3, 21, WIDTH, dtype=torch.float64)
        y, after = layer(x, start, reset=reset, mask=mask)
        expected = separately(
            lambda row, piece, state: layer(x[row : row + 1, piece], state.clone()),
            start,
            layer.init_state(1),
            reset,
            mask,
        )
    assert y.shape == x.shape and not y[~mask].any()
    for row, (by_itself, last) in enumerate(expected):
        if mask[row].any():
            assert_close(y[row], by_itself, f"row {row}")
        assert_states_close(after.select(torch.tensor([row])), last, f"row {row}: state")


@each_model()
@LAYOUTS
def test_model(spec: mn.ModelSpec, layout: str) -> None:
    reset, mask = layouts(17)[layout]
    model = make_model(spec)
    with torch.no_grad():
        _, start = model(some_tokens(3, 9))
        tokens = some_tokens(3, 17)
        logits, after = model(tokens, start, reset=reset, mask=mask)
        expected = separately(
            lambda row, piece, state: model(tokens[row : row + 1, piece], state.clone()),
            start,
            model.init_state(1),
            reset,
            mask,
        )
    assert logits.shape == (3, 17, spec.vocabulary) and not logits[~mask].any()
    for row, (by_itself, last) in enumerate(expected):
        if mask[row].any():
            assert_close(logits[row], by_itself, f"row {row}")
        assert_states_close(after.select(torch.tensor([row])), last, f"row {row}: state")


SHORT_SEGMENTS = ["transformer_xl-short", "lamemo-short", "rmt-gated_deltanet", "armt-delta", "memoria-short"]


@each_model(["titans_mac", "gated_deltanet", "transformer", *SHORT_SEGMENTS])
def test_packed_documents_train_the_model_alike(spec: mn.ModelSpec) -> None:
    model, tokens = make_model(spec), some_tokens(1, 20)
    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[0, [0, 7, 15]] = True
    packed = model(tokens, reset=reset)[0]
    apart = torch.cat([model(piece)[0] for piece in tokens.split([7, 8, 5], 1)], 1)
    parameters = list(model.parameters())
    one = torch.autograd.grad(packed.square().sum(), parameters)
    other = torch.autograd.grad(apart.square().sum(), parameters)
    for found, wanted in zip(one, other, strict=True):
        assert_close(found, wanted, "gradient", 1e-8)


@each(SOME)
def test_a_single_token_with_flags(memory: AnyMemory) -> None:
    """Streaming with gradients off, one token at a time, some rows reset and some held back."""
    inputs = Inputs(memory, 6, batch=3)
    reset, mask = torch.rand(3, 6) < 0.3, torch.rand(3, 6) < 0.7
    start = inputs.lived()
    whole, last = mn.run(memory, *inputs.cut(0, 6), state=start.clone(), reset=reset, mask=mask)
    state, outputs = start, []
    with torch.no_grad():
        for t in range(6):
            here = slice(t, t + 1)
            out, state = mn.run(memory, *inputs.cut(t, t + 1), state=state, reset=reset[:, here], mask=mask[:, here])
            outputs.append(out)
    assert_close(torch.cat(outputs, 1), whole, "streamed with flags")
    assert_states_close(state, last)
