"""Recognition, cued recall and retention of what was seen once."""

from collections import Counter

import pytest
import torch

from mnemos.errors import InvalidValue
from mnemos.tasks import Batch, make


def lists(batch: Batch) -> list[list[list[int]]]:
    return [x.tolist() for x in (batch.inputs, batch.targets, batch.asked, *batch.facts.values())]


@pytest.mark.parametrize("lures", ["unrelated", "similar"])
def test_old_items_are_in_the_list_and_new_ones_are_not(lures: str) -> None:
    task = make("recognition:items=6,width=3,symbols=5,probes=4,length=35", lures=lures)
    batch = task.batch(400, seed=0)
    of_place = Counter()
    for tokens, targets, asked, old, item, delay in zip(*lists(batch), strict=True):
        items = [tuple(tokens[i : i + 3]) for i in range(0, 18, 3)]
        assert len(set(items)) == 6 and tokens[18:23] == [5, 5, 5, 5, 6]
        probes = [tuple(tokens[i : i + 3]) for i in range(23, 35, 3)]
        assert [i for i in range(35) if asked[i]] == [25, 28, 31, 34]
        for at, probe in zip((25, 28, 31, 34), probes, strict=True):
            assert old[at] == (probe in items) and targets[at] == 7 + old[at]
            if old[at]:
                assert items[item[at]] == probe and delay[at] == at - (3 * item[at] + 2)
                of_place[item[at]] += 1
            else:
                assert item[at] == delay[at] == -1
                unlike = min(sum(a != b for a, b in zip(probe, known, strict=True)) for known in items)
                assert unlike == 1 or lures == "unrelated"
        asked_for = [probe for probe in probes if probe in items]
        assert len(set(asked_for)) == len(asked_for)
    share = sum(of_place.values()) / 1600
    assert abs(share - 0.5) < 0.05
    assert all(abs(count / 800 - 1 / 6) < 0.06 for count in of_place.values())


def test_each_probe_is_old_half_the_time_whatever_the_others_are() -> None:
    batch = make("recognition:items=4,width=2,symbols=6,probes=3,length=20").batch(8000, seed=0)
    old = batch.facts["old"][batch.asked].view(-1, 3)
    found = (old * torch.tensor([4, 2, 1])).sum(1).bincount(minlength=8) / 8000
    assert float((found - 1 / 8).abs().max()) < 0.02


def test_parts_of_items_tell_old_from_new_unless_lures_are_similar() -> None:
    def by_parts(lures: str) -> float:
        task = make("recognition:items=8,width=3,symbols=32,probes=8,length=60", lures=lures)
        batch = task.batch(200, seed=0)
        right = 0
        for tokens, old in zip(batch.inputs.tolist(), batch.facts["old"].tolist(), strict=True):
            known = {(i % 3, tokens[i]) for i in range(24)}
            for begin in range(36, 60, 3):
                familiar = sum((i % 3, tokens[i]) in known for i in range(begin, begin + 3))
                right += (familiar >= 2) == old[begin + 2]
        return right / 1600

    assert by_parts("unrelated") > 0.85
    assert by_parts("similar") < 0.6


@pytest.mark.parametrize("cue", [1, 2])
def test_the_rest_of_each_item_is_recalled_from_its_cue(cue: int) -> None:
    task = make("cued_recall:items=4,width=4,symbols=7,length=33", cue=cue)
    batch = task.batch(300, seed=0)
    orders = Counter()
    for tokens, targets, asked, item, delay in zip(*lists(batch), strict=True):
        items = [tokens[i : i + 4] for i in range(0, 16, 4)]
        by_cue = {tuple(x[:cue]): x for x in items}
        assert len(by_cue) == 4 and tokens[16:21] == [7] * 4 + [8]
        assert sum(asked) == 4 * (4 - cue) and not any(asked[:21])
        order = []
        for begin in range(21, 33, 3):
            whole = by_cue[tuple(tokens[begin : begin + cue])]
            order.append(items.index(whole))
            assert tokens[begin : begin + 3] == whole[:3]
            for i in range(3):
                assert asked[begin + i] == (i >= cue - 1)
                if asked[begin + i]:
                    assert targets[begin + i] == whole[i + 1] and item[begin + i] == order[-1]
                    assert begin + i - delay[begin + i] == 4 * order[-1] + i + 1
        assert sorted(order) == [0, 1, 2, 3]
        orders[tuple(order)] += 1
    assert len(orders) == 24


@pytest.mark.parametrize("line", ["retention:width=2,symbols=9,longest=5,length=80", "retention:length=200,longest=0"])
def test_values_seen_once_are_asked_for_after_growing_delays(line: str) -> None:
    task = make(line)
    symbols, longest, items = task.symbols, task.longest, task.length // 6  # pyright: ignore
    batch = task.batch(100, seed=0)
    for tokens, targets, asked, between, delay in zip(*lists(batch), strict=True):
        keys, values = [], []
        for i, begin in enumerate(range(0, 6 * items, 6)):
            keys.append(tuple(tokens[begin : begin + 2]))
            values.append(tokens[begin + 2])
            assert tokens[begin + 3] == symbols
            at = begin + 5
            assert asked[begin : begin + 6] == [False] * 5 + [True]
            which = keys.index(tuple(tokens[begin + 4 : begin + 6]))
            assert targets[at] == values[which]
            assert between[at] == i - which in [0, *(2**k for k in range(9) if 2**k <= longest)]
            assert at - delay[at] == 6 * which + 2
        assert len(set(keys)) == items and all(value < symbols for value in values)
        assert tokens[6 * items :] == [symbols + 1] * (task.length - 6 * items) and not any(asked[6 * items :])


def test_delays_are_equally_likely_as_far_as_there_are_so_many_items() -> None:
    batch = make("retention:width=1,symbols=16,longest=4,length=32").batch(6000, seed=0)
    of_block = batch.facts["between"][batch.asked].view(-1, 8)
    for block, possible in enumerate(([0], [0, 1], [0, 1, 2], [0, 1, 2], *[[0, 1, 2, 4]] * 4)):
        share = of_block[:, block].bincount(minlength=5) / 6000
        assert share.nonzero()[:, 0].tolist() == possible
        assert float((share[possible] - 1 / len(possible)).abs().max()) < 0.03


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recognition:probes=17", r"Recognition\(probes=\) must be at most items=16.*got 17"),
        ("recognition:symbols=4", r"must be at least items \+ probes = 24 and .*got 4 \*\* 2"),
        ("recognition:width=13", r"at most 2 \*\* 62; got 32 \*\* 13"),
        ("recognition:items=70,lures=similar", r"needs width \* \(symbols - 1\) to be at least items=70.*got 62"),
        ("recognition:lures=none", r'Recognition\(lures=\) is "unrelated" or "similar"; got \'none\''),
        ("recognition:length=48", r"\(items \+ probes\) \* width \+ 1 = 49; got 48"),
        ("cued_recall:cue=4", r"CuedRecall\(cue=\) must be less than width=4.*got 4"),
        ("cued_recall:symbols=2", r"at least items=8 and .*got 2 \*\* 2"),
        ("cued_recall:length=56", r"items \* \(2 \* width - 1\) \+ 1 = 57; got 56"),
        ("retention:length=101", r"\(longest \+ 1\) = 102, so that every delay occurs; got 101"),
        ("retention:symbols=6", r"at least length // \(2 \* width \+ 2\) = 42 and .*got 6 \*\* 2"),
    ],
)
def test_exposures_that_cannot_be(line: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make(line)
