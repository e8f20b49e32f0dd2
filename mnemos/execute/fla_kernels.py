"""The Triton kernels of flash-linear-attention, for GPUs on machines that have that package."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.base import declines_unless_matrix
from mnemos.execute.once import differentiable_once
from mnemos.execute.request import Request
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State

CHUNK = 64
"""Tokens that the kernels work on at once."""

LEAST_LOG = -104.0
"""Below the logarithm of every positive float32, so that it stands for 0 alone: exp(-104) is 0 in float32. Kernels
subtract cumulative logarithms, of which minus infinity would make NaN."""


@dataclass(frozen=True)
class Kernel:
    """A function of the package, called by keyword: `chunk(q, k, v, [g], [beta], scale, initial_state, ...)`."""

    module: str
    function: str
    widest_key: int | None = None


KERNELS = {
    ("constant", "none"): Kernel("fla.ops.simple_gla", "chunk_simple_gla"),
    ("constant", "head"): Kernel("fla.ops.simple_gla", "chunk_simple_gla"),
    ("constant", "channel"): Kernel("fla.ops.gla", "chunk_gla"),
    ("identity", "none"): Kernel("fla.ops.delta_rule", "chunk_delta_rule", 256),
    ("identity", "head"): Kernel("fla.ops.gated_delta_rule", "chunk_gated_delta_rule", 256),
    ("identity", "channel"): Kernel("fla.ops.kda", "chunk_kda", 256),
}
"""By the objective's `slope_kind` and the retention's `scaling`."""


class FLAKernel:
    """With S = W^T and the logarithm g of the decay, the kernels compute

        S_t = Diag(exp(g_t)) S_t-1 + k_t v_t^T                                                   slope "constant"
        S_t = R_t + beta_t k_t (v_t - R_t^T k_t)^T,  R_t = Diag(exp(g_t)) S_t-1                  slope "identity"
        o_t = scale S_t^T q_t

    which is ours with beta = rate, or v scaled by it, and scale = 1. The state is float32; products are as precise as
    the inputs' dtype. Where a decay is 0 the results are right and the gradient by that decay, which its logarithm
    does not carry, is returned as 0: what every smooth gate multiplies it by there. There is no second derivative.
    Kernels: github.com/fla-org/flash-linear-attention; the algorithm: arXiv 2406.06484.
    """

    name = "fla kernel"
    summary = "Triton kernels of flash-linear-attention, in chunks of 64; as precise as the inputs' dtype"

    def declines(self, memory: Any, request: Request) -> str | None:
        if request.device != "cuda":
            return f"it is for GPUs; the inputs are on {request.device}"
        reason = declines_unless_matrix(memory)
        if reason is not None:
            return reason
        slope, scaling = memory.objective.slope_kind, memory.retention.scaling
        if (slope, scaling) not in KERNELS:
            return "the objective's gradient is neither constant nor the residual"
        if memory.learner.momentum:
            return "it has no momentum"
        if memory.read_timing != "after":
            return "it reads after the write"
        if slope == "identity" and scaling != "none" and memory.learner.anchor != "retained":
            return 'it takes the gradient after forgetting (anchor="retained")'
        widest = KERNELS[slope, scaling].widest_key
        if widest is not None and request.key_dim > widest:
            return f"its keys are at most {widest} wide"
        if request.dtype not in (torch.bfloat16, torch.float16):
            asked = str(request.dtype).removeprefix("torch.")
            return f"its products are in bfloat16 or float16, less precise than {asked}"
        if torch.compiler.is_compiling():
            return "torch.compile cannot see into it, and would cut its graph"
        gated = scaling == "head"
        return not_installed() or (wrong_gradients() if gated and request.training else None)

    def flops(self, memory: Any, request: Request) -> float:
        key, value = request.key_dim, request.value_dim
        inside, carried = 2 * CHUNK * (key + value), 4 * key * value
        if memory.objective.slope_kind == "identity":
            inside, carried = 2 * inside + 2 * CHUNK * CHUNK, 2 * carried
        return float(request.batch * request.length * request.heads * (inside + carried))

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
        held = state["matrix"]
        start = held.to(memory.state_dtype(v.dtype))  # the only precision of states that the kernels take
        rate, decay = controls.get("rate"), controls.get("decay")
        if rate is None:
            rate = start.new_full(v.shape[:3], memory.learner.rate or 0.0)
        rate, decay = rate.to(start.dtype), None if decay is None else decay.to(start.dtype)
        if lengths is not None:  # what neither writes nor forgets leaves the state alone
            live = (torch.arange(v.shape[1], device=v.device) < lengths[:, None])[..., None]
            rate = torch.where(live, rate, 0.0)
            if decay is not None:
                decay = torch.where(live if decay.ndim == 3 else live[..., None], decay, 1.0)

        given = {"q": _even(q.to(v.dtype)), "k": _even(k.to(v.dtype)), "initial_state": _even(_even(start).mT)}
        if decay is not None:
            given["g"] = log_decay(decay) if decay.ndim == 3 else _even(log_decay(decay))
        if memory.objective.slope_kind == "identity":
            given["v"], given["beta"] = _even(v), rate
        else:
            given["v"] = _even((v * rate[..., None]).to(v.dtype))
        if torch.is_grad_enabled():
            given = dict(zip(given, _FirstOrder.apply(*given.values()), strict=True))  # pyright: ignore[reportArgumentType]
        chunk = load(KERNELS[memory.objective.slope_kind, memory.retention.scaling or "none"])
        out, last = chunk(**given, scale=1.0, output_final_state=True)
        weight = last.mT[..., : v.shape[-1], : k.shape[-1]].contiguous()
        return out[..., : v.shape[-1]].to(v.dtype), state.successor(matrix=weight.to(held.dtype))


def load(kernel: Kernel) -> Callable[..., tuple[Tensor, Tensor]]:
    """Imports the package only now: its import looks for a GPU and imports much else."""
    return getattr(importlib.import_module(kernel.module), kernel.function)


@functools.cache
def not_installed() -> str | None:
    """Why this machine has no kernels that can be relied upon; looks for the packages without importing them."""
    if find_spec("fla") is None or find_spec("triton") is None:
        return "flash-linear-attention is not installed (pip install mnemos[gpu])"
    try:
        found = version("fla-core")
    except PackageNotFoundError:
        found = "before 0.4"
    if _numbers(found) < (0, 6):
        return f"flash-linear-attention is {found}; gradients are right on all GPUs from 0.6 on"
    return None


@functools.cache
def wrong_gradients() -> str | None:
    """Why the gated kernels must not be differentiated here: these Triton versions miscompile them for Hopper
    (issue 640 of flash-linear-attention, which refuses too)."""
    if torch.version.hip is not None or torch.cuda.get_device_capability()[0] != 9:
        return None
    if (3, 4) <= _numbers(version("triton")) < (3, 7, 1):
        return f"triton {version('triton')} gets its gradients wrong on Hopper GPUs; 3.7.1 does not"
    return None


def _numbers(text: str) -> tuple[int, ...]:
    """ "3.7.1+git" -> (3, 7, 1); an empty tuple, less than all, where there are none."""
    found = re.match(r"\d+(\.\d+)*", text)
    return () if found is None else tuple(int(number) for number in found[0].split("."))


def _even(x: Tensor) -> Tensor:
    """x with a channel of zeros more where their number is odd: Triton miscompiles odd rows of 16-bit numbers."""
    return F.pad(x, (0, 1)) if x.shape[-1] % 2 else x.contiguous()


def log_decay(decay: Tensor) -> Tensor:
    """log(decay), LEAST_LOG where decay is 0; the gradient is 0 where 1 / decay is out of range."""
    found = _LogDecay.apply(decay)
    assert isinstance(found, Tensor)
    return found


class _LogDecay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor) -> Tensor:
        ctx.save_for_backward(decay)
        return decay.log().clamp_min(LEAST_LOG)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (decay,) = ctx.saved_tensors
        normal = decay >= torch.finfo(decay.dtype).tiny
        return torch.where(normal, grads[0] / torch.where(normal, decay, 1.0), 0.0)


class _FirstOrder(torch.autograd.Function):
    """The inputs as they are. Their gradients refuse to be differentiated again: the kernels' own would be taken for
    constants, and second derivatives lack terms without a word."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads
