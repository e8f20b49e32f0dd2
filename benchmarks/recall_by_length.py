"""Recall far beyond the training length: memories that find what they need, beside a context that is cut off.

    python benchmarks/recall_by_length.py                  # 5 seeds; about half an hour on two cores
    python benchmarks/recall_by_length.py --seeds 2 --steps 300

Associative recall (`mqar`): pairs at the beginning, blanks, and questions spread evenly over the whole sequence. Small
models (two layers, no positions, a convolution of four tokens before each memory) learn it at 64 tokens and are asked
at 64 to 1,024. What they read: a window of 64 (the truncated context), Landmark attention 4 blocks of 7 that its
point at and its own, HCAM a window of 16 and 4 chunks of 16, EM-LLM a window of 32 and 32 retrieved tokens, with the
weights of the model that attends to everything. That model itself is the upper end. HCAM learns more slowly and is
trained three times as long.

HCAM takes no gradient into what it stores, so it cannot learn to bind a value to the key in the token before. Its own
experiments store both in one item, so there is a second task of that kind (`nearest_key`): a vector holds a key and its
value, noisy copies of keys ask. One layer each; HCAM has chunks of 8, of which it reads 4.
Trials are kept in `--runs`; started again, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mnemos as mn
from mnemos.claims.base import over_seeds
from mnemos.evaluate.pictures import COLOURS, FAMILIES, style
from mnemos.evaluate.sweep import run_trials
from mnemos.evaluate.trial import Trial
from mnemos.layers import ChunkRecall, LayerSpec
from mnemos.memory import EpisodicMemory, Landmark, Recall, Representatives, Surprise
from mnemos.tasks import Batch, Task, TokenTask, make
from mnemos.tasks.registry import task
from mnemos.train import Optimiser
from mnemos.train.files import replace_text
from mnemos.train.run import environment

LENGTH, FACTORS, WIDTH, DEPTH, HEADS, CONV, BLOCK = 64, (1, 2, 4, 8, 16), 64, 2, 2, 4, 7
TASK = make("mqar:pairs=6,tokens=32,nearness=1,filler=blank", length=LENGTH)
EVERYTHING = LayerSpec(mn.KVMemory(), conv=CONV)
ITEMS = make("nearest_key:pairs=16,noise=0.2,key_dim=16,value_dim=8", length=LENGTH)


@task("landmarked_recall", source="arXiv 2305.16300, section 3.1: a landmark token after every block")
@dataclass(frozen=True)
class Landmarked(TokenTask):
    """Another task with a landmark, a token of its own, after every `block` - 1 of its tokens.

    inner: the task, as JSON. block: tokens of a block, its landmark included.
    """

    inner: str = field(default_factory=TASK.to_json)
    block: int = BLOCK

    @property
    def task(self) -> TokenTask:
        made: Task = mn.from_json(self.inner)
        assert isinstance(made, TokenTask)
        return made.at_length(self.length)

    @property
    def vocabulary(self) -> int:
        return self.task.vocabulary + 1

    @property
    def chance(self) -> float:
        return self.task.chance

    @property
    def places(self) -> Tensor:
        """Where the inner task's tokens stand among the landmarks."""
        number = torch.arange(self.length)
        return number + number // (self.block - 1)

    def draw(self, rows: int, random: np.random.Generator) -> Batch:
        batch = self.task.draw(rows, random)
        return Batch(
            self._spread(batch.inputs, self.vocabulary - 1),
            self._spread(batch.targets, 0),
            self._spread(batch.asked, False),
            {name: self._spread(fact, 0) for name, fact in batch.facts.items()},
        )

    def solve(self, inputs: Tensor) -> Tensor:
        inner = self.task.solve(inputs[:, self.places])
        found = inner.new_zeros(*inputs.shape, self.vocabulary)
        found[:, self.places, :-1] = inner
        return found

    def _spread(self, x: Tensor, between: float) -> Tensor:
        wide = x.new_full((len(x), int(self.places[-1]) + 1), between)
        wide[:, self.places] = x
        return wide


def model(*layers: Any, depth: int = DEPTH) -> str:
    return mn.ModelSpec(layers, width=WIDTH, depth=depth, heads=HEADS).to_json()


def landmarks(top: int | None) -> str:
    return model(EVERYTHING.replace(memory=mn.KVMemory(read=Landmark(BLOCK - 1, top))))


