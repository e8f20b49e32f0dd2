"""Published systems as four choices: the memory that each declares is the recurrence that its paper prints."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.memory import AnyMemory, Implicit

B, T, H, K, V = 2, 19, 2, 4, 3
EYE = torch.eye(K, dtype=torch.float64)

Held = dict[str, Tensor]
"""What the literal form carries for one row and head."""
Step = Callable[[Held, Tensor, Tensor, Held], Tensor]
"""(held, k (K,), v (V,), controls of one token) -> the matrix (V, K) that the token reads; `held` is updated."""


def hebb(decay: Callable[[Held], Tensor | float]) -> Step:
    """M = decay * M + rate v k^T, decay broadcast over (V, K)."""

    def step(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
        held["m"] = decay(c) * held["m"] + c.get("rate", 1.0) * torch.outer(v, k)
        return held["m"]

    return step


def delta(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """M = a M (I - b k k^T) + b v k^T, the gradient after the decay."""
    held["m"] = c.get("decay", 1.0) * held["m"] @ (EYE - c["rate"] * torch.outer(k, k)) + c["rate"] * torch.outer(v, k)
    return held["m"]


def products(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """The same step for each of the token's pairs, one after another, with the decay before the first."""
    pairs = zip(k.split(K), v.split(V), c["rate"], strict=True)
    held["m"] = c.get("decay", 1.0) * held["m"]
    for key, value, rate in pairs:
        held["m"] = held["m"] - rate * torch.outer(held["m"] @ key - value, key)
    return held["m"]


def longhorn(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """M = M (I - D k k^T) + D v k^T with D = b / (1 + b |k|^2)."""
    d = c["rate"] / (1 + c["rate"] * k @ k)
    held["m"] = held["m"] @ (EYE - d * torch.outer(k, k)) + d * torch.outer(v, k)
    return held["m"]


def rwkv7(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """M = M (Diag(w) - u r^T) + v k^T."""
    held["m"] = held["m"] @ (torch.diag(c["decay"]) - torch.outer(c["removal"], c["replacement"])) + torch.outer(v, k)
    return held["m"]


def titans(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """S = eta S - theta (M k - v) k^T at the undecayed M, M = a M + S."""
    push = held.get("s", torch.zeros(V, K, dtype=torch.float64))
    held["s"] = c["momentum"] * push - c["rate"] * torch.outer(held["m"] @ k - v, k)
    held["m"] = c["decay"] * held["m"] + held["s"]
    return held["m"]


def yaad(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """M = a M - eta r k^T where |r| <= delta, a M - eta delta sign(r) k^T elsewhere, r = M k - v at the undecayed M;
    the sign smoothed to r / sqrt(r^2 + 0.01)."""
    r = held["m"] @ k - v
    slope = r if r.norm() <= c["delta"] else c["delta"] * r / (r * r + 0.01).sqrt()
    held["m"] = c["decay"] * held["m"] - c["rate"] * torch.outer(slope, k)
    return held["m"]


def mesa(held: Held, k: Tensor, v: Tensor, c: Held) -> Tensor:
    """G = a G + b v k^T, N = a N + b k k^T, M = G (N + R)^-1."""
    held["n"] = c["decay"] * held.get("n", 0 * EYE) + c["rate"] * torch.outer(k, k)
    held["m"] = c["decay"] * held["m"] + c["rate"] * torch.outer(v, k)
    return held["m"] @ torch.linalg.inv(held["n"] + torch.diag(c["ridge"]))


def of(name: str, **options: object) -> AnyMemory:
    """The memory that an entry of the zoo declares."""
    return getattr(mn.zoo, name)(**options).build(16, 2).memory


TABLE: dict[str, tuple[AnyMemory, Step]] = {
    "linear attention": (of("linear_attention"), hebb(lambda c: 1.0)),
    "RetNet": (of("retnet"), hebb(lambda c: c["decay"])),
    "Mamba-2": (of("mamba2"), hebb(lambda c: c["decay"])),
    "GLA": (of("gla"), hebb(lambda c: c["decay"])),
    "HGRN2": (of("hgrn2"), hebb(lambda c: c["decay"])),
    "decay on both sides": (
        mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="outer"), mn.GD(rate=1.0)),
        hebb(lambda c: torch.outer(c["value_decay"], c["decay"])),
    ),
    "DeltaNet": (of("deltanet"), delta),
    "Gated DeltaNet": (of("gated_deltanet"), delta),
    "DeltaProduct": (of("deltaproduct", steps=3), products),
    "Gated DeltaProduct": (of("gated_deltaproduct", steps=2), products),
    "Longhorn": (mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), Implicit()), longhorn),
    "RWKV-7": (of("rwkv7"), rwkv7),
    "Titans": (of("titans_lmm", depth=1, chunk=None), titans),
    "Yaad": (of("yaad", depth=1, chunk=None), yaad),
    "Mesa": (of("mesanet"), mesa),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_row_of_the_table_is_its_recurrence(name: str) -> None:
    memory, step = TABLE[name]
    pairs = memory.pairs
    q, v = (torch.randn(B, T, H, n, dtype=torch.float64) for n in (K, pairs * V))
    k = F.normalize(torch.randn(B, T, H, pairs, K, dtype=torch.float64), dim=-1).flatten(-2)
    controls = {}
    for control in memory.controls:
        size = control.size(K, V)
        controls[control.name] = 0.1 + 0.9 * torch.rand(B, T, H, *([] if size is None else [size]), dtype=torch.float64)
    if name == "HGRN2":
        k = 1 - controls["decay"]
    for direction in ("removal", "replacement"):
        if direction in controls:
            controls[direction] = F.normalize(torch.randn(B, T, H, K, dtype=torch.float64), dim=-1) / 2
    start = (
        torch.randn(H, V, K, dtype=torch.float64) if memory.initial_weights(H, K, V) else torch.zeros(H, V, K).double()
    )
    weights = {"matrix": start} if memory.initial_weights(H, K, V) else None
    out, _ = mn.run(memory, q, k, v, controls, weights)
    for b in range(B):
        for h in range(H):
            held = {"m": start[h]}
            for t in range(T):
                now = {n: c[b, t, h] for n, c in controls.items()}
                expected = step(held, k[b, t, h], v[b, t, h], now) @ q[b, t, h]
                assert float((out[b, t, h] - expected).abs().max()) <= 1e-10 * max(1.0, float(expected.abs().max()))


def test_softmax_attention_reads_all_pairs_there_are() -> None:
    q, k, v = (torch.randn(B, T, H, K, dtype=torch.float64) for _ in range(3))
    out, _ = mn.run(mn.KVMemory(), q, k, v)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                w = torch.stack([torch.exp(q[b, t, h] @ k[b, j, h] / math.sqrt(K)) for j in range(t + 1)])
                expected = sum(w[j] * v[b, j, h] for j in range(t + 1)) / w.sum()
                assert float((out[b, t, h] - expected).abs().max()) < 1e-12
