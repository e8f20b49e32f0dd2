"""Titans trained with a deep memory, several heads and the default step sizes: does any number stop being finite?

    python benchmarks/titans_stability.py --only titans          # all four, 2,000 steps each
    python benchmarks/titans_stability.py --only without --steps 300

Each system is trained by `mnemos.train` on the sources of Python's standard library, with all rates at their defaults.
A run whose loss or gradient is not finite ends with an error that says where, which is written down. Started again with
the same arguments, the script goes on where it was stopped; results are added to those in the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date
from pathlib import Path
from typing import Any

import mnemos as mn
from mnemos.errors import RunError
from mnemos.layers import Sigmoid
from mnemos.train import TrainConfig, read_metrics, train

SYSTEMS: dict[str, Any] = {
    "titans_lmm": mn.zoo.titans_lmm(depth=4),
    "titans_mac": mn.zoo.titans_mac(depth=4),
    "titans_mag": mn.zoo.titans_mag(depth=4, window=32),
    "titans_mal": mn.zoo.titans_mal(depth=4, window=32),
}
LMM = SYSTEMS["titans_lmm"]
DEEP = LMM.memory
SYSTEMS |= {  # what happens without each of the three things that keep it stable
    "without_norm": LMM.replace(memory=DEEP.replace(structure=mn.MLP(depth=4, norm=False))),
    "without_small_rates": LMM.replace(controls=(*LMM.controls[1:], ("rate", Sigmoid(high=1.0)))),
    "without_unit_keys": LMM.replace(keys=None),
    "without_all_three": LMM.replace(
        memory=DEEP.replace(structure=mn.MLP(depth=4, norm=False)),
        controls=(*LMM.controls[1:], ("rate", Sigmoid(high=1.0))),
        keys=None,
    ),
}
WIDTH, BLOCKS, HEADS, LENGTH, BATCH = 32, 2, 2, 128, 2


def declaration(name: str) -> mn.ModelSpec:
    """The model of this system."""
    system = SYSTEMS[name]
    pattern = system.pattern if isinstance(system, mn.ModelSpec) else (system,)
    return mn.ModelSpec(pattern, width=WIDTH, depth=BLOCKS, heads=HEADS)


def configuration(name: str, steps: int, folder: Path) -> TrainConfig:
    """The run of this system; its declaration is written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    system = folder / f"{name}.json"
    system.write_text(declaration(name).to_json())
    return TrainConfig(
        system=str(system),
        data="stdlib",
        out=folder / name,
        steps=steps,
        length=LENGTH,
        batch=BATCH,
        threads=1,
        device="cpu",
        evaluate_every=500,
        evaluate_tokens=16384,
        checkpoint_every=250,
    )


def summary(config: TrainConfig, stopped: str | None, every: int = 50) -> dict[str, Any]:
    """What the run measured: means of the loss (nats a byte) and the longest gradient over every 50 steps."""
    records = read_metrics(config.out)
    steps = [r for r in records if r["kind"] == "train"]
    groups = [steps[i : i + every] for i in range(0, len(steps), every)]
    evaluations = [r for r in records if r["kind"] == "evaluate"]
    return {
        "declaration": json.loads(Path(config.system).read_text()),
        "steps": steps[-1]["step"],
        "stopped": stopped,
        "seconds": round(steps[-1]["seconds"]),
        "first_loss": steps[0]["loss"],
        "loss_every_50_steps": [round(statistics.fmean(r["loss"] for r in group), 4) for group in groups],
        "largest_gradient_norm": max(r["gradient_norm"] for r in steps),
        "largest_gradient_norm_every_50_steps": [round(max(r["gradient_norm"] for r in g), 3) for g in groups],
        "held_out_bits_per_byte": {str(r["step"]): round(r["bits_per_byte"], 4) for r in evaluations},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="systems whose name contains this")
    parser.add_argument("--steps", type=int, default=2000, help="of each system (default 2000)")
    parser.add_argument("--runs", type=Path, default=Path("runs/titans_stability"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/titans_stability.json"))
    given = parser.parse_args()
    names = [name for name in SYSTEMS if given.only in name]
    if not names:
        parser.error(f"no system's name contains {given.only!r}; there are {', '.join(SYSTEMS)}")
    systems = json.loads(given.out.read_text())["systems"] if given.out.is_file() else {}
    for name in names:
        config = configuration(name, given.steps, given.runs)
        stopped = None
        try:
            if not train(config).finished:
                break
        except RunError as error:
            stopped = str(error)
            print(f"{name}: {stopped}")
        systems[name] = summary(config, stopped)
        record = {
            "date": date.today().isoformat(),
            "machine": json.loads((config.out / "environment.json").read_text()),
            "model": {"width": WIDTH, "blocks": BLOCKS, "heads": HEADS, "length": LENGTH, "batch": BATCH},
            "systems": systems,
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
