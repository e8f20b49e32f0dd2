"""A matrix memory on the CPU, token by token in compiled code that keeps its weights in the cache."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix, declines_unless_removal
from mnemos.execute.loop import Loop
from mnemos.execute.native import library
from mnemos.execute.request import Request
from mnemos.memory import DPLR, GD, Controls, Memory
from mnemos.state import State

REAL = {torch.float32: "float", torch.float64: "double"}
WIDEST = {torch.float32: 256, torch.float64: 128}
"""Key channels that recurrence.cpp has code for."""

EVERY = 256
"""Tokens between the weights that are kept for the backward pass; a multiple of SPAN in recurrence.cpp."""

ALONE = 2**21
"""Multiplications up to which starting a thread costs more than it saves."""

HEBBIAN, DELTA, REMOVAL = 0, 1, 2
RETAINED, AFTER, CHANNEL = 1, 2, 4
"""Its rules by number, and the bits of its flags, as `call` in recurrence.cpp reads them."""

VALUE, START = 2, 5
"""Places among the inputs: q, k, v, rate, decay, the first weights, and for a removal its two directions."""

DIRECTIONS = ("removal", "replacement")

Again = Callable[..., tuple[Tensor, Tensor]]
How = tuple[int, int]
"""Rule and flags."""


class Recurrence:
    """W_t = W_t-1 Diag(d_t) - r_t slope_t k_t^T as it stands, with slope_t = -v_t (Dot) or W k_t - v_t (L2), W at the
    gradient's point; with DPLR, less (W_t-1 a_t) b_t^T (removal a, replacement b).

    A token costs 3 to 5 multiplications for each number in W, a chunk of the same tokens done by matrix products about
    twice as many; a W of 64 x 64 stays in a core's nearest cache, and rows and heads are shared out among threads. The
    backward pass keeps W every 256 tokens and goes through the tokens in between again. Second derivatives go by the
    loop.
    """

    name = "compiled recurrence"
    summary = "token by token in C++ that keeps the weights in the cache, forwards and backwards; exact"

    def declines(self, memory: Any, request: Request) -> str | None:
        if request.device != "cpu":
            return f"it is for the CPU; the inputs are on {request.device}"
        removes = isinstance(memory, Memory) and isinstance(memory.retention, DPLR)
        reason = declines_unless_removal(memory) if removes else declines_unless_matrix(memory)
        if reason is not None:
            return reason
        if memory.objective.slope_kind == "nonlinear":
            return "the objective's gradient is neither constant nor the residual"
        if isinstance(memory.learner, GD) and memory.learner.momentum:
            return "it has no momentum"
        dtype = memory.state_dtype(request.dtype)
        if dtype not in REAL:
            return f"it has no code for states in {str(dtype).removeprefix('torch.')}"
        if request.key_dim > WIDEST[dtype]:
            return f"its keys are at most {WIDEST[dtype]} wide"
        if torch.compiler.is_compiling():
            return "torch.compile cannot see into it, and would cut its graph"
        compiled = library("recurrence", REAL[dtype])
        return compiled if isinstance(compiled, str) else None

    def flops(self, memory: Any, request: Request) -> float:
        a_token = {HEBBIAN: 6, DELTA: 8, REMOVAL: 10}[_rule(memory)] * request.key_dim * request.value_dim
        return float(request.batch * request.length * request.heads * a_token)

    def run(
        self,
        memory: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        state: State,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        assert isinstance(memory, Memory) and isinstance(memory.learner, GD)
        state.refuse_if_spent()
        start = state["matrix"]
        rate, decay = controls.get("rate"), controls.get("decay")
        if rate is None:
            rate = start.new_full(q.shape[:3], memory.learner.rate or 0.0)
        if decay is None:
            decay = start.new_ones(q.shape[:3])
        rule = _rule(memory)
        flags = (
            RETAINED * (memory.learner.anchor == "retained")
            + AFTER * (memory.read_timing == "after")
            + CHANNEL * (decay.ndim == 4)
        )
        how = rule, flags
        directions = [controls[name] for name in DIRECTIONS] if rule == REMOVAL else []
        inputs = [_plain(x, start.dtype) for x in (q, k, v, rate, decay, start, *directions)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            again = partial(_by_steps, memory, list(controls), state, lengths)
            out, end = _Recurrence.apply(again, how, lengths, *inputs)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            alone = q.shape[1] == 1 and inputs[START] is start and not torch.is_grad_enabled()
            end = start if alone else torch.empty_like(inputs[START])
            out, _ = _forward(how, lengths, inputs, end, keep=False)
            if alone:  # the state itself has moved on
                state.spend()
        return _plain(out, v.dtype), state.successor(matrix=end)


def _rule(memory: Memory) -> int:
    if memory.objective.slope_kind == "identity":
        return DELTA
    return REMOVAL if isinstance(memory.retention, DPLR) else HEBBIAN


class _Recurrence(torch.autograd.Function):
    """(q, k, v, rate, decay, first weights[, removal, replacement]) -> (outputs, last weights)."""

    @staticmethod
    def forward(ctx: Any, again: Again, how: How, lengths: Tensor | None, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        end = torch.empty_like(inputs[START])
        out, kept = _forward(how, lengths, inputs, end, keep=True)
        ctx.again, ctx.how = again, how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, lengths, kept)
        return out, end

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *inputs, lengths, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients are to be differentiated in turn, so PyTorch must see them made
            return None, None, None, *_gradients_again(ctx.again, inputs, grads, ctx.needs_input_grad[3:])
        out, end = grads
        out = torch.zeros_like(inputs[VALUE]) if out is None else out.contiguous()
        end = None if end is None else end.contiguous()
        made = [torch.zeros_like(x) for x in inputs]
        if out is not grads[0]:  # ours, and each of its numbers is read before that place's gradient is known
            made[VALUE] = out
        _call("backward", ctx.how, lengths, inputs, EVERY, kept, [out, end, *made])
        if lengths is not None and out is made[VALUE]:
            made[VALUE] = out.masked_fill(_behind(out, lengths), 0.0)
        return None, None, None, *made


def _forward(
    how: How, lengths: Tensor | None, inputs: Sequence[Tensor], end: Tensor, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Outputs, and for a backward pass the weights before every 256th token. The last weights go into `end`, which may
    be the first ones."""
    value, start = inputs[VALUE], inputs[START]
    batch, time, heads, _ = value.shape
    out = torch.empty_like(value) if lengths is None else torch.zeros_like(value)
    kept = start.new_empty(batch, heads, -(-time // EVERY), *start.shape[2:]) if keep else None
    _call("forward", how, lengths, inputs, EVERY if keep else 0, kept, [out, end])
    return out, kept


def _call(
    name: str,
    how: How,
    lengths: Tensor | None,
    inputs: Sequence[Tensor],
    every: int,
    kept: Tensor | None,
    results: Sequence[Tensor | None],
) -> None:
    query, value, start = inputs[0], inputs[VALUE], inputs[START]
    batch, time, heads, key_dim = query.shape
    lengths = None if lengths is None else lengths.to(torch.int64).contiguous()
    threads = torch.get_num_threads() if time * start.numel() > ALONE else 1
    none = () if len(inputs) == 8 else (None, None)  # in place of a removal's directions, and of their gradients
    arrays = [0 if x is None else x.data_ptr() for x in (lengths, *inputs, *none, kept, *results, *none)]
    numbers = array("q", (batch, time, heads, key_dim, value.shape[-1], every, *how, threads, *arrays))
    refused = _function(name, start.dtype)(numbers.buffer_info()[0])
    assert not refused, f"no code for keys of {key_dim} channels"


@functools.cache
def _function(name: str, dtype: torch.dtype) -> Any:
    compiled = library("recurrence", REAL[dtype])
    assert not isinstance(compiled, str)
    function = getattr(compiled, name)
    function.argtypes = [ctypes.c_void_p]
    return function


def _behind(x: Tensor, lengths: Tensor) -> Tensor:
    """True at tokens of x (B, T, H, V) that are behind their row's end."""
    return (torch.arange(x.shape[1], device=x.device) >= lengths[:, None])[..., None, None]


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x if x.dtype == dtype else x.to(dtype)).contiguous()  # `to` takes a microsecond to do nothing


def _by_steps(
    memory: Memory,
    names: list[str],
    state: State,
    lengths: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    decay: Tensor,
    start: Tensor,
    *directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same by PyTorch's own operations, which it can differentiate as often as it likes."""
    given = {"rate": rate, "decay": decay, **dict(zip(DIRECTIONS, directions, strict=False))}
    controls = {name: given[name] for name in names}
    out, after = Loop().run(memory, q, k, v, controls, state.successor(matrix=start), lengths)
    return out, after["matrix"]


def _gradients_again(
    again: Again, inputs: Sequence[Tensor], grads: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    made = again(*inputs)
    reached = [(x, grad) for x, grad in zip(made, grads, strict=True) if grad is not None]
    asked = [x for x, want in zip(inputs, wanted, strict=True) if want]
    found = torch.autograd.grad(
        [x for x, _ in reached], asked, [grad for _, grad in reached], create_graph=True, allow_unused=True
    )
    given = iter(found)
    return [next(given) if want else None for want in wanted]
