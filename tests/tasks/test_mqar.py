import numpy as np
import torch

from mnemos.tasks import make


def test_each_key_is_asked_for_once_and_its_pair_stands_at_the_beginning() -> None:
    task = make("mqar:pairs=5,tokens=64,length=60")
    batch = task.batch(200, seed=0)
    assert (batch.asked.sum(1) == 5).all()
    for tokens, targets, asked, gap in zip(batch.inputs, batch.targets, batch.asked, batch.facts["delay"], strict=True):
        pairs = dict(zip(tokens[0:10:2].tolist(), tokens[1:10:2].tolist(), strict=True))
        places = asked.nonzero()[:, 0]
        assert len(pairs) == 5
        assert {int(tokens[p]): int(targets[p]) for p in places} == pairs
        assert all(int(tokens[p - gap[p]]) == int(targets[p]) for p in places)
        assert (places >= 10).all() and (places % 2 == 0).all()


def test_gaps_follow_the_power_law() -> None:
    task = make("mqar:pairs=1,tokens=8,length=22,nearness=0.3")
    batch = task.batch(20000, seed=0)
    slot = (batch.asked.nonzero()[:, 1] - 2) // 2
    found = torch.bincount(slot, minlength=10) / len(slot)
    weights = 0.3 * np.arange(1, 11) ** -0.7
    assert np.allclose(found.numpy(), weights / weights.sum(), atol=0.015)
