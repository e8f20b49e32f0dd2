"""Bad input is named before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, StateError, expect
from mnemos.memory.control import Control, Controls
from mnemos.state import Owner, State, describe_owner, expect_state

if TYPE_CHECKING:
    from mnemos.memory.base import AnyMemory


def check_sizes(batch: int, heads: int, key_dim: int, value_dim: int) -> None:
    """Raises unless these are whole numbers in range."""
    for name, size in (("batch", batch), ("heads", heads), ("key_dim", key_dim), ("value_dim", value_dim)):
        if not isinstance(size, int):
            raise InvalidType(f"init({name}=) is a whole number; got {size!r}.")
        expect(size >= (0 if name == "batch" else 1), f"init({name}=) is too small: {size}.")


def check_owner(state: State, declaration: str) -> None:
    """Raises StateError unless `state` was made by the memory with this JSON form."""
    if dict(state.owner).get("memory") != declaration:
        own: Owner = (("memory", declaration),)
        raise StateError(
            f"this state belongs to another memory: it was made with {describe_owner(state.owner, own)}; "
            f"here stands {describe_owner(own, state.owner)}."
        )


def check_finite(name: str, x: Tensor) -> None:
    """Raises InvalidValue if `x` holds NaN or infinity. Skipped inside compiled code, which cannot look at values."""
    if torch.compiler.is_compiling():
        return
    # One pass without a copy. A sum of finite numbers can overflow, hence the second look.
    if bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all()):
        return
    where = (~torch.isfinite(x)).nonzero()[0].tolist()
    raise InvalidValue(f"{name} holds NaN or infinity, first at index {where} of shape {tuple(x.shape)}.")


def check_inputs(memory: AnyMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> None:
    """Raises unless q, k (B, T, H, K), v (B, T, H, V) and the controls are what `memory` can run on.

    A memory of entries may have fewer heads in k and v than in q (grouped heads). A memory of several pairs a token has
    that many times the channels in k and v.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise InvalidType(f"{name} must be a tensor; got {type(x).__name__}.")
        if not x.is_floating_point():
            raise InvalidType(f"{name} must be floating point; got {x.dtype}.")
        if x.ndim != 4:
            last = "value_dim" if name == "v" else "key_dim"
            raise InvalidValue(f"{name} must be (batch, time, heads, {last}); got shape {tuple(x.shape)}.")
    if q.shape[-1] * memory.pairs != k.shape[-1]:
        raise InvalidValue(
            f"q and k must share key_dim; got {q.shape[-1]} and {k.shape[-1]}."
            if memory.pairs == 1
            else f"k must hold {memory.pairs} keys a token, {memory.pairs} * {q.shape[-1]} channels; got {k.shape[-1]}."
        )
    if v.shape[-1] % memory.pairs:
        raise InvalidValue(f"v must hold {memory.pairs} values a token of equal width; got {v.shape[-1]} channels.")
    if k.shape[:3] != v.shape[:3]:
        raise InvalidValue(
            f"k and v must share (batch, time, heads); got {tuple(k.shape[:3])} and {tuple(v.shape[:3])}."
        )
    if q.shape[:2] != k.shape[:2]:
        raise InvalidValue(f"q and k must share (batch, time); got {tuple(q.shape[:2])} and {tuple(k.shape[:2])}.")
    grouped = memory.grouped
    if q.shape[2] != k.shape[2] and not (grouped and k.shape[2] and q.shape[2] % k.shape[2] == 0):
        advice = "a multiple of k's heads (grouped heads)" if grouped else "the same number of heads as k"
        raise InvalidValue(f"q must have {advice}; got {q.shape[2]} and {k.shape[2]}.")
    for name, x in (("k", k), ("v", v), *controls.items()):
        if x.device != q.device:
            raise InvalidValue(f"all inputs must be on one device; q is on {q.device} and {name} on {x.device}.")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise InvalidType(f"q, k and v must share a dtype; q is {q.dtype} and {name} is {x.dtype}.")
    value_dim = v.shape[3] // memory.pairs
    written = {control.name: tuple(k.shape[:3]) for control in memory.write_controls} if grouped else {}
    check_controls(memory.controls, controls, q.shape[:3], "(batch, time, heads)", q.shape[3], value_dim, written)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_finite(name, x)


def check_token(memory: AnyMemory, state: State, k: Tensor, v: Tensor, controls: Controls) -> None:
    """Raises unless `state` is the memory's own and k (B, H, K), v (B, H, V) and the controls are one token for it."""
    _check_vectors("k", k, "key_dim")
    _check_vectors("v", v, "value_dim")
    if k.shape[:2] != v.shape[:2]:
        raise InvalidValue(f"k and v must share (batch, heads); got {tuple(k.shape[:2])} and {tuple(v.shape[:2])}.")
    if k.shape[2] % memory.pairs or v.shape[2] % memory.pairs:
        raise InvalidValue(
            f"k and v must hold {memory.pairs} pairs of equal width; got {k.shape[2]} and {v.shape[2]} channels."
        )
    key_dim, value_dim = k.shape[2] // memory.pairs, v.shape[2] // memory.pairs
    owner = memory.owner(k.shape[1], key_dim, value_dim)
    expect_state(state, "write").check(owner, k.shape[0], "write", k.device)
    check_controls(memory.write_controls, controls, k.shape[:2], "(batch, heads)", key_dim, value_dim)


