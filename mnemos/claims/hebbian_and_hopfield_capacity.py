"""Hebbian capacity grows linearly with the key size; the modern Hopfield net stores exponentially many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, over_seeds
from mnemos.inspect import Curve, capacity
from mnemos.memory import Hopfield, Patterns

HEBBIAN = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0))
HOPFIELD = mn.KVMemory(read=Hopfield(1, scale=32.0))
KEYS = (8, 16, 32, 64, 128)
CHANNELS = (3, 4, 5, 6, 7)


@claim(
    title="Hebbian capacity is linear in the key size, the modern Hopfield net's exponential",
    arxiv=("2008.02217", "2102.11174"),
    where="theorem 3 of the first, section 4.1 of the second",
    sentence="The modern Hopfield net stores a number of patterns that is exponential in the dimension of the space. "
    "A sum of outer products with keys of d channels holds at most d associations without interference.",
    setting="Random directions. Sum of outer products: how many associations until the relative squared error of "
    "recall passes 0.5, for keys of 8 to 128 channels; the exponent is the slope of the logarithms. Hopfield net, "
    "one update at inverse temperature 32: how many patterns until 5 % are missed from cues with noise of length "
    "0.1, for 3 to 7 channels; the factor a channel is the exponential of the slope of the logarithm.",
    refuted_if="the Hebbian exponent is not within 0.15 of 1, or the Hopfield net does not gain a factor of at least "
    "1.5 with every channel.",
    shrinks="The theorem lets the length of the patterns grow with the root of the dimension; here it is fixed, and "
    "the sizes are those at which the end of storage can be seen.",
    minutes=2,
)
def hebbian_and_hopfield_capacity(bench: Bench) -> Findings:
    seeds, quiet = bench.seeds, bench.progress
    hebb = capacity({"": HEBBIAN}, key_dim=bench.pick(KEYS), threshold=0.5, seeds=seeds, progress=quiet)[""]
    most = 2 * bench.size(12, 18, shortest=6)
    hopfield = capacity(
        {"": HOPFIELD},
        key_dim=bench.pick(CHANNELS),
        patterns=Patterns("unit", same=True),
        counts=tuple(round(2 ** (i / 2)) for i in range(2, most)),
        measure="missed",
        threshold=0.05,
        noise=0.1,
        seeds=seeds,
        progress=quiet,
    )[""]
    exponents = [
        slope([math.log(c.key_dim) for c in hebb], [math.log(c.by_seed[s]) for c in hebb]) for s in range(seeds)
    ]
    filled = [c for c in hopfield if not c.open]
    closed = filled if len(filled) > 1 else list(hopfield)
    factors = [
        math.exp(slope([float(c.key_dim) for c in closed], [math.log(c.by_seed[s]) for c in closed]))
        for s in range(seeds)
    ]
    return Findings(
        statements=(
            Statement("exponent of the Hebbian number in the channels", over_seeds(exponents), 0.85, "above"),
            Statement("the same exponent", over_seeds(exponents), 1.15, "below"),
            Statement("factor that a channel brings the Hopfield net", over_seeds(factors), 1.5, "above"),
        ),
        panels=(
            Panel("Sum of outer products", "key channels", "associations held", (line("Hebbian", hebb),), True, True),
            Panel("Hopfield net", "channels", "patterns held", (line("Hopfield net", closed),), y_log=True),
        ),
    )


def line(name: str, curves: Sequence[Curve]) -> Line:
    """What they hold against their key size."""
    return Line(name, tuple(float(c.key_dim) for c in curves), tuple(c.capacity for c in curves))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line."""
    a, b = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())
