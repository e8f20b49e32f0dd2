"""Does a model go on profiting from its memory beyond its training length, by the memory its windows begin with?

    python benchmarks/length_generalisation.py                   # all systems, ways and seeds
    python benchmarks/length_generalisation.py --only gated_deltanet --seeds 1

Trains the same small model on windows that begin with an empty memory, with the one that an unrelated window left, with
noise, or with the one that the text before left (`mnemos train --initial-state`), then measures bits per byte by
position in held-out windows many times as long. Started again with the same arguments, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from mnemos.evaluate.loss_by_position import loss_by_position
from mnemos.train import TrainConfig, load_model, make_tokenizer, open_corpus, train

LENGTH, WINDOW, TOKENS = 64, 1024, 65536
WAYS: dict[str, dict[str, Any]] = {
    "fresh": {},
    "passed": {"initial_state": "passed", "fresh_rows": 0.5},
    "noisy": {"initial_state": "noisy", "fresh_rows": 0.5},
    "carried": {"initial_state": "carried", "fresh_rows": 0.5},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "gated_deltanet": {"width": 64, "depth": 2, "heads": 2, "batch": 8, "steps": 600},
    "titans_lmm": {"width": 32, "depth": 2, "heads": 2, "batch": 4, "steps": 600},
}


def measure(system: str, way: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train, then bits per byte by position."""
    config = TrainConfig(
        system=system,
        data="stdlib",
        out=runs / f"{system}-{way}-{seed}",
        length=LENGTH,
        seed=seed,
        threads=1,
        device="cpu",
        evaluate_every=10**6,
        evaluate_tokens=16384,
        **SYSTEMS[system],
        **WAYS[way],
    )
    run = train(config)
    if not run.finished:
        raise SystemExit("stopped; the same command goes on")
    corpus = open_corpus(config.data, make_tokenizer("bytes"), progress=False)
    found = loss_by_position(load_model(config.out), corpus, training_length=LENGTH, length=WINDOW, tokens=TOKENS)
    return {
        "system": system,
        "initial_state": way,
        "seed": seed,
        "within": found.within.mean,
        "beyond": found.beyond.mean,
        "buckets": {f"{b.first}-{b.last}": round(b.value.mean, 4) for b in found.buckets},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="systems whose name contains this")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default 3)")
    parser.add_argument("--runs", type=Path, default=Path("runs/length_generalisation"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/length_generalisation.json"))
    given = parser.parse_args()
    rows = []
    for system in [name for name in SYSTEMS if given.only in name]:
        for seed in range(given.seeds):
            for way in WAYS:
                rows.append(measure(system, way, seed, given.runs))
                record = {
                    "date": date.today().isoformat(),
                    "environment": json.loads((given.runs / f"{system}-{way}-{seed}" / "environment.json").read_text()),
                    "training_length": LENGTH,
                    "window": WINDOW,
                    "held_out_tokens": TOKENS,
                    "systems": SYSTEMS,
                    "fresh_rows": 0.5,
                    "rows": rows,
                }
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