def check_tokens(memory: AnyMemory, state: State, k: Tensor, v: Tensor, controls: Controls) -> None:
    """Raises unless `state` is the memory's own and k (B, N, H, K), v (B, N, H, V) and the controls are N tokens."""
    for name, x, last in (("k", k, "key_dim"), ("v", v, "value_dim")):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise InvalidType(f"{name} must be a floating point tensor; got {given}.")
        if x.ndim != 4:
            raise InvalidValue(f"{name} must be (batch, tokens, heads, {last}); got shape {tuple(x.shape)}.")
        check_finite(name, x)
    if k.shape[:3] != v.shape[:3]:
        raise InvalidValue(
            f"k and v must share (batch, tokens, heads); got {tuple(k.shape[:3])} and {tuple(v.shape[:3])}."
        )
    key_dim, value_dim = k.shape[3] // memory.pairs, v.shape[3] // memory.pairs
    owner = memory.owner(k.shape[2], key_dim, value_dim)
    expect_state(state, "write_all").check(owner, k.shape[0], "write_all", k.device)
    check_controls(memory.write_controls, controls, k.shape[:3], "(batch, tokens, heads)", key_dim, value_dim)


def check_query(memory: AnyMemory, state: State, q: Tensor, controls: Controls) -> None:
    """Raises unless `state` is the memory's own and q (B, H, K), or (B, N, H, K) for several, and the controls of
    reading are a query for it."""
    if not (isinstance(q, Tensor) and q.ndim == 4):
        _check_vectors("q", q, "key_dim")
    memory.check_state(expect_state(state, "read"))
    made = dict(state.owner)
    grouped = memory.grouped and q.shape[-2] % int(made["heads"]) == 0
    if q.shape[-1] != made["key_dim"] or (q.shape[-2] != made["heads"] and not grouped) or q.shape[0] != state.batch:
        raise InvalidValue(
            f"q must be (batch, heads, key_dim) = {(state.batch, made['heads'], made['key_dim'])}, as the state; "
            f"got shape {tuple(q.shape)}."
        )
    check_finite("q", q)
    axes = "(batch, heads)" if q.ndim == 3 else "(batch, queries, heads)"
    key_dim, value_dim = int(made["key_dim"]), int(made["value_dim"])
    check_controls(memory.read_controls, controls, q.shape[:-1], axes, key_dim, value_dim)


def _check_vectors(name: str, x: Tensor, last: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidType(f"{name} must be a floating point tensor; got {given}.")
    if x.ndim != 3:
        raise InvalidValue(f"{name} must be (batch, heads, {last}), one token; got shape {tuple(x.shape)}.")
    check_finite(name, x)


def check_controls(
    declared_controls: tuple[Control, ...],
    controls: Controls,
    lead: tuple[int, ...],
    axes: str,
    key_dim: int,
    value_dim: int,
    leads: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Raises unless `controls` are exactly the declared ones, in shape and range.

    lead: the shape of a control per head, its axes named by `axes`; any other has an axis of its own after them.
    leads: that shape for controls by name where it is another one.
    """
    declared = {control.name: control for control in declared_controls}
    wanted = ", ".join(f"{c.name} (per {c.per}: {c.meaning})" for c in declared_controls) or "no controls"
    unknown = sorted(set(controls) - set(declared))
    if unknown:
        raise InvalidValue(f"unknown control {', '.join(map(repr, unknown))}: this memory takes {wanted}.")
    missing = [name for name in declared if name not in controls]
    if missing:
        raise InvalidValue(f"missing control {', '.join(map(repr, missing))}: this memory takes {wanted}.")
    for name, control in declared.items():
        size = control.size(key_dim, value_dim)
        shape = (leads or {}).get(name, tuple(lead))
        if size is None:
            _check_control(control, controls[name], shape, axes)
        else:
            axes_of = {"channel": "key_dim", "value": "value_dim", "pair": "key_dim / 2", "value_pair": "value_dim / 2"}
            own = f"{size}" if control.count else axes_of[control.per]
            _check_control(control, controls[name], (*shape, size), f"{axes[:-1]}, {own})")


def _check_control(control: Control, value: Tensor, shape: tuple[int, ...], axes: str) -> None:
    name = control.name
    if not isinstance(value, Tensor) or not value.is_floating_point():
        given = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InvalidType(f"control {name!r} must be a floating point tensor; got {given}.")
    if tuple(value.shape) != shape:
        raise InvalidValue(f"control {name!r} must have shape {axes} = {shape}; got {tuple(value.shape)}.")
    check_finite(f"control {name!r}", value)
    if torch.compiler.is_compiling() or not value.numel():
        return
    low, high = float(value.detach().min()), float(value.detach().max())
    if low < control.low or high > control.high:
        raise InvalidValue(
            f"control {name!r} must lie in [{control.low:g}, {control.high:g}] ({control.meaning}); "
            f"got values from {low:g} to {high:g}."
        )
