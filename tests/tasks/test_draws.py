import itertools
from collections import Counter

import numpy as np
import pytest

from mnemos.tasks.draws import different, spelled


@pytest.mark.parametrize("below", [4, 1025])
def test_all_sets_of_different_numbers_are_equally_likely(below: int) -> None:
    drawn = different(np.random.default_rng(0), 12000, below, 3)
    assert drawn.shape == (12000, 3) and drawn.min() >= 0 and drawn.max() < below
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    if below == 4:
        found = Counter(map(tuple, drawn.tolist()))
        assert set(found) == set(itertools.permutations(range(4), 3))
        assert all(abs(count / 12000 - 1 / 24) < 0.008 for count in found.values())
    else:
        assert abs(drawn.mean() - 512) < 6 and abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.04


def test_many_of_many_numbers_are_different() -> None:
    drawn = different(np.random.default_rng(0), 20, 2000, 900)
    assert all(len(set(row)) == 900 for row in drawn.tolist())


def test_numbers_are_spelled_in_symbols() -> None:
    found = spelled(np.arange(27), 3, 3).tolist()
    assert sorted(found) == [list(word) for word in itertools.product(range(3), repeat=3)]
