"""Our gated delta rule and Titans memory beside transformers' and titans-pytorch's, in one run.

    make bench                              # an environment of its own, then this
    python benchmarks/peers.py --only titans --repeats 5 --out results.json

Every row times both sides alternately (ours, peer, ours, peer ...) on the same inputs and reports the median of the
paired ratios, peer time / our time: above 1, ours is faster. Bare times on a shared machine say little. The gated delta
rows first check that both sides compute the same numbers. `predicted` was written down before the first measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

import mnemos as mn

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One comparison: what is done, by whom, what was predicted and what is aimed for."""

    name: str
    peer: str
    predicted: float
    mark: float
    make: Callable[[], tuple[Run, Run]]


@dataclass(frozen=True)
class Result:
    """A row as measured: milliseconds are medians, the ratio is peer / ours, paired."""

    name: str
    peer: str
    ours_ms: float
    peer_ms: float
    ratio: float
    low: float
    high: float
    predicted: float
    mark: float


def gated_delta(length: int, backward: bool) -> tuple[Run, Run]:
    """The chunked gated delta rule on B=2, H=4, K=V=64."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    peer_rule = getattr(torch_chunk_gated_delta_rule, "__wrapped__", torch_chunk_gated_delta_rule)
    q, k, v = (torch.randn(2, length, 4, 64) for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    rate, decay = torch.rand(2, length, 4), torch.rand(2, length, 4) * 0.2 + 0.8
    leaves = [x.requires_grad_(backward) for x in (q, k, v, rate, decay)]
    memory = mn.zoo.gated_deltanet().memory

    def ours() -> torch.Tensor:
        return mn.run(memory, q, k, v, {"rate": rate, "decay": decay})[0]

    def peer() -> torch.Tensor:
        return peer_rule(q * 8, k, v, decay.log(), rate)[0]  # it scales queries by 1/sqrt(64)

    torch.testing.assert_close(ours(), peer(), atol=2e-4, rtol=2e-4)
    return _timed(ours, leaves, backward), _timed(peer, leaves, backward)


def gated_delta_decode() -> tuple[Run, Run]:
    """64 single steps of the gated delta rule, B=1, H=4, K=V=64, gradients off."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    peer_rule = getattr(torch_recurrent_gated_delta_rule, "__wrapped__", torch_recurrent_gated_delta_rule)
    q, k, v = (torch.randn(1, 1, 4, 64) for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    rate, decay = torch.rand(1, 1, 4), torch.rand(1, 1, 4)
    memory = mn.zoo.gated_deltanet().memory
    now = {"rate": rate[:, 0], "decay": decay[:, 0]}
    log_decay = decay.log()

    @torch.no_grad()
    def ours() -> None:
        state = memory.init(1, 4, 64, 64)
        for _ in range(64):
            _, state = memory.advance(state, q[:, 0], k[:, 0], v[:, 0], now)

    @torch.no_grad()
    def peer() -> None:
        state = torch.zeros(1, 4, 64, 64)
        for _ in range(64):
            _, state = peer_rule(q, k, v, log_decay, rate, initial_state=state, output_final_state=True)

    return ours, peer


def titans(chunk: int, backward: bool) -> tuple[Run, Run]:
    """A Titans layer with a two-layer memory of expansion 4, width 256, 4 heads, B=2, T=2048, projections included.

    The peer with batch_size=chunk_size, its only truly sequential setting; a small step size keeps it finite.
    """
    from titans_pytorch import NeuralMemory

    theirs = NeuralMemory(
        dim=256, heads=4, dim_head=64, chunk_size=chunk, batch_size=chunk, default_step_transform_max_lr=0.01
    )
    mine = mn.MemoryLayer(mn.zoo.titans_lmm(chunk=chunk).replace(conv=None), width=256, heads=4)
    x = torch.randn(2, 2048, 256, requires_grad=backward)
    return (
        _timed(lambda: mine(x)[0], [x, *mine.parameters()], backward),
        _timed(lambda: theirs(x)[0], [x, *theirs.parameters()], backward),
    )


def titans_decode() -> tuple[Run, Run]:
    """16 single tokens written and read, projections included, B=1, width 256, 4 heads, gradients off."""
    from titans_pytorch import NeuralMemory

    theirs = NeuralMemory(dim=256, heads=4, dim_head=64, chunk_size=1, default_step_transform_max_lr=0.01)
    mine = mn.MemoryLayer(mn.zoo.titans_lmm(chunk=16).replace(conv=None), width=256, heads=4)
    x = torch.randn(1, 1, 256)

    @torch.no_grad()
    def ours() -> None:
        state = mine.init_state(1)
        for _ in range(16):
            _, state = mine(x, state)

    @torch.no_grad()
    def peer() -> None:
        state = None
        for _ in range(16):
            _, state = theirs(x, state=state)

    return ours, peer


def _timed(forward: Callable[[], torch.Tensor], leaves: list[torch.Tensor], backward: bool) -> Run:
    def both() -> None:
        torch.autograd.grad(forward().square().mean(), leaves, allow_unused=True)

    def alone() -> None:
        with torch.no_grad():
            forward()

    return both if backward else alone


ROWS = [
    Row("gated delta T=2048 forward", "transformers", 1.6, 2.5, lambda: gated_delta(2048, False)),
    Row("gated delta T=2048 forward+backward", "transformers", 1.5, 3.5, lambda: gated_delta(2048, True)),
    Row("gated delta T=8192 forward+backward", "transformers", 4.0, 11.0, lambda: gated_delta(8192, True)),
    Row("gated delta decode, B=1", "transformers", 1.0, 3.5, gated_delta_decode),
    Row("titans MLP C=64 forward", "titans-pytorch", 1.5, 3.2, lambda: titans(64, False)),
    Row("titans MLP C=64 forward+backward", "titans-pytorch", 1.5, 3.0, lambda: titans(64, True)),
    Row("titans MLP C=16 forward", "titans-pytorch", 4.0, 9.0, lambda: titans(16, False)),
    Row("titans MLP C=16 forward+backward", "titans-pytorch", 4.0, 9.0, lambda: titans(16, True)),
    Row("titans decode, B=1", "titans-pytorch", 10.0, 30.0, titans_decode),
]


def measure(row: Row, repeats: int) -> Result:
    """Warm up both sides once, then time them alternately."""
    torch.manual_seed(0)
    ours, peer = row.make()
    ours(), peer()
    mine, theirs = [], []
    for _ in range(repeats):
        for run, times in ((ours, mine), (peer, theirs)):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    ratios = sorted(b / a for a, b in zip(mine, theirs, strict=True))
    return Result(
        row.name,
        row.peer,
        1e3 * statistics.median(mine),
        1e3 * statistics.median(theirs),
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        row.predicted,
        row.mark,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each side (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/peers.json"), help="where results go")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [row for row in ROWS if given.only in row.name]
    if not rows:
        parser.error(f"no row's name contains {given.only!r}; there are: {'; '.join(row.name for row in ROWS)}")
    results = []
    print(f"{'':38}{'ours':>9} {'peer':>9}   ratio [least, most]  predicted  mark")
    for row in tqdm(rows, leave=False):
        r = measure(row, given.repeats)
        results.append(r)
        tqdm.write(
            f"{r.name:38}{r.ours_ms:7.1f}ms {r.peer_ms:7.1f}ms  {r.ratio:5.1f}x [{r.low:.1f}, {r.high:.1f}]"
            f"   {r.predicted:6.1f}x {r.mark:6.1f}x   beside {r.peer}"
        )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "processor": _processor(),
        "threads": given.threads,
        "repeats": given.repeats,
        "rows": [asdict(r) for r in results],
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
