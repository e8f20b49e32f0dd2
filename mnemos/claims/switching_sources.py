"""RNNs and linear recurrences approach the Bayes-optimal predictor of a switching source."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from torch import Tensor

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, over_seeds
from mnemos.evaluate.trial import examples
from mnemos.tasks import Batch, make
from mnemos.tasks.partition_tree import krichevsky_trofimov, partition_tree_weighting
from mnemos.tasks.switching import SwitchingSources

SYSTEMS = ("gated_deltanet", "mamba2", "hawk", "transformer")
RATES = (4e-3,)
QUESTIONS = 100_000


@claim(
    title="Trained sequence models approach the Bayes-optimal predictor of a switching source",
    arxiv=("2302.03067",),
    where="section 5, piecewise stationary memoryless sources",
    sentence="Transformers, LSTMs and RNNs that are trained to predict piecewise stationary sources learn to "
    "approximate the Bayes-optimal algorithm, which mixes over the times of switches, as if they did Bayesian "
    "inference.",
    setting="Binary sources that switch with a probability of 1 in 50 at every token; sequences of 128; small models "
    "of two layers and 32 channels. The regret is the log loss beyond that of the exact mixture over the last "
    "switch, on the same tokens; the yardstick is the regret of the best predictor that knows no switch, "
    "Krichevsky-Trofimov.",
    refuted_if="for every one of the systems the regret is not below a tenth of that predictor's.",
    shrinks="Two symbols and 128 tokens; the paper also has larger alphabets, longer sequences and LSTMs.",
    minutes=9,
)
def switching_sources(bench: Bench) -> Findings:
    task = make("switching:length=128")
    assert isinstance(task, SwitchingSources)
    models = {system: mn.zoo.model(system, width=32, depth=2, heads=2) for system in SYSTEMS}
    steps = bench.size(1000, 10000)
    learned = bench.learned(models, [task], [task], steps=steps, rates=RATES, questions=QUESTIONS)
    regrets: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    blind, tree = [], []
    for seed in range(bench.seeds):
        judged = list(examples(task, seed, questions=QUESTIONS))
        best = mean_loss(task, judged, task.solve)
        blind.append(mean_loss(task, judged, lambda x: krichevsky_trofimov(x, task.symbols)) - best)
        tree.append(mean_loss(task, judged, lambda x: partition_tree_weighting(x, task.symbols)) - best)
        for system in SYSTEMS:
            regrets[system].append(learned[system][seed].answers[0].score.mean - best)
    return Findings(
        statements=tuple(
            Statement(
                f"regret of {system}, as a share of that of the predictor that knows no switch",
                over_seeds([own / of_blind for own, of_blind in zip(regrets[system], blind, strict=True)]),
                0.1,
                "below",
            )
            for system in SYSTEMS
        ),
        panels=(
            Panel(
                "Log loss beyond the Bayes-optimal predictor",
                "",
                "bits a token",
                (
                    *(Line(system, (0.0,), (over_seeds(regrets[system]),)) for system in SYSTEMS),
                    Line("partition tree weighting", (0.0,), (over_seeds(tree),)),
                    Line("knows no switch", (0.0,), (over_seeds(blind),)),
                ),
            ),
        ),
    )


def mean_loss(task: SwitchingSources, batches: list[Batch], predict: Callable[[Tensor], Tensor]) -> float:
    """In bits a token, of a predictor that gives logits."""
    return fmean(float(task.score(predict(batch.inputs).float(), batch).mean()) for batch in batches)
