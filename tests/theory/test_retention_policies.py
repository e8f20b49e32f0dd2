"""What policies that drop entries must satisfy: bounds, protections, limits that are other systems, the papers' rules
written out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.execute import table
from mnemos.memory import (
    HeavyHitters,
    KeyDifference,
    KeyNorm,
    LazyEviction,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    Newest,
    Policy,
    Sampled,
)
from mnemos.state import State

B, H, K = 2, 2, 4

POLICIES: list[Policy] = [
    HeavyHitters(7, recent=2),
    HeavyHitters(7, period=4, sinks=1, recent=2, decay=0.6),
    HeavyHitters(7, recent=1, decay=0.0),
    HeavyHitters(7, recent=2, decay=0.8, mean=True),
    KeyDifference(7, sinks=2),
    KeyDifference(7, period=3),
    KeyNorm(7, recent=3),
    LazyEviction(7, period=3, recent=3, threshold=0.1),
    LazyEviction(7, period=5, sinks=1, recent=2, threshold=0.2, preference="printed"),
    LeastFrequentlyAttended(7, recent=2, threshold=0.2),
    LeastRecentlyAttended(7, period=2, threshold=0.2),
    Newest(7, period=3, sinks=1),
    Sampled(7, sinks=1, recent=2, seed=3),
]
each = pytest.mark.parametrize("policy", POLICIES, ids=str)


def inputs(time: int = 31, group: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(B, time, H * group, K, dtype=torch.float64)
    k, v = (torch.randn(B, time, H, K, dtype=torch.float64) for _ in range(2))
    return q, k, v


def memory(policy: Policy, **read: float) -> mn.KVMemory:
    return mn.KVMemory(retain=policy, read=mn.Softmax(**read))


def positions(state: State) -> list[list[list[int]]]:
    """The kept positions of every row and head."""
    return [[sorted(s - 1 for s in head if s) for head in row] for row in state["slot"].tolist()]


def steps(policy: Policy, q: Tensor, k: Tensor, v: Tensor) -> list[State]:
    """The state after every token."""
    rule = memory(policy)
    state, states = rule.init(B, H, K, K, dtype=torch.float64), []
    for t in range(q.shape[1]):
        _, state = rule.step(state.clone(), q[:, t], k[:, t], v[:, t])
        states.append(state.clone())
    return states


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


@each
@pytest.mark.parametrize("group", [1, 3])
def test_a_budget_that_is_never_full_is_full_attention(policy: Policy, group: int) -> None:
    q, k, v = inputs(31, group)
    full, _ = mn.run(mn.KVMemory(), q, k, v)
    for budget in (31, 40):
        assert_same(mn.run(memory(policy.replace(budget=budget)), q, k, v)[0], full)
    assert float((mn.run(memory(policy), q, k, v)[0] - full).abs().max()) > 1e-3


@each
def test_never_more_than_the_budget_and_the_tokens_since_the_last_eviction(policy: Policy) -> None:
    for t, state in enumerate(steps(policy, *inputs())):
        for row in positions(state):
            for kept in row:
                assert len(kept) <= policy.budget + policy.period - 1 == policy.capacity
                if (t + 1) % policy.period == 0:
                    assert len(kept) == min(t + 1, policy.budget)
                assert len(set(kept)) == len(kept) and kept[-1] == t


@each
def test_sinks_and_recent_entries_stay(policy: Policy) -> None:
    for t, state in enumerate(steps(policy, *inputs())):
        protected = {*range(min(policy.sinks, t + 1)), *range(max(0, t + 1 - policy.recent), t + 1)}
        assert all(protected <= set(kept) for row in positions(state) for kept in row)


@each
def test_what_was_kept_is_what_was_written(policy: Policy) -> None:
    q, k, v = inputs()
    _, state = mn.run(memory(policy), q, k, v)
    for row in range(B):
        for head in range(H):
            for place, slot in enumerate(state["slot"][row, head].tolist()):
                if slot:
                    assert torch.equal(state["keys"][row, head, place], k[row, slot - 1, head])
                    assert torch.equal(state["values"][row, head, place], v[row, slot - 1, head])


@each
def test_however_the_stream_is_cut(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In stretches of any length, in blocks of any size, rows at different times: the same answers, the same kept."""
    q, k, v = inputs()
    rule = memory(policy, rotary=100.0, positions="original")
    whole, last = mn.run(rule, q, k, v, plan="loop")
    for cuts, block in (([31], 64), ([31], 3), ([1, 2, 17, 4, 7], 64), ([13, 18], 4)):
        monkeypatch.setattr(table, "BLOCK", block)
        state, outputs, start = None, [], 0
        for size in cuts:
            here = (x[:, start : start + size] for x in (q, k, v))
            out, state = mn.run(rule, *here, state=state)
            outputs.append(out)
            start += size
        assert_same(torch.cat(outputs, 1), whole)
        assert state is not None and positions(state) == positions(last)
        for name in policy.statistics:
            filled = [s["slot"].sort(-1) for s in (state, last)]
            told = [s[f"statistic.{name}"].gather(-1, f.indices) for s, f in zip((state, last), filled, strict=True)]
            assert_same(*(torch.where(filled[0].values > 0, x, 0) for x in told))
    mask = torch.arange(31) < torch.tensor([31, 19])[:, None]
    out, state = mn.run(rule, q, k, v, mask=mask)
    assert_same(out[1, :19], whole[1, :19])
    _, shorter = mn.run(rule, *(x[:, :19] for x in (q, k, v)), plan="loop")
    assert positions(state) == [positions(last)[0], positions(shorter)[1]]


