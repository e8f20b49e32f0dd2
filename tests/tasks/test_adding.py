import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import make


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_the_answer_is_the_sum_of_the_marked_numbers_one_in_each_stretch(terms: int) -> None:
    batch = make("adding:length=13", terms=terms).batch(200, seed=0)
    assert batch.asked[:, -1].all() and int(batch.asked.sum()) == 200
    edges = [i * 13 // terms for i in range(terms + 1)]
    for row, target, delay in zip(
        batch.inputs, batch.targets[:, -1, 0].tolist(), batch.facts["delay"][:, -1], strict=True
    ):
        numbers, marks = row.T.tolist()
        assert all(0 <= number < 1 for number in numbers) and set(marks) <= {0.0, 1.0}
        places = [i for i, mark in enumerate(marks) if mark]
        assert len(places) == terms
        assert all(a <= place < b for place, a, b in zip(places, edges[:-1], edges[1:], strict=True))
        assert abs(sum(numbers[i] for i in places) - target) < 1e-6
        assert int(delay) == 12 - places[0]


def test_marks_stand_at_all_places_evenly() -> None:
    marks = make("adding:length=10").batch(8000, seed=0).inputs[..., 1]
    assert torch.allclose(marks.mean(0), torch.full((10,), 0.2), atol=0.02)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_chance_is_the_score_of_the_mean_and_one_that_of_zero(terms: int) -> None:
    task = make("adding:length=10", terms=terms)
    batch = task.batch(20000, seed=0)
    always = torch.full((20000, 10, 1), terms / 2)
    assert abs(float(task.score(always, batch).mean()) - task.chance) < 0.01 * task.chance + 0.004
    assert abs(float(task.score(torch.zeros_like(always), batch).mean()) - 1) < 0.02
    assert task.chance == pytest.approx(1 / (1 + 3 * terms))


def test_another_rows_numbers_are_worse_than_the_mean() -> None:
    task = make("adding")
    batch = task.batch(4000, seed=0)
    score = float(task.score(task.solve(batch.inputs.roll(1, 0)), batch).mean())
    assert abs(score - 2 * task.chance) < 0.02


def test_adding_that_cannot_be() -> None:
    with pytest.raises(InvalidValue, match=r"Adding\(length=\) must be at least terms=200, one number each; got 128"):
        make("adding:terms=200")
