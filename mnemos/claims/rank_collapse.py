"""Pure attention loses rank doubly exponentially with depth; skip connections and feed-forward layers stop that."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds

WIDTH, HEADS, TOKENS, DEPTH = 64, 4, 64, 12


@claim(
    title="Pure attention collapses in rank with depth",
    arxiv=("2103.03404",),
    where="theorem 2.1 and figure 2",
    sentence="The output of a stack of self-attention layers without skip connections and MLPs converges doubly "
    "exponentially with depth to a rank-1 matrix; skip connections counteract it, MLPs slow it down.",
    setting="Untrained attention layers (64 channels, 4 heads, 64 tokens, no positions), 12 deep, on random inputs: "
    "the distance from the nearest matrix with equal rows, over the norm, in the Frobenius norm where the paper "
    "takes a product of the 1- and infinity-norms; alone, with skip connections, and alternating with feed-forward "
    "layers. Causal, so that the first tokens see little; the distance is of the last half of the tokens.",
    refuted_if="after 12 layers pure attention is not nearer to rank one than with skip connections by a factor of a "
    "hundred, or than with feed-forward layers at all; or its logarithm does not fall more steeply in the last four "
    "layers than in the first four, as a double exponential does.",
    shrinks="Untrained layers only; the paper also measures trained models.",
    minutes=0.5,
)
def rank_collapse(bench: Bench) -> Findings:
    depth = bench.size(DEPTH, DEPTH)
    found: dict[str, list[list[float]]] = {"attention alone": [], "with skip connections": [], "with MLPs": []}
    for seed in range(bench.seeds):
        for name, curves in found.items():
            curves.append(residuals(seed, depth, skip="skip" in name, feed="MLP" in name))
    logs = {name: [[math.log10(max(x, 1e-300)) for x in curve] for curve in curves] for name, curves in found.items()}
    alone, skip, feed = ([curve[-1] for curve in logs[name]] for name in found)
    return Findings(
        statements=(
            Statement("powers of ten between skip connections and none", difference(skip, alone), 2.0, "above"),
            Statement("powers of ten between MLPs and none", difference(feed, alone), 0.0, "above"),
            Statement(
                "fall of attention alone over the last four layers minus that over the first four, in powers of ten",
                difference(
                    [curve[-5] - curve[-1] for curve in logs["attention alone"]],
                    [curve[0] - curve[4] for curve in logs["attention alone"]],
                ),
            ),
        ),
        panels=(
            Panel(
                "Distance from rank one",
                "layers",
                "log10 of the relative residual",
                tuple(
                    Line(
                        name,
                        tuple(float(i) for i in range(depth + 1)),
                        tuple(over_seeds([curve[i] for curve in curves]) for i in range(depth + 1)),
                    )
                    for name, curves in logs.items()
                ),
            ),
        ),
    )


def residuals(seed: int, depth: int, *, skip: bool, feed: bool) -> list[float]:
    """The relative distance from equal rows, before the first layer and after each."""
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        x = torch.randn(1, TOKENS, WIDTH, dtype=torch.float64)
        distances = [residual(x)]
        for _ in range(depth):
            layer = mn.MemoryLayer(mn.KVMemory(), width=WIDTH, heads=HEADS).double()
            y, _ = layer(x)
            x = x + y if skip else y
            if feed:
                up, down = (torch.randn(WIDTH, WIDTH, dtype=torch.float64) / WIDTH**0.5 for _ in range(2))
                x = torch.relu(x @ up) @ down + (x if skip else 0)
            distances.append(residual(x))
    return distances


def residual(x: Tensor) -> float:
    """|x - 1 m^T| / |x| with m the mean row, over the last half of the tokens."""
    late = x[0, TOKENS // 2 :]
    return float((late - late.mean(0)).norm() / late.norm().clamp(min=1e-300))