@pytest.mark.parametrize("policy", [p for p in POLICIES if p.statistics], ids=str)
def test_closed_forms_of_statistics(policy: Policy) -> None:
    """`observe_several` is `observe` again and again."""
    number, places = 6, 9
    position = torch.stack([torch.randperm(20)[:places] for _ in range(B * H)]).view(B, H, places)
    now = torch.arange(14, 14 + number)[None, None, :, None].expand(B, 1, -1, 1)
    weights = torch.rand(B, H, number, places, dtype=torch.float64) ** 3 * (position[:, :, None] <= now)
    before = policy.start(position.double())
    for name, value in policy.observe_several(before, weights, position, now).items():
        assert_same(value, Policy.observe_several(policy, before, weights, position, now)[name])


@pytest.mark.parametrize(
    "retain",
    [Newest(7, sinks=2), LeastRecentlyAttended(7, sinks=2, threshold=1.0), LazyEviction(7, 1, 2, 1, threshold=1.0)],
    ids=str,
)
@pytest.mark.parametrize("read", [mn.Softmax(), mn.Softmax(rotary=100.0)], ids=str)
def test_without_attention_recency_is_left(retain: Policy, read: mn.Softmax) -> None:
    """If nothing ever counts as attended to, what stays are the sinks and a window, positions renumbered alike."""
    q, k, v = inputs()
    windowed, _ = mn.run(mn.KVMemory(retain=mn.Window(5, sinks=2), read=read), q, k, v)
    assert_same(mn.run(mn.KVMemory(retain=retain, read=read), q, k, v)[0], windowed)


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("recent", [1, 4])
def test_h2o_and_tova_as_published(decay: float, recent: int) -> None:
    """A new entry is added, the query reads, the least of the others goes: our order puts the drop before the next
    read, so the published cache is one smaller, and its recent ones are one fewer."""
    q, k, v = inputs()
    out, _ = mn.run(memory(HeavyHitters(7, recent=recent, decay=decay)), q, k, v)
    for b in range(B):
        for h in range(H):
            kept: dict[int, float] = {}
            for t in range(q.shape[1]):
                kept[t] = 0.0
                here = list(kept)
                scores = [math.exp(float(q[b, t, h] @ k[b, p, h]) / math.sqrt(K)) for p in here]
                weights = [score / sum(scores) for score in scores]
                answer = sum(w * v[b, p, h] for w, p in zip(weights, here, strict=True))
                assert_same(out[b, t, h], torch.as_tensor(answer))
                kept = {p: decay * kept[p] + w for p, w in zip(here, weights, strict=True)}
                if len(kept) > 6:
                    del kept[min((p for p in kept if p <= t - (recent - 1)), key=lambda p: kept[p])]


