"""The delta rule replaces what a key was bound to; a Hebbian memory mixes it with what is new."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, claim, difference, over_seeds
from mnemos.evaluate.sizing import parameters, state_bytes, with_parameters, with_state
from mnemos.memory import Control
from mnemos.tasks import make
from mnemos.tasks.base import TokenTask

CHANNELS, KEYS, ROWS = 16, 8, 256
TIMES = (1, 2, 4, 8, 16)
HEBBIAN = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD(rate=1.0))
DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0))
DECAYS = (0.999, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)
SYSTEMS = {
    "Gated DeltaNet": mn.zoo.gated_deltanet(),
    "Mamba-2": mn.zoo.mamba2(),
    "DeltaNet": mn.zoo.deltanet(),
    "linear attention": mn.zoo.linear_attention().replace(conv=4),
}
PAIRED = (("Gated DeltaNet", "Mamba-2"), ("DeltaNet", "linear attention"))
"""With a gate, and without one."""
TASKS = {
    "rebinding": ("rebinding:length=64,keys=8,tokens=64",),
    "MQAR": tuple(f"mqar:length=32,pairs={pairs},tokens=32,filler=blank" for pairs in (8, 4, 2)),
}
"""What is learnt in turn; the first is asked."""
RATES = (1e-2,)


@claim(
    title="The delta rule recalls keys that are bound again, Hebbian memories mix their values up",
    arxiv=("2406.06484", "2412.06464"),
    where="MQAR among the synthetic tasks of the first, retrieval from context in section 4 of the second",
    sentence="A purely additive update makes it hard to deallocate past associations; the delta rule replaces the "
    "value of a key by a new one. DeltaNet surpasses linear attention in associative recall (MQAR), and Gated "
    "DeltaNet surpasses Mamba-2, whose gate can only forget all associations alike, in retrieval from context.",
    setting="Without training: 8 random keys of 16 channels are bound 1 to 16 times each, and asked for their latest "
    "value; recalled where the answer is nearest to it of all values ever bound. The Hebbian memory has the best of "
    "10 decays, chosen on other data. Trained: models of one layer and 32 channels with equal parameters and bytes "
    "of state learn to answer with the latest value of one of 8 keys that are bound again and again (rebinding), and "
    "MQAR with 2, 4 and 8 pairs in turn, asked with 8. Compared are the two with a gate, and the two without one; "
    "linear attention gets the short convolution that the others have.",
    refuted_if="without training, after 16 bindings, the delta rule does not recall more than the Hebbian memory; or "
    "on either task Gated DeltaNet does not answer more than Mamba-2, or DeltaNet not more than linear attention.",
    shrinks="One layer of 32 channels, 64 tokens; the papers train up to 1.3B parameters, and their MQAR has up to "
    "64 pairs in 512 tokens.",
    minutes=4,
)
def delta_rule_under_rebinding(bench: Bench) -> Findings:
    times = bench.pick(TIMES)
    held: dict[str, dict[int, list[float]]] = {name: {n: [] for n in times} for name in ("delta rule", "Hebbian")}
    for seed in range(bench.seeds):
        for n in times:
            best = max((1.0, *DECAYS), key=lambda decay: recalled(HEBBIAN, decay, n, 2 * seed))
            held["Hebbian"][n].append(recalled(HEBBIAN, best, n, 2 * seed + 1))
            held["delta rule"][n].append(recalled(DELTA, 1.0, n, 2 * seed + 1))
    found = trained(bench)
    last = times[-1]
    return Findings(
        statements=(
            Statement(
                f"share recalled without training, delta rule minus Hebbian, {last} bindings a key",
                difference(held["delta rule"][last], held["Hebbian"][last]),
            ),
            *(
                Statement(f"accuracy on {task}, {own} minus {other}", difference(found[task, own], found[task, other]))
                for task in TASKS
                for own, other in PAIRED
            ),
        ),
        panels=(
            Panel(
                "Bound again, without training",
                "bindings of each of 8 keys",
                "share of latest values recalled",
                tuple(
                    Line(name, tuple(map(float, times)), tuple(over_seeds(held[name][n]) for n in times))
                    for name in held
                ),
                x_log=True,
            ),
            *(
                Panel(
                    f"Trained on {task}",
                    "",
                    "accuracy",
                    tuple(Line(name, (0.0,), (over_seeds(found[task, name]),)) for name in SYSTEMS),
                )
                for task in TASKS
            ),
        ),
    )


def recalled(memory: mn.Memory, decay: float, times: int, seed: int) -> float:
    """The share of keys whose answer, after each was bound `times` times, is nearest to its latest value."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + times)

    def directions(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, CHANNELS, generator=generator), dim=-1)

    keys, values = directions(ROWS, KEYS), directions(ROWS, times, KEYS)
    order = torch.rand(ROWS, times, KEYS, generator=generator).argsort(-1)  # a round binds each key once
    row = torch.arange(ROWS)[:, None, None]
    written = keys[row, order].flatten(1, 2)[:, :, None]
    brought = values[row, torch.arange(times)[:, None], order].flatten(1, 2)[:, :, None]

    def made(controls: tuple[Control, ...], like: Tensor) -> Mapping[str, Tensor]:
        return {c.name: like.new_full(like.shape[:3], decay) for c in controls}

    state = memory.init(ROWS, 1, CHANNELS, CHANNELS, None, torch.float32, keys.device)
    state = memory.write_all(state, written, brought, made(memory.write_controls, written))
    asked = keys[:, :, None]
    answers = memory.read(state, asked, made(memory.read_controls, asked))[:, :, 0]
    nearest = (answers @ values.flatten(1, 2).mT).argmax(-1)
    return float((nearest == (times - 1) * KEYS + torch.arange(KEYS)).double().mean())


def trained(bench: Bench) -> dict[tuple[str, str], list[float]]:
    """The accuracy of every seed, by task and system."""
    found: dict[tuple[str, str], list[float]] = {}
    for name, texts in TASKS.items():
        tasks = [make(text) for text in texts]
        assert isinstance(tasks[0], TokenTask)
        first, *others = (
            mn.ModelSpec((layer,), width=32, depth=1, heads=4, vocabulary=tasks[0].vocabulary)
            for layer in SYSTEMS.values()
        )
        others = [with_parameters(with_state(spec, state_bytes(first)), parameters(first)) for spec in others]
        models = dict(zip(SYSTEMS, (first, *others), strict=True))
        learned = bench.learned(models, tasks, tasks[:1], steps=bench.size(800, 10000), rates=RATES, questions=4000)
        found |= {(name, system): [o.answers[0].score.mean for o in learned[system]] for system in SYSTEMS}
    return found
