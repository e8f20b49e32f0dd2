import itertools

import numpy as np
import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import Batch, VectorTask, make


def examples(batch: Batch, row: int) -> tuple[np.ndarray, np.ndarray]:
    vectors = batch.inputs[row].double().numpy()
    assert (vectors[0::2, -1] == 1).all() and (vectors[1::2, -1] == 0).all()
    assert (vectors[0::2, -2] == 0).all() and (vectors[1::2, :-2] == 0).all()
    return vectors[0::2, :-2], vectors[1::2, -2]


def conditioned(covariance: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean of the last of jointly normal numbers, given those before it, and the log density of these."""
    n = len(y)
    before, across = covariance[:n, :n], covariance[n, :n]
    log_density = -0.5 * (y @ np.linalg.solve(before, y) + np.linalg.slogdet(2 * np.pi * before)[1]) if n else 0.0
    return float(across @ np.linalg.solve(before, y)) if n else 0.0, float(log_density)


def test_the_best_answer_is_ridge_regression() -> None:
    task = make("regression:dimensions=3,noise=0.4,length=24")
    batch = task.batch(5, seed=0)
    found = task.solve(batch.inputs)[:, 0::2, 0]
    for row in range(5):
        x, y = examples(batch, row)
        for i in range(12):
            weights = np.linalg.solve(x[:i].T @ x[:i] + 3 * 0.4**2 * np.eye(3), x[:i].T @ y[:i])
            assert abs(float(found[row, i]) - x[i] @ weights) < 1e-5


@pytest.mark.parametrize("drift", [0.0, 0.3, 1.0])
def test_the_best_answer_to_drift_is_that_of_all_examples_at_once(drift: float) -> None:
    """Conditioning jointly normal answers, no filter."""
    task = make(f"drifting_regression:dimensions=3,noise=0.2,length=24,drift={drift}")
    batch = task.batch(5, seed=1)
    found = task.solve(batch.inputs)[:, 0::2, 0]
    lag = np.abs(np.arange(12)[:, None] - np.arange(12))
    for row in range(5):
        x, y = examples(batch, row)
        covariance = x @ x.T / 3 * np.sqrt(1 - drift**2) ** lag + 0.2**2 * np.eye(12)
        for i in range(12):
            assert abs(float(found[row, i]) - conditioned(covariance, y[:i])[0]) < 1e-5


@pytest.mark.parametrize("change", [0.0, 0.2, 1.0])
def test_the_best_answer_to_jumps_weighs_all_histories(change: float) -> None:
    """Every set of places where the weights may have changed, one by one."""
    task = make(f"piecewise_regression:dimensions=2,noise=0.3,length=14,change={change}")
    batch = task.batch(4, seed=2)
    found = task.solve(batch.inputs)[:, 0::2, 0]
    for row in range(4):
        x, y = examples(batch, row)
        for i in range(7):
            total = weighted = 0.0
            for changes in itertools.product((0, 1), repeat=i):
                piece = np.cumsum((0, *changes))
                prior = np.prod([change if c else 1 - change for c in changes])
                same = piece[:, None] == piece
                covariance = x[: i + 1] @ x[: i + 1].T / 2 * same + 0.3**2 * np.eye(i + 1)
                mean, log_density = conditioned(covariance, y[:i])
                total += prior * np.exp(log_density)
                weighted += prior * np.exp(log_density) * mean
            assert abs(float(found[row, i]) - weighted / total) < 1e-5


@pytest.mark.parametrize("name", ["regression", "drifting_regression", "piecewise_regression"])
def test_the_answer_is_what_stands_next_and_has_the_square_it_claims(name: str) -> None:
    task = make(name, noise=0.5, length=60)
    assert isinstance(task, VectorTask)
    batch = task.batch(3000, seed=3)
    assert torch.equal(batch.targets[:, 0::2, 0], batch.inputs[:, 1::2, -2])
    assert torch.equal(batch.asked, (torch.arange(60) % 2 == 0).expand(3000, 60))
    assert torch.equal(batch.facts["examples"][0, 0::2], torch.arange(30))
    squares = batch.targets[:, 0::2, 0].double().square()
    assert abs(float(squares.mean()) - task.mean_square) < 0.05 and task.mean_square == 1.25
    assert abs(float(squares[:, -5:].mean()) - 1.25) < 0.1
    assert abs(float(batch.inputs[:, 0::2, :4].std()) - 1) < 0.01
    answers = batch.targets[:, 0::2, 0].double()
    assert abs(float((answers[:, 1:] * answers[:, :-1]).mean())) < 0.03  # neither noise nor x carries over


def weights_of(line: str) -> tuple[torch.Tensor, Batch]:
    """Of one dimension without noise: y / x."""
    batch = make(f"{line},dimensions=1,noise=0").batch(4000, seed=4)
    return (batch.inputs[:, 1::2, 1] / batch.inputs[:, 0::2, 0]).double(), batch


def test_weights_stay_drift_or_jump_as_they_say() -> None:
    weights, _ = weights_of("regression:length=40")
    assert float((weights / weights[:, :1] - 1).abs().max()) < 1e-5
    assert abs(float(weights[:, 0].square().mean()) - 1) < 0.1
    weights, _ = weights_of("drifting_regression:length=40,drift=0.4")
    for lag in (1, 3):
        assert abs(float((weights[:, lag:] * weights[:, :-lag]).mean()) - (1 - 0.4**2) ** (lag / 2)) < 0.03
    weights, batch = weights_of("piecewise_regression:length=40,change=0.3")
    changed = (weights[:, 1:] / weights[:, :-1] - 1).abs() > 1e-5
    assert abs(float(changed.double().mean()) - 0.3) < 0.01
    since = batch.facts["since"][:, 0::2]
    assert (since[:, 0] == 0).all()
    assert torch.equal(since[:, 1:], torch.where(changed, 0, since[:, :-1] + 1))


def test_without_noise_the_answer_is_exact_once_there_are_enough_examples() -> None:
    task = make("regression:noise=0,dimensions=5,length=60")
    batch = task.batch(50, seed=5)
    scores = task.score(task.solve(batch.inputs), batch).view(50, 30)
    assert float(scores[:, 8:].max()) < 1e-3 and float(scores[:, 6:].mean()) < 1e-5
    assert abs(task.ceiling - sum(1 - i / 5 for i in range(5)) / 30) < 0.01
    assert abs(float(scores.mean()) - task.ceiling) < 0.03


def test_the_weights_of_another_sequence_are_worth_nothing() -> None:
    task = make("regression:length=40")
    batch = task.batch(200, seed=6)
    mixed = batch.inputs.clone()
    mixed[:, 1::2] = batch.inputs[:, 1::2].roll(1, 0)
    score = float(task.score(task.solve(mixed), batch).mean())
    assert score > 1.2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("regression:length=31", "Regression.length=. must be even, since each example takes two tokens; got 31"),
        ("regression:dimensions=0", "must be at least 1; got 0"),
        ("regression:noise=-1", "a standard deviation of at least 0; got -1"),
        ("drifting_regression:drift=1.5", r"DriftingRegression\(drift=\) is in \[0, 1\]; got 1.5"),
        ("piecewise_regression:change=-0.1", r"a probability in \[0, 1\]; got -0.1"),
    ],
)
def test_impossible_difficulty_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(line)