@pytest.mark.parametrize("decay", [0.7, 1.0])
def test_h2o_by_the_mean(decay: float) -> None:
    """The least mean of its weights goes, over the tokens that have read since it was written, older ones counting
    less."""
    q, k, v = inputs()
    out, _ = mn.run(memory(HeavyHitters(7, recent=2, decay=decay, mean=True)), q, k, v)
    for b in range(B):
        for h in range(H):
            given: dict[int, list[float]] = {}
            for t in range(q.shape[1]):
                given[t] = []
                if len(given) > 7:
                    shares = {p: [decay ** (len(w) - 1 - i) for i in range(len(w))] for p, w in given.items()}
                    means = {p: sum(map(float.__mul__, shares[p], w)) / sum(shares[p]) for p, w in given.items() if w}
                    del given[min((p for p in given if p <= t - 2), key=lambda p: means[p])]
                here = list(given)
                weights = torch.softmax(k[b, here, h] @ q[b, t, h] / math.sqrt(K), 0)
                assert_same(out[b, t, h], weights @ v[b, here, h])
                for p, weight in zip(here, weights.tolist(), strict=True):
                    given[p].append(weight)


def test_the_mean_does_not_favour_what_is_old() -> None:
    """Read ten times with 0.2, or twice with 0.5: the sum prefers the older one, the mean the newer. Of the last read
    alone the mean is TOVA's weight."""
    for mean in (False, True):
        policy = HeavyHitters(7, recent=2, mean=mean)
        position, notes = torch.tensor([[[0, 8]]]), policy.start(torch.zeros(1, 1, 2))
        notes = policy.observe_several(
            notes, torch.full((1, 1, 8, 2), 0.2), position, torch.arange(8)[None, None, :, None]
        )
        late = torch.tensor([0.2, 0.5]).expand(1, 1, 2, 2)
        notes = {name: x * torch.tensor([1.0, 0.0]) for name, x in notes.items()}  # the second is not there yet
        notes = policy.observe_several(notes, late, position, torch.arange(8, 10)[None, None, :, None])
        old, new = policy.worth(notes, position, torch.tensor([[[9]]]), torch.zeros(1, 1, 2, K))[0, 0].tolist()
        assert (old, new) == pytest.approx((0.2, 0.5) if mean else (2.0, 1.0))
    tova = HeavyHitters(7, recent=2, decay=0.0)
    q, k, v = inputs()
    assert torch.equal(mn.run(memory(tova.replace(mean=True)), q, k, v)[0], mn.run(memory(tova), q, k, v)[0])


def pointing(asked: dict[int, int], time: int, sharp: float = 40.0) -> tuple[Tensor, Tensor, Tensor]:
    """Keys that are all different; the query of token t looks at position asked[t], or at the newest entry alone."""
    k = torch.eye(time, dtype=torch.float64)[None, :, None].expand(B, -1, H, -1)
    q = torch.stack([sharp * math.sqrt(time) * k[:, asked.get(t, t)] for t in range(time)], 1)
    return q, k, torch.randn(B, time, H, time, dtype=torch.float64)


def survives(policy: Policy, item: int, asked: dict[int, int], time: int) -> bool:
    """Whether every head still has the entry of position `item` after `time` tokens."""
    _, state = mn.run(memory(policy), *pointing(asked, time))
    return all(item in kept for row in positions(state) for kept in row)


