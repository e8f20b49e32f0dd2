"""How a training run went, read from its folder."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from mnemos.evaluate.demo_results import Learned
from mnemos.train.run import ENVIRONMENT, read_metrics


def learning_curve(run: Path) -> tuple[Learned, ...]:
    """Every evaluation of a run, with the tokens and the seconds of training until then."""
    records = read_metrics(run)
    reached = {r["step"]: (r["tokens"], r["seconds"]) for r in records if r["kind"] == "train"}
    return tuple(
        Learned(r["step"], *reached[r["step"]], r["bits_per_byte"]) for r in records if r["kind"] == "evaluate"
    )


def training_speed(run: Path) -> float:
    """Tokens per second of a run's training steps, the median."""
    return median(r["tokens_per_second"] for r in read_metrics(run) if r["kind"] == "train")


def run_environment(run: Path) -> dict[str, str]:
    """Versions and machine of a run's first start."""
    recorded = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    return {name: str(value) for name, value in recorded.items() if value is not None}