def trials(seed: int, steps: int, rate: float) -> dict[str, Trial]:
    """One a training run; which systems it gives is said by SYSTEMS."""
    shared: dict[str, Any] = {"steps": steps, "batch": 32, "seed": seed, "questions": 300}
    longer: dict[str, Any] = shared | {"steps": 3 * steps}
    optimiser = Optimiser(rate=rate, weight_decay=0.01)
    plain: dict[str, Any] = {
        "learn": (TASK.to_json(),),
        "ask": tuple(TASK.at_length(LENGTH * f).to_json() for f in FACTORS),
    }
    with_landmarks: dict[str, Any] = {
        "learn": (Landmarked(LENGTH).to_json(),),
        "ask": tuple(Landmarked(LENGTH * f).to_json() for f in FACTORS),
    }
    items: dict[str, Any] = {
        "learn": (ITEMS.to_json(),),
        "ask": tuple(ITEMS.at_length(LENGTH * f).to_json() for f in FACTORS),
    }
    window = EVERYTHING.replace(memory=mn.KVMemory(retain=mn.Window(LENGTH)))
    episodes = EpisodicMemory(Surprise(1.0), Representatives(4), Recall(24, 8, "tokens"), window=32, sinks=4)
    return {
        "everything": Trial(
            model(EVERYTHING), asked_as=(model(EVERYTHING), model(EVERYTHING.replace(memory=episodes)), model(window)),
            optimiser=optimiser, **plain, **shared,
        ),
        "landmarks": Trial(landmarks(None), asked_as=(landmarks(4),), optimiser=optimiser, **with_landmarks, **shared),
        "hcam": Trial(
            model(EVERYTHING.replace(memory=mn.KVMemory(retain=mn.Window(16))), ChunkRecall(16, 4, None)),
            optimiser=optimiser, **plain, **longer,
        ),
        "items": Trial(
            model(KEPT, depth=1), asked_as=(model(KEPT, depth=1), model(CUT, depth=1)),
            optimiser=optimiser, **items, **shared,
        ),
        "items, hcam": Trial(model(ChunkRecall(8, 4), depth=1), optimiser=optimiser, **items, **shared),
    }  # fmt: skip


KEPT = LayerSpec(mn.KVMemory())
CUT = LayerSpec(mn.KVMemory(retain=mn.Window(LENGTH)))


SYSTEMS = (
    ("full attention", "everything", 0),
    ("Landmark, 4 blocks of 7", "landmarks", 0),
    ("HCAM, 4 chunks of 16", "hcam", 0),
    ("EM-LLM, window 32 and 32 found", "everything", 1),
    ("truncated to 64 tokens", "everything", 2),
)
"""Name, training run, and which of the declarations asked there."""
OF_ITEMS = (
    ("full attention", "items", 0),
    ("HCAM, 4 chunks of 8", "items, hcam", 0),
    ("truncated to 64 tokens", "items", 1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--steps", type=int, default=600, help="of training (default 600)")
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default 4e-3)")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for one a core (default)")
    parser.add_argument("--runs", type=Path, default=Path("runs/recall_by_length"), help="folder of the trials")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recall_by_length.json"))
    given = parser.parse_args()
    wanted = {(name, s): t for s in range(given.seeds) for name, t in trials(s, given.steps, given.rate).items()}
    found = run_trials(list(wanted.values()), given.runs, workers=given.workers)

    def scores(run: str, which: int) -> list[list[float]]:
        outcomes = [found[wanted[run, seed].key] for seed in range(given.seeds)]
        answers = [o.answers[len(FACTORS) * which : len(FACTORS) * (which + 1)] for o in outcomes]
        return [[answer.score.mean for answer in of_seed] for of_seed in answers]

    record = {
        "date": date.today().isoformat(),
        "machine": environment(),
        "seeds": given.seeds,
        "steps": given.steps,
        "lengths": [LENGTH * factor for factor in FACTORS],
        "chance": TASK.chance,
        "recall": {name: scores(run, which) for name, run, which in SYSTEMS},
        "error": {name: scores(run, which) for name, run, which in OF_ITEMS},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(given.out, json.dumps(record, indent=1) + "\n")
    for what in ("recall", "error"):
        print(f"| {what} at | " + " | ".join(f"{n:,}" for n in record["lengths"]) + " |")
        print("| --- |" + " ---: |" * len(FACTORS))
        for name, each in record[what].items():
            print(f"| {name} | " + " | ".join(str(over_seeds(column)) for column in zip(*each, strict=True)) + " |")
    draw(record, given.out.with_suffix(".png"))
    print(f"written to {given.out} and {given.out.with_suffix('.png')}")


def draw(record: dict[str, Any], path: Path) -> None:
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.4), layout="constrained", facecolor="white")
        panels = (
            ("recall", "tokens: a key, then its value", record["chance"]),
            ("error", "vectors: a key beside its value", ITEMS.chance),
        )
        for (what, title, chance), axes in zip(panels, figure.subplots(1, 2), strict=True):
            for colour, (name, scores) in zip(FAMILIES, record[what].items(), strict=False):
                each = [over_seeds(column) for column in zip(*scores, strict=True)]
                axes.fill_between(
                    record["lengths"], [e.low for e in each], [e.high for e in each], color=colour, alpha=0.16
                )
                axes.plot(record["lengths"], [e.mean for e in each], color=colour, marker="o", markersize=4, label=name)
            axes.axhline(chance, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xscale("log", base=2)
            axes.set_xticks(record["lengths"], [f"{n:,}" for n in record["lengths"]])
            axes.set(xlabel=f"tokens (trained on {LENGTH})", ylabel=what, ylim=(-0.02, 1.04), title=title)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False)
        figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
