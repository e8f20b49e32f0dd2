"""What our memories cost as the work grows: beside full attention, beside the machine's best, along endless streams.

    python benchmarks/growth.py
    python benchmarks/growth.py --only streaming --repeats 9

beside full attention   its time / ours, on equal inputs, forward and backward: above 1, ours is faster
share of the ceiling    our rate of useful operations / that of one large float32 matrix product
streaming               time of a token after a long context / after 1,024 tokens
growth                  time for twice the work / for the work
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import Pair, Row, arguments, by_time, run_rows, timed
from torch import Tensor
from tqdm import trange

import mnemos as mn
from mnemos.lowering import Request, lower

HEADS, CHANNELS = 4, 64
CONTEXTS = {"1k": 1024, "100k": 100 * 1024, "1M": 1024 * 1024}
PIECE = 1024


def sequences(batch: int, length: int, heads: int = HEADS) -> list[Tensor]:
    """Queries and keys of length 1, and values: (B, T, H, 64) each."""
    q, k, v = (torch.randn(batch, length, heads, CHANNELS) for _ in range(3))
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v]


def controls_of(memory: mn.memory.AnyMemory, batch: int, length: int, chunk: int = 1) -> dict[str, Tensor]:
    """Decays near 1 and rates that add up to at most 1 over a chunk."""
    found = {}
    for control in memory.controls:
        size = control.size(CHANNELS, CHANNELS)
        found[control.name] = torch.rand(batch, length, HEADS, *([] if size is None else [size]))
        if control.name == "decay":
            found["decay"] = found["decay"] * 0.1 + 0.9
        elif control.name == "rate":
            found["rate"] = found["rate"] / chunk
    return found


def recall(
    memory: mn.memory.AnyMemory, batch: int, length: int, chunk: int = 1
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The memory on random inputs, and all that a backward pass is for."""
    inputs, controls = sequences(batch, length), controls_of(memory, batch, length, chunk)
    weights = memory.initial_weights(HEADS, CHANNELS, CHANNELS)
    leaves = [x.requires_grad_() for x in (*inputs, *controls.values(), *weights.values())]
    q, k, v = inputs
    return lambda: mn.run(memory, q, k, v, controls, weights)[0], leaves


def full_attention(memory: mn.memory.AnyMemory, length: int) -> Pair:
    """Causal attention by PyTorch's `scaled_dot_product_attention`, on B=1, H=4, K=V=64."""
    ours, leaves = recall(memory, 1, length)
    q, k, v = (x.transpose(1, 2).contiguous().requires_grad_() for x in sequences(1, length))
    return Pair(
        timed(ours, leaves, True),
        timed(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v], True),
    )


def ceiling(memory: mn.Memory, backward: bool, chunk: int = 1) -> Pair:
    """B=2, T=2048, H=4, K=V=64, beside a product of 2048 x 2048 matrices in the same run.

    Operations are what `explain` estimates for the forward pass; a backward pass counts as twice as many, whatever it
    computes anew.
    """
    ours, leaves = recall(memory, 2, 2048, chunk)
    request = Request(2, 2048, HEADS, CHANNELS, CHANNELS, torch.float32, "cpu", backward)
    plan = lower(memory, request)
    operations = plan.flops * (3 if backward else 1)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    facts = {"algorithm": plan.executor.name, "gigaflop": operations / 1e9}
    return Pair(timed(ours, leaves, backward), lambda: a @ b, operations / (2 * 2048**3), facts)


