"""Reading the past by buckets that double with age recalls more over long sequences than reading it as one."""

from __future__ import annotations

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.sizing import parameters, with_parameters
from mnemos.layers import LayerDeclaration
from mnemos.tasks import make
from mnemos.tasks.mqar import MultiQueryRecall

PAIRS = (2, 4, 8)
LEVELS = 8
KEY_SHARE, STATE = 0.25, 4
BASES: dict[str, tuple[LayerDeclaration, LayerDeclaration]] = {
    "Gated DeltaNet": (
        mn.zoo.gated_deltanet().replace(key_expand=KEY_SHARE),
        mn.zoo.log_linear_gated_deltanet(levels=LEVELS).replace(key_expand=KEY_SHARE),
    ),
    "Mamba-2": (mn.zoo.mamba2(state_dim=STATE), mn.zoo.log_linear_mamba2(levels=LEVELS, state_dim=STATE)),
}
RATES = (1e-2,)


@claim(
    title="Log-linear attention recalls more than its linear base",
    arxiv=("2506.04761",),
    where="the MQAR among the experiments of section 4",
    sentence="Log-linear Mamba-2 and log-linear Gated DeltaNet keep a number of states that grows with the logarithm "
    "of the sequence, and outperform their linear counterparts at recall of many pairs over long sequences (MQAR).",
    setting="Models of one layer and 32 channels with two heads, keys of 4 channels, and equal parameters; the state "
    "is larger by the number of levels, 8, which is the method. MQAR in 32, 64 and 128 tokens with 2, 4 and 8 pairs, "
    "blanks and questions mixed behind the pairs; all three are learnt in turn, the longest is asked.",
    refuted_if="in the longest sequences the log-linear form of Gated DeltaNet or of Mamba-2 does not answer more "
    "than its base.",
    shrinks="One layer and 128 tokens; the paper's MQAR has 256 tokens and up to 64 pairs, and its language models "
    "read 16,384 tokens.",
    minutes=6,
)
def log_linear(bench: Bench) -> Findings:
    tasks = [make(f"mqar:length={16 * pairs},pairs={pairs},tokens=32,filler=blank,nearness=1") for pairs in PAIRS]
    assert isinstance(tasks[0], MultiQueryRecall)
    specs: dict[tuple[str, str], mn.ModelSpec] = {}
    for base, layers in BASES.items():
        linear, levels = (
            mn.ModelSpec((layer,), width=32, depth=1, heads=2, vocabulary=tasks[0].vocabulary) for layer in layers
        )
        specs[base, "linear"] = with_parameters(linear, parameters(levels))
        specs[base, "log-linear"] = levels
    learned = bench.learned(specs, tasks, tasks[::-1], steps=bench.size(1200, 10000), rates=RATES, questions=4000)
    found = {
        name: [[answers.score.mean for answers in reversed(outcome.answers)] for outcome in outcomes]
        for name, outcomes in learned.items()
    }
    return Findings(
        statements=tuple(
            Statement(
                f"accuracy with {tasks[-1].length} tokens, log-linear {base} minus {base}",
                difference([own[-1] for own in found[base, "log-linear"]], [own[-1] for own in found[base, "linear"]]),
            )
            for base in BASES
        ),
        panels=(
            Panel(
                "MQAR, a pair for every 16 tokens",
                "tokens",
                "accuracy",
                tuple(
                    Line(
                        base if form == "linear" else f"log-linear {base}",
                        tuple(float(task.length) for task in tasks),
                        tuple(over_seeds([own[i] for own in found[base, form]]) for i in range(len(tasks))),
                    )
                    for base, form in specs
                ),
                x_log=True,
            ),
        ),
    )
