import numpy as np
import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import Batch, make


def parts(batch: Batch, written: int, key_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys, values, cues and right answers; what is between them is as the docstring says."""
    vectors = batch.inputs.double().numpy()
    assert (vectors[:, :written, -1] == 0).all() and (vectors[:, written:, -1] == 1).all()
    assert (vectors[:, written:, key_dim:-1] == 0).all()
    assert torch.equal(batch.asked, (torch.arange(batch.asked.shape[1]) >= written).expand_as(batch.asked))
    keys, values = vectors[..., :key_dim], vectors[:, :written, key_dim:-1]
    assert np.allclose(np.linalg.norm(keys, axis=-1), 1, atol=1e-6)
    return keys[:, :written], values, keys[:, written:], batch.targets[:, written:].double().numpy()


def test_the_value_of_the_nearest_key_is_the_answer() -> None:
    task = make("nearest_key:pairs=6,key_dim=5,value_dim=3,length=30,noise=0.9")
    batch = task.batch(40, seed=0)
    keys, values, cues, answers = parts(batch, 6, 5)
    assert np.allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-6)
    for row in range(40):
        for i in range(24):
            near = min(range(6), key=lambda p: float(((cues[row, i] - keys[row, p]) ** 2).sum()))
            assert np.array_equal(answers[row, i], values[row, near])
            place = 6 + i
            assert (
                int(batch.facts["pair"][row, place]) == near and int(batch.facts["delay"][row, place]) == place - near
            )


@pytest.mark.parametrize("noise", [0.0, 0.4, 30.0])
def test_a_cue_is_as_near_as_its_noise_lets_it_be(noise: float) -> None:
    """One pair only: the angle to its key, against a literal copy with noise; with very much of it, any angle."""
    batch = make(f"nearest_key:pairs=1,key_dim=12,length=61,noise={noise}").batch(300, seed=1)
    keys, _, cues, _ = parts(batch, 1, 12)
    found = (cues * keys).sum(-1).ravel()
    random = np.random.default_rng(0)
    copies = np.eye(12)[0] + noise * random.standard_normal((found.size, 12)) / np.sqrt(12)
    expected = copies[:, 0] / np.linalg.norm(copies, axis=1)
    assert abs(found.mean() - expected.mean()) < 0.01 and abs(found.std() - expected.std()) < 0.01
    if noise > 1:
        assert abs(found.mean()) < 0.06 and abs((found**2).mean() - 1 / 12) < 0.01


def test_each_pair_is_asked_for_as_often_and_keys_are_drawn_evenly() -> None:
    batch = make("nearest_key:pairs=8,noise=0.3").batch(500, seed=2)
    pair = batch.facts["pair"][batch.asked]
    assert torch.allclose(torch.bincount(pair, minlength=8) / len(pair), torch.tensor(1 / 8), atol=0.01)
    keys, values, _, _ = parts(batch, 8, 16)
    for x in (keys, values):
        dim = x.shape[-1]
        flat = x.reshape(-1, dim)
        assert np.allclose(flat.mean(0), 0, atol=0.03)
        assert np.allclose(flat.T @ flat / len(flat), np.eye(dim) / dim, atol=0.02)


def test_writes_scatter_around_the_clean_value_as_they_say() -> None:
    task = make("noisy_recall:keys=5,writes=3,key_dim=6,value_dim=4,length=50,noise=0.2,outliers=0.25,size=4.0")
    batch = task.batch(400, seed=3)
    keys, values, cues, answers = parts(batch, 15, 6)
    errors, counted = [], []
    for row in range(400):
        names = {tuple(cue): answer for cue, answer in zip(cues[row], answers[row], strict=True)}
        where: dict[tuple[float, ...], list[int]] = {}
        for place, key in enumerate(keys[row]):
            where.setdefault(tuple(key), []).append(place)
        assert len(where) == 5 and all(len(places) == 3 for places in where.values()) and set(names) <= set(where)
        for i, cue in enumerate(cues[row]):
            assert np.array_equal(answers[row, i], names[tuple(cue)])
            assert int(batch.facts["delay"][row, 15 + i]) == 15 + i - where[tuple(cue)][-1]
        for name, clean in names.items():
            error = values[row, where[name]] - clean
            errors.append(error)
            hit = ((error**2).sum(-1) > 4 * 1.5**2).sum()  # 0.2 and 4 are far apart
            first = next(i for i, cue in enumerate(cues[row]) if tuple(cue) == name)
            counted.append((int(hit), int(batch.facts["outliers"][row, 15 + first])))
    squares = np.concatenate(errors).ravel() ** 2
    assert abs(squares.mean() - (0.75 * 0.04 + 0.25 * 16)) < 0.15
    assert abs((squares < 1).mean() - (0.75 + 0.25 * 0.1974)) < 0.01
    assert np.mean([a == b for a, b in counted]) > 0.95  # a large outlier may by chance look like a small one
    assert abs(np.mean([b for _, b in counted]) / 3 - 0.25) < 0.02
    assert abs((answers**2).mean() - 1) < 0.06
    share = [int((cues == keys[:, None, p]).all(-1).sum()) for p in range(15)]
    assert abs(np.mean(share) / cues[..., 0].size - 1 / 5) < 0.001


def test_the_best_answer_weighs_every_way_in_which_writes_are_outliers() -> None:
    """By integration over the clean value, on a grid."""
    task = make("noisy_recall:keys=2,writes=3,key_dim=4,value_dim=1,length=10,noise=0.5,outliers=0.3,size=2.0")
    batch = task.batch(20, seed=4)
    keys, values, cues, _ = parts(batch, 6, 4)
    found = task.solve(batch.inputs)[:, 6:, 0]
    grid = np.linspace(-12, 12, 20001)

    def normal(x: np.ndarray, spread: float) -> np.ndarray:
        return np.exp(-0.5 * (x / spread) ** 2) / spread

    for row in range(20):
        for i, cue in enumerate(cues[row]):
            density = normal(grid, 1)
            for place in range(6):
                if (keys[row, place] == cue).all():
                    error = values[row, place, 0] - grid
                    density = density * (0.7 * normal(error, 0.5) + 0.3 * normal(error, 2.0))
            assert abs(float(found[row, i]) - (density * grid).sum() / density.sum()) < 1e-4


def test_outliers_throw_the_mean_off_and_not_the_best_answer() -> None:
    task = make("noisy_recall")
    batch = task.batch(100, seed=5)
    keys, values, cues, _ = parts(batch, 32, 16)
    same = (cues[:, :, None] == keys[:, None]).all(-1)
    assert (same.sum(-1) == 4).all()
    mean = torch.from_numpy(np.concatenate([values * 0, same @ values / 4], 1))
    best, plain = (float(task.score(x, batch).mean()) for x in (task.solve(batch.inputs), mean))
    assert plain > 20 * best and abs(plain - 0.2 * 25 / 4) < 0.3
    assert abs(best - task.ceiling) < 0.003


@pytest.mark.parametrize(
    ("knobs", "ceiling"),
    [
        ("outliers=0,noise=0.5", 0.25 / 4 / (1 + 0.25 / 4)),
        ("outliers=1,size=3.0", 9 / 4 / (1 + 9 / 4)),
        ("outliers=0.3,noise=2.0,size=2.0", 1 / (1 + 1)),
    ],
)
def test_the_ceiling_of_plain_normal_noise(knobs: str, ceiling: float) -> None:
    assert abs(make(f"noisy_recall:{knobs}").ceiling - ceiling) < 1e-6


def test_keys_that_were_never_written_are_answered_by_nothing() -> None:
    task = make("noisy_recall")
    batch = task.batch(2, seed=6)
    mixed = torch.cat([batch.inputs[:1, :32], batch.inputs[1:, 32:]], 1)
    assert (task.solve(mixed) == 0).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nearest_key:pairs=64", r"must be more than the 64 tokens that write, so that there are cues; got 64"),
        ("nearest_key:noise=-0.5", r"NearestKey\(noise=\) must be at least 0; got -0.5"),
        ("nearest_key:key_dim=0", "must be at least 1; got 0"),
        ("noisy_recall:keys=30", "must be more than the 120 tokens that write"),
        ("noisy_recall:writes=9", r"at most 8, since the best answer weighs 2\^writes cases; got 9"),
        ("noisy_recall:outliers=1.5", r"a probability in \[0, 1\]; got 1.5"),
        ("noisy_recall:noise=6", r"at least 0 and at most size=5.0; got 6"),
    ],
)
def test_impossible_difficulty_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(line)