@functools.cache
def streamed(system: str, width: int) -> tuple[mn.MemoryLayer, dict[str, mn.State]]:
    """A layer of one head, and its state after each of the contexts, B=1, read in pieces."""
    layer = mn.MemoryLayer(getattr(mn.zoo, system)(), width=width, heads=1)
    state, states = layer.init_state(1), {}
    with torch.no_grad():
        for n in trange(max(CONTEXTS.values()) // PIECE, desc=f"1M tokens through {system}", leave=False, disable=None):
            _, state = layer(torch.randn(1, PIECE, width), state)
            states |= {name: state.clone() for name, length in CONTEXTS.items() if (n + 1) * PIECE == length}
    return layer, states


def streaming(system: str, width: int, context: str, singly: bool) -> Pair:
    """The next 4 pieces of 1,024 tokens, or the next 128 tokens singly, from the states after both contexts."""
    layer, states = streamed(system, width)
    pieces = torch.randn(128, 1, 1, width) if singly else torch.randn(4, 1, PIECE, width)

    def after(name: str) -> Callable[[], None]:
        @torch.no_grad()
        def read() -> None:
            state = states[name].clone()
            for piece in pieces:
                _, state = layer(piece, state)

        return read

    sizes = {name: state.nbytes for name, state in states.items()}
    facts = {"state_bytes": sizes, "state_constant": len(set(sizes.values())) == 1, "context": CONTEXTS[context]}
    return Pair(after("1k"), after(context), facts=facts)


def growth(system: str, small: tuple[int, int, int], large: tuple[int, int, int]) -> Pair:
    """A layer's forward and backward pass at two sizes (tokens, width, heads), B=2, projections included."""

    def at(length: int, width: int, heads: int) -> Callable[[], object]:
        layer = mn.MemoryLayer(getattr(mn.zoo, system)(), width=width, heads=heads)
        x = torch.randn(2, length, width, requires_grad=True)
        return timed(lambda: layer(x)[0], [x, *layer.parameters()], True)

    return Pair(at(*small), at(*large), facts={"small": small, "large": large})


def row(
    name: str,
    group: str,
    peer: str,
    predicted: float,
    mark: float | None,
    make: Callable[..., Pair],
    *of: Any,
    most: int = 100,
) -> Row:
    good = "above" if group in ("beside full attention", "share of the ceiling") else "below"
    return Row(name, group, peer, predicted, mark, by_time(make, *of), good, most)


DELTA, SCALAR, CHANNEL = mn.zoo.gated_deltanet().memory, mn.zoo.retnet().memory, mn.zoo.gla().memory
SPARSE = {
    "window of 256": (mn.KVMemory(retain=mn.Window(256)), 2.5),
    "blocks at powers of two": (mn.KVMemory(read=mn.Softmax(mask=mn.memory.PowersOfTwo(64))), 1.7),
    "every second of 256": (mn.KVMemory(retain=mn.Window(257), read=mn.Softmax(mask=mn.memory.Dilated(128, 2))), 2.0),
}
TITANS = {chunk: mn.zoo.titans_lmm(chunk=chunk).memory for chunk in (64, 16)}

ROWS = [
    *(
        row(
            f"full attention T={length} forward+backward, {name}",
            "beside full attention",
            "SDPA, causal",
            predicted,
            10.0,
            full_attention,
            memory,
            length,
            most=most,
        )
        for length, scalar, delta, most in ((16384, 20.0, 15.0, 3), (32768, 40.0, 30.0, 2))
        for name, memory, predicted in (("scalar decay", SCALAR, scalar), ("gated delta", DELTA, delta))
    ),
    *(
        row(
            f"full attention T=4096 forward+backward, {name}",
            "beside full attention",
            "SDPA, causal",
            predicted,
            None,
            full_attention,
            memory,
            4096,
        )
        for name, (memory, predicted) in SPARSE.items()
    ),
    *(
        row(
            f"{name} {'forward+backward' if backward else 'forward'}, of GEMM",
            "share of the ceiling",
            "one GEMM, 2048^3",
            predicted,
            0.6,
            ceiling,
            memory,
            backward,
            chunk,
        )
        for backward in (False, True)
        for name, memory, chunk, predicted in (
            ("scalar decay", SCALAR, 1, 0.3),
            ("channel decay", CHANNEL, 1, 0.15),
            ("gated delta", DELTA, 1, 0.3),
            ("titans MLP C=64", TITANS[64], 64, 0.4),
            ("titans MLP C=16", TITANS[16], 16, 0.3),
        )
    ),
    *(
        row(
            f"streaming {system} {how} after {context}",
            "streaming",
            "after 1k tokens",
            1.0,
            1.1,
            streaming,
            system,
            width,
            context,
            how == "singly",
        )
        for system, width in (("gated_deltanet", 64), ("titans_lmm", 32))
        for how in ("in pieces", "singly")
        for context in ("100k", "1M")
    ),
    *(
        row(f"growth {system} {what} x 2", "growth", f"half the {what}", predicted, None, growth, system, small, large)
        for system, grown in (("gated_deltanet", (2.0, 2.4, 1.2)), ("titans_lmm", (2.0, 2.4, 0.9)))
        for (what, small, large), predicted in zip(
            (
                ("tokens", (2048, 256, 4), (4096, 256, 4)),
                ("width", (2048, 128, 2), (2048, 256, 4)),  # heads of 64 channels
                ("heads", (2048, 256, 4), (2048, 256, 8)),  # of equal width together
            ),
            grown,
            strict=True,
        )
    ),
]


def main() -> None:
    parser = arguments(__doc__)
    run_rows(parser, parser.parse_args(), ROWS)


if __name__ == "__main__":
    main()
