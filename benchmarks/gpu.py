"""Our plain chunk forms beside flash-linear-attention's Triton kernels, both as executors of the same memory, on a GPU.

    pip install mnemos[gpu]
    python benchmarks/gpu.py --only delta --repeats 20 --out results.json

Inputs are bfloat16, B=2, H=4, K=V=64. Every row first checks that both compute the same numbers, then times them
alternately and reports the median of the paired ratios, plain / kernel: above 1, the kernel is faster. `predicted` was
written down before the first measurement, without a GPU at hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import PlanError
from mnemos.lowering import run_rows

KERNEL = "fla kernel"


@dataclass(frozen=True)
class Row:
    """One comparison: which memory, by which plain executor, on how many tokens."""

    memory: mn.Memory
    plain: str
    length: int
    backward: bool
    predicted: float

    @property
    def name(self) -> str:
        rule = type(self.memory.objective).__name__
        per = getattr(self.memory.retention, "per", "no")
        return f"{self.plain} ({rule}, {per} decay) T={self.length} forward{'+backward' if self.backward else ''}"


@dataclass(frozen=True)
class Result:
    """A row as measured: milliseconds are medians, the ratio is plain / kernel, paired."""

    name: str
    plain_ms: float
    kernel_ms: float
    ratio: float
    low: float
    high: float
    predicted: float


def rows() -> list[Row]:
    delta, gated = mn.zoo.deltanet().memory, mn.zoo.gated_deltanet().memory
    retained, gla = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD()), mn.zoo.gla().memory
    found = []
    for memory, plain in (
        (gated, "triangular delta"),
        (delta, "triangular delta"),
        (mn.zoo.kda().memory, "triangular delta"),
        (retained, "cumulative decay"),
        (gla, "cumulative decay"),
    ):
        for length, backward, predicted in (
            (2048, False, 20.0),
            (2048, True, 15.0),
            (8192, False, 60.0),
            (8192, True, 40.0),
        ):
            found.append(Row(memory, plain, length, backward, predicted))
    return found


def make(row: Row) -> Callable[[str], tuple[Tensor, ...]]:
    """A function that runs the row by a plan: outputs, and with `backward` the gradients by all inputs."""
    shape = (2, row.length, 4)
    q, k, v = (torch.randn(*shape, 64, device="cuda") for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    controls = {}
    for control in row.memory.controls:
        size = control.size(64, 64)
        value = torch.rand(*shape, *([] if size is None else [size]), device="cuda")
        controls[control.name] = 0.8 + 0.2 * value if control.name == "decay" else value
    leaves = [x.to(torch.bfloat16).requires_grad_(row.backward) for x in (q, k, v)]
    leaves += [x.requires_grad_(row.backward) for x in controls.values()]
    state = row.memory.init(2, 4, 64, 64, device="cuda")

    def run(plan: str) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(row.backward):
            of_row = dict(zip(controls, leaves[3:], strict=True))
            out, _ = run_rows(row.memory, leaves[0], leaves[1], leaves[2], of_row, state, None, plan)
        if not row.backward:
            return (out,)
        return (out, *torch.autograd.grad(out.float().square().mean(), leaves))

    return run


def measure(row: Row, repeats: int) -> Result:
    """Compare the numbers, which warms both sides up, then time them alternately."""
    torch.manual_seed(0)
    run = make(row)
    for mine, theirs in zip(run(row.plain), run(KERNEL), strict=True):
        error = float((mine - theirs).detach().float().norm() / mine.detach().float().norm())
        assert error < 0.05, f"{row.name}: they differ by {error:.3f} of their size"
    times: dict[str, list[float]] = {row.plain: [], KERNEL: []}
    for _ in range(repeats):
        for plan, of_plan in times.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            run(plan)
            torch.cuda.synchronize()
            of_plan.append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(times[row.plain], times[KERNEL], strict=True))
    return Result(
        row.name,
        1e3 * statistics.median(times[row.plain]),
        1e3 * statistics.median(times[KERNEL]),
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        row.predicted,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--repeats", type=int, default=20, help="timings of each side (default 20)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="where results go")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("nothing measured: this machine has no GPU that torch can use")
        return
    chosen = [row for row in rows() if given.only in row.name]
    if not chosen:
        parser.error(f"no row's name contains {given.only!r}; there are: {'; '.join(row.name for row in rows())}")
    results = []
    print(f"{'':66}{'plain':>9} {'kernel':>9}   ratio [least, most]  predicted")
    for row in chosen:
        try:
            r = measure(row, given.repeats)
        except PlanError as refused:
            print(f"{row.name:66}not measured: {refused}")
            continue
        results.append(r)
        print(
            f"{r.name:66}{r.plain_ms:7.2f}ms {r.kernel_ms:7.2f}ms  {r.ratio:5.1f}x [{r.low:.1f}, {r.high:.1f}]"
            f"   {r.predicted:6.1f}x"
        )
    if not results:
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "flash-linear-attention": version("fla-core"),
        "gpu": torch.cuda.get_device_name(),
        "repeats": given.repeats,
        "rows": [asdict(r) for r in results],
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