def test_lazy_eviction_keeps_what_comes_back_within_its_window() -> None:
    """Items asked for every p tokens, p at most the period, stay as long as they are no more than the budget less the
    recent ones; policies that look at the last read or the last tokens alone lose them."""
    for period, p in ((6, 6), (6, 4), (8, 5)):
        asked = {t: (t // p) % 2 for t in range(p, 60, p)}  # two items in turn: each comes back every 2 p tokens
        asked |= {t + 1: 1 - item for t, item in asked.items()}
        lazy = LazyEviction(period + 2, period=period, recent=period, threshold=0.5)
        assert all(survives(lazy, item, asked, 60) for item in (0, 1))
    asked = dict.fromkeys(range(6, 60, 6), 0)
    assert survives(LazyEviction(8, period=6, recent=6, threshold=0.5), 0, asked, 59)
    assert not survives(HeavyHitters(5, recent=1, decay=0.0), 0, asked, 59)
    assert not survives(LeastRecentlyAttended(5, threshold=0.5), 0, asked, 59)


@pytest.mark.parametrize("preference", ["printed", "described", None])
@pytest.mark.parametrize(("window", "interval"), [(4, 1), (4, 3), (4, 4), (6, 2), (6, 6)])
def test_lazy_eviction_never_drops_what_comes_back(window: int, interval: int, preference: str | None) -> None:
    """As many items as the budget leaves room for beside the recent ones, each asked for every so many tokens, at most
    the window: after no token is any of them gone."""
    number, time = min(3, interval), 40
    asked = {t: t % interval for t in range(interval, time) if t % interval < number}
    policy = LazyEviction(window + number, window, 0, window, 0.5, preference)  # pyright: ignore[reportArgumentType]
    rule, (q, k, v) = memory(policy), pointing(asked, time)
    state = rule.init(B, H, time, time, dtype=torch.float64)
    for t in range(time):
        _, state = rule.step(state, q[:, t], k[:, t], v[:, t])
        items = {*range(min(number, t + 1))}
        assert all(items <= set(kept) for row in positions(state) for kept in row)


@pytest.mark.parametrize("period", [1, 3, 5])
def test_lazy_eviction_that_sees_nothing_come_back_slides(period: int) -> None:
    """An eviction leaves the newest entries, and all that come until the next are added."""
    policy = LazyEviction(7, period=period, recent=period, threshold=1.0)
    for t, state in enumerate(steps(policy, *inputs())):
        first = max((t + 1) // period * period - 7, 0)
        assert positions(state) == [[list(range(first, t + 1))] * H] * B


@pytest.mark.parametrize("preference", ["printed", "described", None])
def test_lazy_eviction_notes(preference: str | None) -> None:
    """Gaps never shrink, no activation lies in the future, and one now is worth 1 by the first term."""
    policy = LazyEviction(9, period=3, recent=3, threshold=0.15, preference=preference)  # pyright: ignore
    gaps: dict[tuple[int, int, int], float] = {}
    came_back = 0
    for t, state in enumerate(steps(policy, *inputs())):
        last, gap, slot = (state[name] for name in ("statistic.last", "statistic.gap", "slot"))
        now = torch.full((B, 1, 1), t)
        first = policy.replace(preference=None).worth({"last": last, "gap": gap}, slot - 1, now, state["keys"])
        for b in range(B):
            for h in range(H):
                for place, s in enumerate(slot[b, h].tolist()):
                    if s:
                        assert s - 1 <= last[b, h, place] <= t
                        assert gap[b, h, place] >= gaps.get((b, h, s - 1), 0.0)
                        gaps[b, h, s - 1] = float(gap[b, h, place])
                        came_back += int(gap[b, h, place] > 0)
                        if last[b, h, place] == t:
                            assert first[b, h, place] == 1
    assert came_back > 20


def test_lazy_eviction_worth_is_the_papers() -> None:
    last, gap, now = 10.0, 4.0, 16
    notes = {"last": torch.full((1, 1, 1), last), "gap": torch.full((1, 1, 1), gap)}
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    second = {"printed": 2 * sigmoid(-1 / gap), "described": 2 * sigmoid(-gap / 5), None: 0.0}
    for preference, term in second.items():
        policy = LazyEviction(64, period=5, preference=preference)  # pyright: ignore[reportArgumentType]
        found = policy.worth(notes, torch.zeros(1, 1, 1), torch.full((1, 1, 1), now), torch.zeros(1, 1, 1, K))
        assert float(found) == pytest.approx(2 * sigmoid(-(now - last) / gap) + term, rel=1e-6)


def test_least_recently_attended_keeps_what_is_hot() -> None:
    """An entry that every few tokens look at stays while the others within that time fit; first in, first out loses
    it; and it goes once nobody looks any more."""
    asked = dict.fromkeys(range(3, 50, 3), 0)
    assert survives(LeastRecentlyAttended(5, threshold=0.5), 0, asked, 50)
    assert not survives(LeastRecentlyAttended(5, threshold=1.0), 0, asked, 50)
    assert not survives(LeastRecentlyAttended(5, threshold=0.5), 0, dict.fromkeys(range(3, 30, 3), 0), 50)


@pytest.mark.parametrize("hot", [1, 2, 4])
def test_least_recently_attended_never_drops_what_all_attend_to(hot: int) -> None:
    """All tokens attend to the same few: these are kept after every token, if beside them there is room for the
    newest entry and the one before it, which its own token makes as recent."""
    time = 30
    k = torch.eye(time, dtype=torch.float64)[None, :, None].expand(B, -1, H, -1)
    q = 40 * math.sqrt(time) * k[:, :hot].sum(1)
    rule = memory(LeastRecentlyAttended(hot + 2, threshold=0.5 / hot))
    state = rule.init(B, H, time, time, dtype=torch.float64)
    for t in range(time):
        _, state = rule.step(state, q, k[:, t], torch.randn(B, H, time, dtype=torch.float64))
        assert positions(state) == [[sorted({*range(min(hot, t + 1)), max(t - 1, 0), t})] * H] * B


def test_an_entry_that_nobody_looked_at_is_as_recent_as_its_token() -> None:
    _, state = mn.run(memory(LeastRecentlyAttended(5, threshold=0.5)), *pointing({1: 0, 2: 0, 3: 0, 4: 1}, 8))
    assert positions(state) == [[[1, 4, 5, 6, 7]] * H] * B  # 2 went first, then 0 and 3, both of token 3


def test_least_frequently_attended_counts() -> None:
    """What was looked at most stays, however long ago; an entry that was looked at once goes before."""
    asked = dict.fromkeys(range(1, 4), 0) | {4: 2, 5: 2}
    policy = LeastFrequentlyAttended(4, recent=1, threshold=0.5)
    assert survives(policy, 0, asked, 40)
    _, state = mn.run(memory(policy), *pointing(asked, 40))
    counts = dict(zip(state["slot"][0, 0].sub(1).tolist(), state["statistic.times"][0, 0].tolist(), strict=True))
    assert counts[0] == 4 and counts[2] == 2  # 0 was asked for by its own token too, 2 was not


@pytest.mark.parametrize("recent", [1, 3])
def test_short_keys_stay(recent: int) -> None:
    """Worths that never change: kept are the recent ones and the shortest of all before."""
    q, k, v = inputs()
    lengths = torch.stack([0.5 + torch.randperm(31) / 31 for _ in range(B * H)]).view(B, H, 31).transpose(1, 2)
    k = torch.nn.functional.normalize(k, dim=-1) * lengths[..., None]
    for t, state in enumerate(steps(KeyNorm(7, recent=recent), q, k, v)):
        for b in range(B):
            for h in range(H):
                older = sorted(range(t + 1 - recent), key=lambda p: float(k[b, p, h].norm()))
                expected = {*range(max(0, t + 1 - recent), t + 1), *older[: 7 - recent]}
                assert set(positions(state)[b][h]) == expected


def test_key_difference_as_published() -> None:
    """The key closest to the mean of the unit keys goes, the older one of two that are as close."""
    q, k, v = inputs()
    for b in range(B):
        for h in range(H):
            kept: list[int] = []
            for t, state in enumerate(steps(KeyDifference(7), q, k, v)):
                kept.append(t)
                if len(kept) > 7:
                    unit = {p: k[b, p, h] / k[b, p, h].norm() for p in kept}
                    mean = sum(unit.values(), torch.zeros(K, dtype=torch.float64)) / len(kept)
                    mean = mean / mean.norm()
                    kept.remove(max(kept[:-1], key=lambda p: (round(4096 * float(unit[p] @ mean)), -p)))
                assert positions(state)[b][h] == kept


@pytest.mark.parametrize("policy", [KeyNorm(7, recent=2), KeyDifference(7)], ids=str)
def test_rounding_does_not_decide(policy: Policy) -> None:
    """Of equal keys the older one goes, though their last digits differ."""
    q, k, v = inputs()
    k = k[:, :1] * (1 + 1e-13 * torch.randn(B, 31, H, 1, dtype=torch.float64))
    _, state = mn.run(memory(policy), q, k, v)
    assert positions(state) == [[list(range(24, 31))] * H] * B


def test_a_key_unlike_the_others_stays() -> None:
    q, k, v = inputs()
    k = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64) + 0.05 * k
    k[:, 3] = torch.tensor([0.0, 1, 0, 0], dtype=torch.float64)
    _, state = mn.run(memory(KeyDifference(5)), q, k, v)
    assert all(3 in kept for row in positions(state) for kept in row)


def test_a_sample_is_uniform() -> None:
    """Over many seeds every position is kept equally often (five standard deviations)."""
    time, budget, seeds = 40, 11, 400
    q = torch.zeros(1, time, 1, 2)
    found: Counter[int] = Counter()
    kept_by_seed = set()
    for seed in range(seeds):
        worth = Sampled(budget, recent=1, seed=1000 * seed).worth({}, torch.arange(time), torch.tensor(time), q)
        kept = [*worth[:-1].topk(budget - 1).indices.tolist(), time - 1]
        if seed < 3:  # the worths never change, so that this is what stays
            _, state = mn.run(memory(Sampled(budget, recent=1, seed=1000 * seed)), q, q, q)
            assert positions(state)[0][0] == sorted(kept)
        found.update(kept)
        kept_by_seed.add(tuple(sorted(kept)))
    share = (budget - 1) / (time - 1)
    for position in range(time - 1):
        assert abs(found[position] - seeds * share) < 5 * math.sqrt(seeds * share * (1 - share))
    assert len(kept_by_seed) == seeds


def test_no_gradient_flows_through_the_choice() -> None:
    """The gradient is that of attention over the entries that were kept."""
    q, k, v = inputs(12)
    k.requires_grad_()
    out, state = mn.run(memory(HeavyHitters(5, recent=1)), q, k, v)
    (gradient,) = torch.autograd.grad(out[:, -1].sum(), k)
    for b in range(B):
        for h in range(H):
            kept = positions(state)[b][h]
            again = k.detach()[b, kept, h].requires_grad_()
            weights = torch.softmax(again @ q[b, -1, h] / math.sqrt(K), 0)
            (expected,) = torch.autograd.grad((weights @ v[b, kept, h]).sum(), again)
            assert_same(gradient[b, kept, h], expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampled(seed=-1), r"Sampled\(seed=\) must lie in \[0, 2\^31\); got -1"),
        (lambda: KeyNorm(8), r"KeyNorm\(budget=\) must hold the 0 sinks and the 32 recent entries"),
        (lambda: KeyDifference(period=0), r"KeyDifference\(period=\) is a number of tokens of at least 1; got 0"),
        (lambda: LeastRecentlyAttended(threshold=-0.1), r"LeastRecentlyAttended\(threshold=\) is a weight"),
        (lambda: mn.zoo.attendre(policy="mru"), r'attendre\(policy=\) is "lra", "lfa" or "fifo"; got \'mru\''),
        (lambda: LeastFrequentlyAttended(threshold=-0.1), r"LeastFrequentlyAttended\(threshold=\) is a weight"),
    ],
)
def test_what_cannot_be_declared(make, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        make()
    with pytest.raises(InvalidType):
        KeyNorm(3.5)  # pyright: ignore[reportArgumentType]
