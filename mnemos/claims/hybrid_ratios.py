"""A few layers of full attention bring recall to linear models and hardly change their loss."""

from __future__ import annotations

import math

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.claims.processes import over_processes
from mnemos.errors import RunError
from mnemos.models import hybrid
from mnemos.tasks import make
from mnemos.tasks.mqar import MultiQueryRecall
from mnemos.train import Optimiser, TrainConfig, train

LINEAR = mn.zoo.gated_deltanet().replace(key_expand=0.25)
FULL = mn.LayerSpec(mn.KVMemory(read=mn.Softmax(rotary=10000.0)), conv=4)
DEPTH = 4
RATIOS = {"none": math.inf, "1 in 4": 3, "1 in 2": 1, "all": 0}
READING = ("none", "all", "1 in 4")
TASKS = tuple(f"mqar:length=32,pairs={pairs},tokens=32,filler=blank" for pairs in (8, 4, 2))
"""What is learnt in turn; the first is asked."""
RATES = (5e-3,)


@claim(
    title="Full attention in a hybrid brings recall and hardly changes the loss",
    arxiv=("2507.06457",),
    where="sections 4 and 5, recall and language modelling against the ratio of linear to full attention",
    sentence="Language modelling stays stable across ratios of linear to full attention, recall improves "
    "significantly with more full attention layers, particularly below 3 to 1; Transformer-level recall is reached "
    "at ratios of 3 to 1 to 6 to 1.",
    setting="Four layers of 32 channels, Gated DeltaNet with keys of 4 channels a head, of which none, one, two or "
    "all are full attention with rotary positions in its place. All layers have the short convolution, so that small "
    "models learn in few steps. Recall: MQAR, learnt with 2, 4 and 8 pairs in turn, asked with 8. Loss: bits per "
    "held-out byte of Python's standard library in windows of 128.",
    refuted_if="full attention in all layers, or in one of four, does not raise recall above that of none, one in "
    "four leaves it more than 0.1 below that of all full layers, or the bits per byte of different ratios spread by "
    "more than 5 %.",
    shrinks="Four layers and 1 to 2 minutes of training where the paper trains 24 layers on 20B and 100B tokens; of "
    "its six linear layers one, of its ratios the pure models, 3 to 1 and 1 to 1.",
    minutes=8,
)
def hybrid_ratios(bench: Bench) -> Findings:
    recall, bits = recalls(bench), losses(bench)
    spread = [(max(values) - min(values)) / (sum(values) / len(values)) for values in zip(*bits.values(), strict=True)]
    read = [name for name in RATIOS if name in bits]
    shares = {name: 0.0 if ratio == math.inf else 1 / (ratio + 1) for name, ratio in RATIOS.items()}
    return Findings(
        statements=(
            Statement("accuracy on MQAR, all layers full minus none", difference(recall["all"], recall["none"])),
            Statement(
                "accuracy on MQAR, one full layer in four minus none", difference(recall["1 in 4"], recall["none"])
            ),
            Statement(
                "accuracy on MQAR, all layers full minus one in four",
                difference(recall["all"], recall["1 in 4"]),
                0.1,
                "below",
            ),
            Statement(
                "spread of the bits per byte over none, one in four and all, relative to their mean",
                over_seeds(spread),
                0.05,
                "below",
            ),
        ),
        panels=(
            Panel(
                "MQAR, 8 pairs",
                "share of full attention layers",
                "accuracy",
                (Line("recall", tuple(shares.values()), tuple(over_seeds(recall[name]) for name in RATIOS)),),
            ),
            Panel(
                "Text",
                "share of full attention layers",
                "bits per byte",
                (Line("loss", tuple(shares[n] for n in read), tuple(over_seeds(bits[n]) for n in read)),),
            ),
        ),
    )


def recalls(bench: Bench) -> dict[str, list[float]]:
    """Accuracy on MQAR, of every seed."""
    tasks = [make(text) for text in TASKS]
    assert isinstance(tasks[0], MultiQueryRecall)
    models = {
        name: hybrid(LINEAR, FULL, ratio, DEPTH, width=32, heads=2, vocabulary=tasks[0].vocabulary)
        for name, ratio in RATIOS.items()
    }
    learned = bench.learned(models, tasks, tasks[:1], steps=bench.size(1000, 10000), rates=RATES, questions=4000)
    return {name: [o.answers[0].score.mean for o in outcomes] for name, outcomes in learned.items()}


def losses(bench: Bench) -> dict[str, list[float]]:
    """Bits per held-out byte, of every seed."""
    runs = [_run(bench, name, seed) for name in bench.pick(READING) for seed in range(bench.seeds)]
    found = over_processes(bench, bits_per_byte, runs)
    return {name: found[i * bench.seeds : (i + 1) * bench.seeds] for i, name in enumerate(bench.pick(READING))}


def bits_per_byte(config: TrainConfig) -> float:
    """Of a run, trained now unless it is finished."""
    found = train(config, progress=False).bits_per_byte
    if found is None:
        raise RunError(f"the run in {config.out} was stopped; the same command goes on with it.")
    return found


def _run(bench: Bench, name: str, seed: int) -> TrainConfig:
    folder = bench.folder / "text" / f"{name.replace(' ', '_')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    declared = folder / "model.json"
    declared.write_text(hybrid(LINEAR, FULL, RATIOS[name], DEPTH, width=32, heads=2).to_json(), encoding="utf-8")
    return TrainConfig(
        system=str(declared),
        data="stdlib",
        out=folder / "run",
        steps=bench.size(500, 10000, shortest=2),
        length=128,
        batch=8,
        optimiser=Optimiser(rate=RATES[0], weight_decay=0.01),
        seed=seed,
        threads=1,
        evaluate_every=10**6,
        evaluate_tokens=bench.size(65536, 2**20, shortest=512),
    )
