"""What holds for every task: a new file in mnemos/tasks is tested by being there."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.tasks import Batch, Task, TokenTask, VectorTask, entries, make

VARIANTS = (
    "mqar:pairs=3,tokens=32,length=40,filler=blank,nearness=1",
    "parity:asked=last,length=33",
    "n_parity:least=5,most=5,length=20",
    "modular_arithmetic:modulus=4,order=left,length=65",
    "modular_arithmetic:asked=last,operators=*+,length=33",
    "permutations:group=S5,length=80",
    "permutations:group=A5,tokens=generators",
    "permutations:group=A4xZ5,tokens=generators,length=80",
    "automaton:table=given,moves=any,symbols=3,length=128",
    "automaton:table=given,states=5,length=70",
    "variable_chains:order=any,chains=3,hops=4,length=70",
    "random_access:cells=5,indirections=2,writes=0.6,length=80",
    "copy:items=3,symbols=4,length=7",
    "selective_copy:items=4,symbols=6,length=9",
    "sorting:items=4,symbols=6,priorities=4,length=13",
    "induction:cue=any,length=40",
    "n_back:n=1,matches=0.25,symbols=3,lures=1,length=20",
    "n_back:n=3,symbols=2,lures=0,length=20",
    "delayed_match:delay=5,symbols=3,distractors=1,length=25",
    "adding:terms=3,length=10",
    "sequence_order:segment=3,length=40",
    "recognition:items=8,symbols=5,width=2,probes=3,lures=similar,length=30",
    "recognition:items=6,symbols=3,width=2,probes=3,length=19",
    "cued_recall:items=3,width=3,cue=1,symbols=6,length=20",
    "retention:width=1,symbols=26,longest=5,length=50",
    "generalized_recall:answer=member,by_category=1,swapped=true,length=70",
    "generalized_recall:truth=true,pairs=4,categories=3,length=66",
    "generalized_recall:truth=true,answer=member,negative=0,by_category=0,length=66",
    "rebinding:keys=2,tokens=16,length=30,questions=0.5",
    "regression:noise=0,dimensions=6,length=40",
    "drifting_regression:dimensions=2,noise=0.5,drift=0.4,length=40",
    "piecewise_regression:dimensions=2,noise=0,change=0.2,length=40",
    "nearest_key:pairs=5,key_dim=4,noise=5",
    "noisy_recall:keys=3,writes=6,noise=1,size=3,outliers=0.5",
    "needles:needles=3,questions=3,letters=1,digits=1,length=220",
    "scattered_facts:hops=1,sentences=3,length=60",
    "segment_recall:pairs=20,rewrites=15,questions=4,symbols=4,key_size=2,value_size=2,length=160",
    "switching:symbols=3,hazard=0.2,concentration=1,length=64",
)
"""Knobs worth telling apart, beside every task as it is by default."""

LEAKS: dict[str, tuple[str, ...]] = {
    "random_access": ("first token",),  # the first cell, which is the one asked for once in so many times
    "copy": ("first token",),
    "selective_copy": ("first token",),
}
"""Which looks at single places tell a little about the answers, by the nature of the task (and what its docs say)."""

CASES = (*entries(), *VARIANTS)
ROWS = 96


@pytest.fixture(params=CASES)
def task(request: pytest.FixtureRequest) -> Task:
    return make(request.param)


def joined(task: Task, rows: int, seed: int) -> Batch:
    return task.batch(rows, seed=seed)


def margin(task: Task, questions: int) -> float:
    """Four standard errors of a share near chance."""
    return 4 * (max(task.chance * (1 - task.chance), 1e-3) / questions) ** 0.5


def test_a_batch_has_its_shapes_and_a_question_in_every_row(task: Task) -> None:
    batch = task.batch(7, seed=1)
    shape = (7, task.length)
    assert batch.asked.shape == shape and batch.asked.dtype == torch.bool
    assert batch.asked.any(1).all()
    assert tuple(batch.facts) == type(task).facts
    assert all(fact.shape == shape and fact.dtype == torch.int64 for fact in batch.facts.values())
    if isinstance(task, TokenTask):
        for tokens in (batch.inputs, batch.targets[batch.asked]):
            assert tokens.dtype == torch.int64
            assert int(tokens.min()) >= 0 and int(tokens.max()) < task.vocabulary == task.outputs
        assert batch.inputs.shape == batch.targets.shape == shape
    else:
        assert isinstance(task, VectorTask)
        assert batch.inputs.shape == (*shape, task.inputs) and batch.targets.shape == (*shape, task.outputs)
        assert batch.inputs.dtype == batch.targets.dtype == torch.float32
        assert torch.isfinite(batch.inputs).all() and torch.isfinite(batch.targets[batch.asked]).all()


def test_a_batch_is_the_same_whenever_it_is_asked_for_and_no_other(task: Task) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # pyright: ignore
    first = task.batch(4, seed=3, index=5)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    again = make_again(task).batch(4, seed=3, index=5)
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.asked, again.asked)
    assert torch.equal(first.targets[first.asked], again.targets[again.asked])
    for seed, index in ((3, 6), (4, 5)):
        assert not torch.equal(first.inputs, task.batch(4, seed=seed, index=index).inputs)
    stream = task.batches(4, seed=3)
    assert torch.equal([next(stream) for _ in range(6)][5].inputs, first.inputs)


def make_again(task: Task) -> Task:
    again = mn.from_json(task.to_json())
    assert again == task
    return again


def test_who_remembers_everything_reaches_the_ceiling(task: Task) -> None:
    batch = joined(task, ROWS, 11)
    scores = task.score(task.solve(batch.inputs), batch)
    assert scores.shape == (int(batch.asked.sum()),)
    if isinstance(task, TokenTask) and task.measure == "accuracy" and task.ceiling == 1:
        assert scores.min() == 1
    else:
        rows = batch.asked.nonzero()[:, 0]  # the questions of a row may all be hard
        means = torch.bincount(rows, scores) / torch.bincount(rows)
        spread = 4 * float(means.std()) / ROWS**0.5 + 1e-6
        assert abs(float(scores.mean()) - task.ceiling) < max(spread, 0.02)


def test_the_ceiling_is_reached_without_looking_ahead(task: Task) -> None:
    batch, other = joined(task, 8, 21), joined(task, 8, 22)
    half = task.length // 2
    mixed = torch.cat([batch.inputs[:, :half], other.inputs[:, half:]], 1)
    here = batch.asked[:, :half]
    found, expected = task.solve(mixed)[:, :half][here], task.solve(batch.inputs)[:, :half][here]
    assert torch.allclose(found, expected, atol=1e-5)


def test_another_rows_memories_are_worth_no_more_than_a_guess(task: Task) -> None:
    batch = joined(task, 2 * ROWS, 31)
    same_places = batch.asked & batch.asked.roll(1, 0)
    outputs = task.solve(batch.inputs.roll(1, 0))
    scores = task.score(outputs, batch._replace(asked=same_places))
    if len(scores) < 50:
        pytest.skip("the questions of two rows are seldom at the same place")
    mean = float(scores.mean())
    if task.better == "higher":
        assert mean <= task.chance + margin(task, len(scores)) + 0.02
    else:
        assert mean >= task.chance - 0.1


def test_a_look_at_single_places_tells_nothing(task: Task) -> None:
    if not isinstance(task, TokenTask) or task.measure != "accuracy":
        pytest.skip("for answers that are tokens")
    seen, unseen = joined(task, 4 * ROWS, 41), joined(task, 4 * ROWS, 42)
    allowed = LEAKS.get(task_name(task), ())
    number = int(unseen.asked.sum())
    best = 0.0
    for look in ("nothing", "place", "token", "token before", "first token"):
        table: dict[int, Counter[int]] = defaultdict(Counter)
        for key, answer in zip(looks(look, seen), seen.targets[seen.asked].tolist(), strict=True):
            table[key][answer] += 1
        guesses = {key: counter.most_common(1)[0][0] for key, counter in table.items()}
        answers = unseen.targets[unseen.asked].tolist()
        right = sum(guesses.get(k) == a for k, a in zip(looks(look, unseen), answers, strict=True)) / number
        if look not in allowed:
            assert right <= task.chance + margin(task, number) + 0.02, f"looking at {look}: {right:.3f}"
        best = max(best, right) if look in ("nothing", "place") else best
    assert best >= task.chance - margin(task, number) - 0.1 * task.chance, f"chance is only {best:.3f}"


def looks(look: str, batch: Batch) -> list[int]:
    row, place = batch.asked.nonzero(as_tuple=True)
    tokens = {
        "nothing": torch.zeros_like(place),
        "place": place,
        "token": batch.inputs[row, place],
        "token before": batch.inputs[row, (place - 1).clamp(min=0)],
        "first token": batch.inputs[row, 0],
    }
    return tokens[look].tolist()


def task_name(task: Task) -> str:
    return next(name for name, found in entries().items() if found.make is type(task))


def test_the_loss_is_least_for_the_right_answers(task: Task) -> None:
    batch = joined(task, 8, 51)
    right = task.solve(batch.inputs) * (30.0 if isinstance(task, TokenTask) and task.measure == "accuracy" else 1.0)
    none = torch.zeros_like(right, requires_grad=True)
    loss = task.loss(none, batch)
    loss.backward()
    assert none.grad is not None and torch.isfinite(none.grad).all() and float(none.grad.abs().max()) > 0
    assert (none.grad[~batch.asked] == 0).all()
    assert float(task.loss(right, batch)) < loss.item()


def test_it_can_be_longer(task: Task) -> None:
    longer = task.at_length(2 * task.length)
    batch = longer.batch(3, seed=0)
    assert batch.asked.shape == (3, 2 * task.length)
    assert longer.score(longer.solve(batch.inputs), batch).isfinite().all()


def test_every_knob_is_explained(task: Task) -> None:
    for field in dataclasses.fields(task):  # pyright: ignore[reportArgumentType]
        if field.name != "length":
            assert f"{field.name}:" in (type(task).__doc__ or ""), field.name


def test_outputs_of_another_shape_are_refused(task: Task) -> None:
    batch = task.batch(2, seed=0)
    with pytest.raises(InvalidValue, match="the outputs for this batch are"):
        task.score(torch.zeros(2, task.length, task.outputs + 1), batch)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mqr", "no task is called 'mqr'; did you mean mqar"),
        ("mqar:pair=3", "mqar has no knob pair; it has .*Perhaps you meant pairs"),
        ("mqar:pairs=many", "pairs= takes a value like 8; got 'many'"),
        ("mqar:pairs", "written name=value; got 'pairs'"),
        ("mqar:pairs=40,tokens=64", "more than twice pairs=40"),
        ("mqar:pairs=40", "at least 4 \\* pairs = 160"),
    ],
)
def test_tasks_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(line)


def test_batches_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r"batch\(rows\) is a whole number"):
        make("mqar").batch(0, seed=0)
    with pytest.raises(InvalidValue, match=r"batch\(seed=\) is in"):
        make("mqar").batch(1, seed=-1)
