"""Several memories of which each token gets a few recall more than one, at equal compute."""

from __future__ import annotations

import torch

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.sizing import parameters, with_parameters
from mnemos.layers import LayerDeclaration
from mnemos.tasks import make
from mnemos.tasks.rebinding import Rebinding
from mnemos.zoo.mom import mom

WIDTH, DEPTH, HEADS, CHANNELS = 32, 2, 2, 4
KEYS = (4, 8, 16)
RATES = (1e-2,)
MIXED, PLAIN, WIDE = "mixture of memories", "one memory", "one memory, as many operations"


@claim(
    title="A mixture of memories recalls more than one memory at equal compute",
    arxiv=("2502.13685",),
    where="section 4, recall-intensive tasks, and the comparison with a single memory expanded",
    sentence="A mixture of memories outperforms linear models of one memory on recall-intensive tasks, also where "
    "the one memory is enlarged, since separate memories keep associations from interfering; each token pays for the "
    "few memories that it is routed to only.",
    setting="Models of two layers and 32 channels with two heads: MoM of four gated delta rules with keys of 4 "
    "channels, two active for a token, and a shared one; one gated delta rule with the same keys; and one whose keys "
    "are widened until a token costs as many operations as in MoM. The second gets as many parameters by its "
    "feed-forward layers, the third the feed-forward layers of MoM. The task: the latest value of one of 4, 8 or 16 "
    "keys that are bound again and again (rebinding); the three are learnt in turn, 16 is asked.",
    refuted_if="MoM does not answer more than one memory of the same keys, or not more than the one that costs as "
    "many operations.",
    shrinks="Two layers of 32 channels and 64 tokens where the paper trains 340M and 1.3B parameters on text. In so "
    "narrow a model most operations of MoM are projections to the keys and values of its memories.",
    minutes=7,
)
def mixture_of_memories(bench: Bench) -> Findings:
    tasks = [make(f"rebinding:length=64,keys={keys},tokens=64") for keys in KEYS]
    assert isinstance(tasks[0], Rebinding)
    mixture, one = mom(), mn.zoo.gated_deltanet()
    share = CHANNELS * HEADS / WIDTH
    mixed = model(mixture.replace(layer=mixture.layer.replace(key_expand=share)), tasks[0].vocabulary)
    wanted = operations(mixed, tasks[-1].length)
    wider = [model(one.replace(key_expand=k * HEADS / WIDTH), tasks[0].vocabulary) for k in range(CHANNELS, 64)]
    specs = {
        MIXED: mixed,
        PLAIN: with_parameters(model(one.replace(key_expand=share), tasks[0].vocabulary), parameters(mixed)),
        WIDE: min(wider, key=lambda spec: abs(operations(spec, tasks[-1].length) - wanted)),
    }
    found = bench.learned(specs, tasks, tasks[::-1], steps=bench.size(1000, 10000), rates=RATES, questions=4000)
    hardest = {name: [o.answers[0].score.mean for o in found[name]] for name in specs}
    costs = "; ".join(
        f"{name}: {operations(spec, tasks[-1].length):,.0f} operations a token, {found[name][0].parameters:,} "
        f"parameters, {found[name][0].state_bytes[0]:,} bytes of state"
        for name, spec in specs.items()
    )
    return Findings(
        statements=tuple(
            Statement(f"accuracy with {KEYS[-1]} keys, {MIXED} minus {name}", difference(hardest[MIXED], hardest[name]))
            for name in (PLAIN, WIDE)
        ),
        panels=(
            Panel(
                "Keys that are bound again and again",
                "keys",
                "accuracy",
                tuple(
                    Line(
                        name,
                        tuple(map(float, KEYS)),
                        tuple(
                            over_seeds([o.answers[-1 - i].score.mean for o in found[name]]) for i in range(len(KEYS))
                        ),
                    )
                    for name in specs
                ),
                x_log=True,
            ),
        ),
        note=f"{costs}.",
    )


def model(layer: LayerDeclaration, vocabulary: int) -> mn.ModelSpec:
    """Blocks of this layer."""
    return mn.ModelSpec((layer,), width=WIDTH, depth=DEPTH, heads=HEADS, vocabulary=vocabulary)


def operations(spec: mn.ModelSpec, length: int) -> float:
    """Floating point operations of a token, forward."""
    with torch.device("meta"):
        return mn.LanguageModel(spec).flops_per_token(length)
