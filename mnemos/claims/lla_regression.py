"""Local linear attention is better than softmax and linear attention at test-time regression."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.memory import AnyMemory, Control, LeastSquares, LocalLinear

CHANNELS, SEGMENTS = 4, 4
LENGTHS = (32, 64, 128, 256, 512)
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
RIDGES = (0.01, 0.03, 0.1, 1.0)


@claim(
    title="Local linear attention beats softmax and linear attention at test-time regression",
    arxiv=("2510.01450",),
    where="section 5.1, test-time regression on piecewise-linear data",
    sentence="Local linear attention outperforms softmax attention (a local constant estimator) and linear-attention "
    "estimators (a global linear one, such as MesaNet's) at test-time regression on non-stationary, piecewise-linear "
    "data, and the gap grows with the number of examples.",
    setting="Nothing is trained: each memory is given n pairs of unit vectors of 4 channels x and y = A_s x, the map "
    "A_s being that of the part s of the sphere that x lies in (4 parts, by the largest of 4 random projections), "
    "with noise of a tenth, and is asked for y at new x. The temperature of softmax, of local linear attention, and "
    "the ridges are the best of a grid on other data of the same seed.",
    refuted_if="at the largest number of pairs the error of local linear attention is not below that of softmax "
    "attention, or not below that of global least squares.",
    shrinks="4 channels and at most 512 pairs, where the paper goes to 64 channels and trains the layers.",
    minutes=3,
)
def lla_regression(bench: Bench) -> Findings:
    lengths = bench.pick(LENGTHS)
    errors: dict[str, dict[int, list[float]]] = {name: {n: [] for n in lengths} for name in FAMILIES}
    for seed in range(bench.seeds):
        for n in lengths:
            chosen, judged = examples(n, 2 * seed), examples(n, 2 * seed + 1)
            for name, family in FAMILIES.items():
                tried = [(error(memory, given, chosen), memory, given) for memory, given in bench.pick(tuple(family()))]
                _, memory, given = min(tried, key=lambda found: found[0])
                errors[name][n].append(error(memory, given, judged))
    last = lengths[-1]
    local, softmax, linear = (errors[name] for name in FAMILIES)
    return Findings(
        statements=(
            Statement(
                f"error of softmax attention minus local linear attention's, {last} pairs",
                difference(softmax[last], local[last]),
            ),
            Statement(
                f"error of global least squares minus local linear attention's, {last} pairs",
                difference(linear[last], local[last]),
            ),
            Statement(
                "growth of the ratio of errors, softmax over local linear, from the fewest pairs to the most",
                difference(ratio(softmax[last], local[last]), ratio(softmax[lengths[0]], local[lengths[0]])),
            ),
        ),
        panels=(
            Panel(
                "Piecewise-linear regression",
                "pairs given",
                "squared error, relative to the answers",
                tuple(
                    Line(name, tuple(map(float, lengths)), tuple(over_seeds(errors[name][n]) for n in lengths))
                    for name in FAMILIES
                ),
                x_log=True,
                y_log=True,
            ),
        ),
    )


def ratio(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


Member = tuple[AnyMemory, dict[str, float]]
"""A memory and the constants for its controls."""
FAMILIES: dict[str, Callable[[], list[Member]]] = {
    "local linear attention": lambda: [
        (mn.KVMemory(read=LocalLinear(scale=scale, ridge=ridge)), {}) for scale in SCALES for ridge in RIDGES[1:]
    ],
    "softmax attention": lambda: [(mn.KVMemory(read=mn.Softmax(scale=scale)), {}) for scale in SCALES],
    "global least squares": lambda: [
        (mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), LeastSquares()), {"rate": 1.0, "ridge": ridge}) for ridge in RIDGES
    ],
}


def examples(number: int, seed: int, rows: int = 32, asked: int = 32) -> tuple[Tensor, Tensor]:
    """x and y of `number` pairs to be kept and `asked` to be answered, (rows, number + asked, 1, CHANNELS)."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + number)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = torch.nn.functional.normalize(normal(rows, number + asked, CHANNELS), dim=-1)
    part = (x @ normal(rows, CHANNELS, SEGMENTS)).argmax(-1)
    maps = normal(rows, SEGMENTS, CHANNELS, CHANNELS) / CHANNELS**0.5
    y = torch.einsum("bnkj,bnj->bnk", maps[torch.arange(rows)[:, None], part], x)
    y[:, :number] += 0.1 * normal(rows, number, CHANNELS)
    return x[:, :, None], y[:, :, None]


def error(memory: AnyMemory, constants: dict[str, float], pairs: tuple[Tensor, Tensor], asked: int = 32) -> float:
    """The mean squared error of the answers to the last `asked` x after all pairs before, over their mean square."""
    x, y = pairs

    def made(controls: tuple[Control, ...], like: Tensor) -> dict[str, Tensor]:
        sizes = {c.name: c.size(CHANNELS, CHANNELS) for c in controls}
        return {
            name: like.new_full(like.shape[:3] if size is None else (*like.shape[:3], size), constants[name])
            for name, size in sizes.items()
        }

    state = memory.init(len(x), 1, CHANNELS, CHANNELS, None, torch.float64, x.device)
    kept, cues = x[:, :-asked], x[:, -asked:]
    state = memory.write_all(state, kept, y[:, :-asked], made(memory.write_controls, kept))
    found, wanted = memory.read(state, cues, made(memory.read_controls, cues)), y[:, -asked:]
    return float((found - wanted).square().sum() / wanted.square().sum())
