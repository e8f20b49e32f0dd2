"""The same small byte model trained for the same time with a fixed-size memory and as a transformer.

    python benchmarks/training.py                 # 150 seconds each, 2 threads
    python benchmarks/training.py --dtype bfloat16 --only speed

Width 192, 4 layers, windows of 512 bytes of Python's standard library, 8 a step, through `mnemos.train`; then bits per
byte on held-out text. Ratios are the transformer's / ours, of milliseconds a token and of bits per byte: above 1, ours
is better. There is a run of each a repetition, alternately, with another seed; a finished run is not done again, an
interrupted one goes on (`--runs` says where).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command `mnemos` does, before torch is loaded

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from timing import Result, Row, arguments, result, run_rows

import mnemos as mn
from mnemos.train import TrainConfig, read_metrics, train

SYSTEMS = ("gated_deltanet", "transformer")
WIDTH, DEPTH, HEADS, LENGTH, BATCH = 192, 4, 3, 512, 8
MARKS = {"tokens_per_second": 8000, "held_out_bits_per_byte": 2.35}


def run_one(system: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train, or read what was measured when it was trained."""
    config = TrainConfig(
        system=system,
        data="stdlib",
        out=given.runs / f"{system}-{given.dtype}-{given.seconds:g}s-{given.threads}t-{seed}",
        minutes=given.seconds / 60,
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        length=LENGTH,
        batch=BATCH,
        seed=seed,
        dtype=given.dtype,
        device="cpu",
        threads=given.threads,
        evaluate_every=10**6,
        checkpoint_every=10**6,
    )
    run = train(config)
    if not run.finished:
        raise SystemExit("stopped; the same command goes on")
    last = [record for record in read_metrics(config.out) if record["kind"] == "train"][-1]
    return {
        "tokens_per_second": last["tokens"] / last["seconds"],
        "held_out_bits_per_byte": run.bits_per_byte,
        "tokens": last["tokens"],
        "environment": json.loads((config.out / "environment.json").read_text()),
    }


def measure(row: Row, given: argparse.Namespace) -> Result:
    """All runs of both systems, and what they came to."""
    runs = [[run_one(system, seed, given) for system in SYSTEMS] for seed in range(given.repeats)]
    speed = "speed" in row.name
    key = "tokens_per_second" if speed else "held_out_bits_per_byte"
    pairs = [[1e3 / found[key] if speed else found[key] for found in both] for both in runs]
    first, second = (sorted(side)[len(side) // 2] for side in zip(*pairs, strict=True))
    with torch.device("meta"):
        models = [mn.LanguageModel(mn.zoo.model(s, width=WIDTH, depth=DEPTH, heads=HEADS)) for s in SYSTEMS]
    facts = {
        "seconds": given.seconds,
        "dtype": given.dtype,
        "parameters": [sum(p.numel() for p in model.parameters()) for model in models],
        "mark_of_ours": {key: MARKS[key]},
        "systems": SYSTEMS,
        "runs": runs,
    }
    return result(row, "ms/token" if speed else "bits/byte", first, second, [b / a for a, b in pairs], facts)


def rows(dtype: str) -> list[Row]:
    """Predictions are those for float32."""
    name = "training" if dtype == "float32" else f"training in {dtype}"
    return [
        Row(f"{name}: speed", "training", "transformer with SDPA", 0.75, 1.03, measure),
        Row(f"{name}: held-out bits per byte", "training", "transformer with SDPA", 1.15, 1.2, measure),
    ]


def main() -> None:
    parser = arguments(__doc__, repeats=1, threads=2)
    parser.add_argument("--seconds", type=float, default=150.0, help="of training, each run (default 150)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--runs", type=Path, default=Path("runs/training"), help="folder of the runs")
    given = parser.parse_args()
    run_rows(parser, given, rows(given.dtype))


if __name__ == "__main__":
    main()
