"""Peak memory of a forward and backward pass, by us and by the peer.

    python benchmarks/memory.py
    python benchmarks/memory.py --only titans --repeats 1

Ratios are peer's peak / our peak: above 1, ours takes less. Every peak is that of a fresh process: inputs and weights
are made and a short sequence is run, then the kernel's record of the largest resident set is begun anew, and what one
forward and backward pass adds to it is counted (outputs, kept activations, gradients, temporaries). The C library is
told to hand back freed blocks at once, so that what counts is what was in use. Needs Linux.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from peers import gated_delta_sides, titans_layers
from timing import Pair, Result, Row, Run, arguments, result, run_rows, timed
from tqdm import tqdm

SIDES = ("ours", "peer")
MEBIBYTE = 2**20


def gated_delta(length: int) -> Pair:
    """The chunked gated delta rule on B=2, H=4, K=V=64."""
    ours, peer, leaves = gated_delta_sides(2, length, True)
    return Pair(timed(ours, leaves, True), timed(peer, leaves, True))


def titans(chunk: int, length: int) -> Pair:
    """Titans layers with a two-layer memory of expansion 4, width 256, 4 heads, B=2, projections included."""
    mine, theirs = titans_layers(chunk)
    x = torch.randn(2, length, 256, requires_grad=True)
    return Pair(
        timed(lambda: mine(x)[0], [x, *mine.parameters()], True),
        timed(lambda: theirs(x)[0], [x, *theirs.parameters()], True),
    )


WORK: dict[str, tuple[str, float, Callable[[int], Pair], int]] = {
    f"{name} T={length} peak memory": (peer, predicted, make, length)
    for name, peer, predicted, make in (
        ("gated delta", "transformers", 5.0, gated_delta),
        ("titans MLP C=64", "titans-pytorch", 4.0, functools.partial(titans, 64)),
    )
    for length in (4096, 8192)
}


def peak(run: Run) -> int:
    """Bytes that a call adds to the resident set at most."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def in_this_process(name: str, side: str) -> int:
    """The peak of one side of a row."""
    torch.manual_seed(0)
    _, _, make, length = WORK[name]
    short, whole = make(128), make(length)
    index = SIDES.index(side)
    (short.first, short.second)[index]()
    return peak((whole.first, whole.second)[index])


def in_fresh_process(name: str, side: str, threads: int) -> int:
    """The same in a process that has done nothing else."""
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", name, side]
    # A fixed threshold: glibc would otherwise raise it and keep what was freed.
    given = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=given, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def measure(row: Row, given: argparse.Namespace) -> Result:
    """Alternately ours and the peer's."""
    bar = tqdm(range(given.repeats), leave=False, desc="fresh processes", disable=None)
    peaks = [[in_fresh_process(row.name, side, given.threads) for side in SIDES] for _ in bar]
    first, second = (sorted(side)[len(side) // 2] / MEBIBYTE for side in zip(*peaks, strict=True))
    return result(row, "MiB", first, second, [theirs / ours for ours, theirs in peaks])


ROWS = [Row(name, "peak memory", peer, predicted, 5.0, measure) for name, (peer, predicted, *_) in WORK.items()]


def main() -> None:
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "SIDE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        torch.set_num_threads(given.threads)
        print(in_this_process(*given.measure))
        return
    run_rows(parser, given, ROWS)


if __name__ == "__main__":
    main()
