"""Recall is set by the size of the state, in one family of layers and across families."""

from __future__ import annotations

from collections.abc import Sequence

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.sizing import state_bytes, with_parameters, with_state
from mnemos.layers import Taylor
from mnemos.memory import Window
from mnemos.tasks import make
from mnemos.tasks.mqar import MultiQueryRecall

FAMILIES = {
    "Taylor linear attention": mn.LayerSpec(
        mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0)), keys=Taylor(), norm="sum", key_expand=0.25, conv=4
    ),
    "sliding window": mn.LayerSpec(mn.KVMemory(retain=Window(16), read=mn.Softmax(rotary=10000.0)), conv=4),
    "Gated DeltaNet": mn.zoo.gated_deltanet(),
}
SIZES = (2048, 4096, 8192)
PARAMETERS = 17_000
RATES = (1e-2,)


@claim(
    title="Recall is set by the size of the state",
    arxiv=("2402.18668",),
    where="section 3, the tradeoff of memory and recall: MQAR against state size, and a lower bound on the state",
    sentence="A model's ability to recall is traded off against the size of its recurrent state: within a family of "
    "architectures recall rises with the bytes of state, and any recurrent model needs a state that grows with what "
    "it is to recall.",
    setting="MQAR in 48 tokens, learnt with 3, 6 and 12 pairs in turn and asked with 12, by models of one layer and "
    "32 channels with equal parameters and states of 2, 4 and 8 KiB: linear attention with the second-order Taylor "
    "features, Gated DeltaNet (of both, the channels of the keys are scaled) and a sliding window (its tokens). All "
    "have a short convolution, which counts as state. Near one curve: the rank correlation of bytes and accuracy "
    "over all nine models of a seed.",
    refuted_if="in one of the families the largest state does not answer more than the smallest, or the rank "
    "correlation over all families is not above 0.5.",
    shrinks="One layer of 32 channels, 48 tokens; the paper trains on more tokens with up to 256 pairs, and has "
    "further families. Mamba, one of them, does not learn the task in so few steps, so it is left out; Gated "
    "DeltaNet is not the paper's.",
    minutes=5,
)
def based_frontier(bench: Bench) -> Findings:
    tasks = [make(f"mqar:length=48,pairs={pairs},tokens=32,filler=blank") for pairs in (12, 6, 3)]
    assert isinstance(tasks[0], MultiQueryRecall)
    sizes = bench.pick(SIZES)
    specs = {
        (family, size): with_parameters(
            with_state(mn.ModelSpec((layer,), width=32, depth=1, heads=2, vocabulary=tasks[0].vocabulary), size),
            PARAMETERS,
        )
        for family, layer in FAMILIES.items()
        for size in sizes
    }
    learned = bench.learned(specs, tasks, tasks[:1], steps=bench.size(700, 10000), rates=RATES, questions=4000)
    found = {name: [o.answers[0].score.mean for o in outcomes] for name, outcomes in learned.items()}
    taken = {name: state_bytes(spec) for name, spec in specs.items()}
    correlations = [
        rank_correlation([taken[name] for name in specs], [found[name][seed] for name in specs])
        for seed in range(bench.seeds)
    ]
    return Findings(
        statements=(
            *(
                Statement(
                    f"accuracy of {family}, {sizes[-1]:,} minus {sizes[0]:,} bytes of state",
                    difference(found[family, sizes[-1]], found[family, sizes[0]]),
                )
                for family in FAMILIES
            ),
            Statement("rank correlation of bytes and accuracy over all families", over_seeds(correlations), 0.5),
        ),
        panels=(
            Panel(
                "MQAR",
                "bytes of state",
                "accuracy",
                tuple(
                    Line(
                        family,
                        tuple(float(taken[family, size]) for size in sizes),
                        tuple(over_seeds(found[family, size]) for size in sizes),
                    )
                    for family in FAMILIES
                ),
                x_log=True,
            ),
        ),
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, ties sharing their mean rank."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    a, b = ranks(first), ranks(second)
    middle = (len(a) - 1) / 2
    both = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = (sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)) ** 0.5
    return both / spread if spread else 0.0
