"""Training on states that other sequences left makes recurrent models length-generalise."""

from __future__ import annotations

from pathlib import Path

from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.claims.processes import over_processes
from mnemos.evaluate.loss_by_position import LossByPosition, loss_by_position
from mnemos.train import TrainConfig, load_model, make_tokenizer, open_corpus, train

LENGTH = 64
SYSTEMS = {"titans_lmm": 4, "mamba2": 8}
"""By their windows in a step."""
WAYS = ("fresh", "passed")


@claim(
    title="State passing makes recurrent models length-generalise",
    arxiv=("2507.02782",),
    where="the interventions on the initial state, and their results beyond the training context",
    sentence="Recurrent models fail beyond their training length because they meet states there that training never "
    "showed them; beginning with the final state of another sequence, in a short post-training, is enough to make "
    "them generalise to far longer ones.",
    setting="Byte models of two layers, 32 channels and two heads (Titans' memory, Mamba-2), 600 steps on windows of "
    "64 bytes of Python's standard library, which begin with an empty memory, or half of them with the one that an "
    "unrelated window of the step before ended with; then bits per byte by position in held-out windows of 1,024. "
    "Drift is the bits beyond the 64th byte minus those in the second half of the first 64.",
    refuted_if="for a system with state passing the drift is no smaller, or the bits beyond the training length are "
    "no fewer.",
    shrinks="States are passed from the first step, not in a post-training of a trained model; models of a few ten "
    "thousand parameters, 16 training lengths.",
    minutes=4,
)
def state_passing(bench: Bench) -> Findings:
    cases = [(system, way, seed) for system in SYSTEMS for way in WAYS for seed in range(bench.seeds)]
    sizes = (bench.size(600, 6000, 2), bench.size(16, 64, 2) * LENGTH, bench.size(65536, 1 << 20, 256))
    calls = [(bench.folder / "-".join(map(str, case)), *case, *sizes) for case in cases]
    found = dict(zip(cases, over_processes(bench, by_position, calls), strict=True))

    def each(system: str, way: str) -> list[LossByPosition]:
        return [found[system, way, seed] for seed in range(bench.seeds)]

    def drift(system: str, way: str) -> list[float]:
        return [f.beyond.mean - f.within.mean for f in each(system, way)]

    def beyond(system: str, way: str) -> list[float]:
        return [f.beyond.mean for f in each(system, way)]

    return Findings(
        statements=(
            *(
                Statement(
                    f"{system}: drift without minus that with state passing, bits per byte",
                    difference(drift(system, "fresh"), drift(system, "passed")),
                )
                for system in SYSTEMS
            ),
            *(
                Statement(
                    f"{system}: bits per byte beyond the training length without minus those with state passing",
                    difference(beyond(system, "fresh"), beyond(system, "passed")),
                )
                for system in SYSTEMS
            ),
        ),
        panels=tuple(
            Panel(
                f"{system}, trained on windows of {LENGTH} bytes",
                "position",
                "bits per byte",
                tuple(line(way, each(system, way)) for way in WAYS),
                x_log=True,
            )
            for system in SYSTEMS
        ),
    )


def by_position(call: tuple[Path, str, str, int, int, int, int]) -> LossByPosition:
    """Train into the folder, or go on there, and measure: folder, system, way, seed, steps, window, held-out bytes."""
    out, system, way, seed, steps, window, tokens = call
    config = TrainConfig(
        system=system,
        data="stdlib",
        out=out,
        steps=steps,
        width=32,
        depth=2,
        heads=2,
        length=LENGTH,
        batch=SYSTEMS[system],
        seed=seed,
        threads=1,
        initial_state="passed" if way == "passed" else "fresh",
        fresh_rows=0.5 if way == "passed" else 0.0,
        evaluate_every=10**6,
        evaluate_tokens=1024,
    )
    train(config, progress=False)
    corpus = open_corpus(config.data, make_tokenizer(config.tokenizer), progress=False)
    return loss_by_position(load_model(out), corpus, training_length=LENGTH, length=window, tokens=tokens)


def line(name: str, found: list[LossByPosition]) -> Line:
    """Bits against the middle of each bucket of positions."""
    buckets = found[0].buckets
    return Line(
        name,
        tuple((bucket.first + bucket.last) / 2 for bucket in buckets),
        tuple(over_seeds([f.buckets[i].value.mean for f in found]) for i in range(len(buckets))),
    )
