"""State space layers that start as linear attention learn to recall in fewer steps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.trial import Outcome
from mnemos.layers import Mimetic
from mnemos.tasks import make

PAIRS = (4, 8)
STARTS = {"mimetic": Mimetic(mn.zoo.mamba2(state_dim=32)), "usual": mn.zoo.mamba2(state_dim=32)}


@claim(
    title="Mimetic initialisation speeds up learning to recall",
    arxiv=("2410.11135",),
    where="abstract, and the section on copying and recall",
    sentence="Initialised so that they resemble linear attention, state space layers learn to copy and to recall "
    "from scratch much more easily, across architecture settings.",
    setting="Multi-query associative recall of 4 and of 8 pairs among 32 tokens, sequences of 64; Mamba-2 of two "
    "layers, 32 channels, two heads and 32 state channels, 400 steps at one learning rate. The two differ in their "
    "first weights only: equal maps for queries and keys, decays near 1, steps of 1, convolutions that pass their "
    "input on.",
    refuted_if="after these steps the model with the usual first weights recalls no less than the mimetic one, or "
    "its mean loss over all steps is no higher.",
    shrinks="The paper trains Mamba and Mamba-2 for longer, at lengths of hundreds, and copies strings as well.",
    minutes=4,
)
def mimetic_initialisation(bench: Bench) -> Findings:
    pairs = bench.pick(PAIRS)
    tasks = {n: make(f"mqar:length=64,pairs={n},tokens=32") for n in pairs}
    models = {start: mn.ModelSpec((layer,), width=32, depth=2, heads=2, ffn=2.0) for start, layer in STARTS.items()}
    learned = {
        n: bench.learned(models, [task], [task], steps=bench.size(400, 4000), rates=(4e-3,))
        for n, task in tasks.items()
    }

    def accuracy(start: str, n: int) -> list[float]:
        return [o.answers[0].score.mean for o in learned[n][start]]

    def loss(start: str, n: int) -> list[float]:
        return [fmean(value for _, value in o.losses) for o in learned[n][start]]

    return Findings(
        statements=(
            *(
                Statement(
                    f"accuracy with mimetic minus that with usual first weights, {n} pairs",
                    difference(accuracy("mimetic", n), accuracy("usual", n)),
                )
                for n in pairs
            ),
            *(
                Statement(
                    f"mean loss over training with usual minus that with mimetic first weights, {n} pairs",
                    difference(loss("usual", n), loss("mimetic", n)),
                )
                for n in pairs
            ),
        ),
        panels=(
            Panel(
                "Recall after training",
                "pairs",
                "accuracy",
                tuple(
                    Line(start, tuple(map(float, pairs)), tuple(over_seeds(accuracy(start, n)) for n in pairs))
                    for start in STARTS
                ),
            ),
            Panel(
                "Learning to recall",
                "steps",
                "loss",
                tuple(curve(f"{start}, {n} pairs", learned[n][start]) for start in STARTS for n in pairs),
            ),
        ),
        note=f"Who guesses a value is right in {tasks[pairs[0]].chance:.3f} of the cases.",
    )


def curve(name: str, outcomes: Sequence[Outcome]) -> Line:
    """The loss against the steps."""
    each = [outcome.losses for outcome in outcomes]
    steps = [step for step, _ in each[0]]
    return Line(
        name,
        tuple(map(float, steps)),
        tuple(over_seeds([dict(losses)[step] for losses in each]) for step in steps),
    )
