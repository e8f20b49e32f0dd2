"""Titans with memory as a context finds what stands far beyond its training length."""

from __future__ import annotations

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.sizing import parameters, state_bytes, with_parameters, with_state
from mnemos.tasks import make

FACTORS = (1, 16, 2, 4, 8)
"""Of the training length; the first is learned, the second judged."""
RATES = (4e-3,)
MAC, WINDOW = "Titans, memory as a context", "sliding window"


@claim(
    title="Titans finds a needle far beyond its training length",
    arxiv=("2501.00663",),
    where="section 5.3, needle in a haystack, table 2",
    sentence="Titans with memory as a context keeps finding the needle as the text grows to many times the length it "
    "was trained for (98.4 % of pass keys at 16,000 tokens, 4,000 being the context of training), where models that "
    "keep as much without a deep memory that learns lose it.",
    setting="One pair of a key and a value among 16 tokens, then blanks, in which the key comes once more at a place "
    "drawn evenly: learned in sequences of 64, asked in sequences of up to 1,024. Two layers of 32 channels and two "
    "heads, segments of 16, memories of two layers; beside it a sliding window, without sinks, of equally many bytes "
    "of state and parameters, which therefore sees all of the training length; 300 steps each.",
    refuted_if="at 16 times the training length Titans recalls no more than the window, or loses more than half of "
    "what it recalls at the training length beyond guessing.",
    shrinks="The haystack is blank and the needle two tokens; the paper's is running text, its models have 170 "
    "million parameters and more. With two pairs neither model had learnt the task in 300 to 400 steps, in single "
    "trials; hence one.",
    minutes=5,
)
def titans_needle(bench: Bench) -> Findings:
    task = make("mqar:length=64,pairs=1,tokens=16,filler=blank,nearness=1")
    factors = bench.pick(FACTORS)
    learned = bench.learned(
        systems(),
        [task],
        [task.at_length(task.length * factor) for factor in factors],
        steps=bench.size(300, 4000),
        rates=RATES,
        questions=bench.size(256, 2000),
    )
    found = {
        system: {factor: [o.answers[i].score.mean for o in outcomes] for i, factor in enumerate(factors)}
        for system, outcomes in learned.items()
    }
    near, far = factors[:2]
    half = [task.chance + (score - task.chance) / 2 for score in found[MAC][near]]
    return Findings(
        statements=(
            Statement(
                f"accuracy of Titans minus the window's at {far} times the training length",
                difference(found[MAC][far], found[WINDOW][far]),
            ),
            Statement(
                f"accuracy of Titans at {far} times the training length, minus half of what it has at that length "
                "beyond guessing",
                difference(found[MAC][far], half),
            ),
        ),
        panels=(
            Panel(
                "A needle in blanks",
                "length",
                "accuracy",
                tuple(
                    Line(
                        system,
                        tuple(float(task.length * factor) for factor in sorted(factors)),
                        tuple(over_seeds(by[factor]) for factor in sorted(factors)),
                    )
                    for system, by in found.items()
                ),
                x_log=True,
            ),
        ),
        note=f"Who guesses a value is right in {task.chance:.3f} of the cases. Titans keeps "
        f"{state_bytes(systems()[MAC]):,} bytes, the window {state_bytes(systems()[WINDOW]):,}.",
    )


def systems() -> dict[str, mn.ModelSpec]:
    """Titans, and a window with as many bytes of state and as many parameters."""
    size = {"width": 32, "depth": 2, "heads": 2, "ffn": 2.0, "vocabulary": 16}
    titans = mn.zoo.titans_mac(segment=16).replace(**size)
    window = mn.ModelSpec((mn.zoo.sliding_window(32, sinks=0),), **size)
    window = with_parameters(with_state(window, state_bytes(titans)), parameters(titans))
    return {MAC: titans, WINDOW: window}
