"""The literal form of memories in episodes: every entry a record, every episode a list of records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.episode import Address, Every, MeanKey, Recall, Representatives, Surprise
from mnemos.memory.episodic import EpisodicMemory
from mnemos.state import State


@dataclass
class Record:
    """One token of one row: key (H, K), value (H, V), and the notes on it."""

    position: int
    key: Tensor
    value: Tensor
    address: Tensor | None
    surprise: float
    episode: int = 0
    received: float = 0.0
    queued: int = 0


def remember(
    memory: EpisodicMemory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row and token by token, the past as a list."""
    batch, time, heads, _ = q.shape
    rows, outputs = [], []
    for b in range(batch):
        past, count = _records(memory, state, b), int(state["count"][b])
        answers = []
        for t in range(time if lengths is None else int(lengths[b])):
            now = {name: value[b, t] for name, value in controls.items()}
            _write(memory, past, k[b, t], v[b, t], now, count)
            _look(memory, past, q[b, t], count)
            answers.append(_answer(memory, past, q[b, t], now, count))
            count += 1
            past = _room(memory, past)
        answers += [v.new_zeros(heads, v.shape[-1])] * (time - len(answers))
        outputs.append(torch.stack(answers) if answers else v.new_zeros(0, heads, v.shape[-1]))
        rows.append((past, count))
    if not batch:
        return v.new_zeros(0, time, heads, v.shape[-1]), state
    return torch.stack(outputs), _state(memory, state, k, v, rows)


def _write(memory: EpisodicMemory, past: list[Record], key: Tensor, value: Tensor, now: Controls, count: int) -> None:
    rule, surprise, proposed = memory.boundary, 0.0, False
    if isinstance(rule, Surprise):
        if count > 0:
            surprise = SURPRISES[rule.of](past, key, now)
        before = [record.surprise for record in past[-rule.span :] if record.position > 0]
        if before:
            above = [surprise - x for x in before]
            mean = sum(above) / len(above)
            spread = math.sqrt(sum((x - mean) ** 2 for x in above) / len(above))
            proposed = mean > rule.threshold * spread + 1e-5
    else:
        assert type(rule) is Every
    new = Record(count, key, value, now.get("address"), surprise)
    number = max((record.episode for record in past), default=0)
    size = sum(record.episode == number for record in past if record.episode)
    if count >= memory.sinks:
        begins = number == 0 or size == rule.longest or (proposed and size >= rule.shortest)
        new.episode = number + 1 if begins else number
        if begins and rule.refine and number >= 2:
            _refine(past, number, rule.longest, rule.refine)
    past.append(new)


def _by_control(past: list[Record], key: Tensor, now: Controls) -> float:
    return float(now["surprise"].detach().mean())


def _by_keys(past: list[Record], key: Tensor, now: Controls) -> float:
    one, other = key.detach().flatten(), past[-1].key.detach().flatten()
    return 1 - float(one @ other / (one.norm() * other.norm()))


SURPRISES: dict[str, Callable[[list[Record], Tensor, Controls], float]] = {"control": _by_control, "keys": _by_keys}


def _refine(past: list[Record], number: int, longest: int, metric: str) -> None:
    """The boundary between episodes number - 1 and number goes to the best place."""
    pair = [record for record in past if record.episode in (number - 1, number)]
    keys = [record.key.flatten().detach() for record in pair]
    similar = [[float(one @ other) for other in keys] for one in keys]
    found = min(record.position for record in pair if record.episode == number)
    best, place = -math.inf, None
    for cut in range(len(pair) - 1, 0, -1):
        start = pair[cut].position
        if start > found or start < found - longest:
            continue
        quality = round(QUALITIES[metric](similar, cut), 6)
        if quality > best:
            best, place = quality, start
    for record in pair:
        if place is not None and record.position >= place:
            record.episode = number


def _modularity(a: list[list[float]], cut: int) -> float:
    nodes = range(len(a))
    degree, total = [sum(row) for row in a], sum(map(sum, a))
    if total == 0:
        return -math.inf
    same = ((i, j) for i in nodes for j in nodes if (i < cut) == (j < cut))
    return sum(a[i][j] - degree[i] * degree[j] / total for i, j in same) / total


def _minus_conductance(a: list[list[float]], cut: int) -> float:
    sides = range(cut), range(cut, len(a))
    volume = min(sum(a[i][j] for i in side for j in side) for side in sides)
    between = sum(a[i][j] for i in sides[0] for j in sides[1])
    return -between / volume if volume > 0 else -math.inf


QUALITIES: dict[str, Callable[[list[list[float]], int], float]] = {
    "modularity": _modularity,
    "conductance": _minus_conductance,
}


def _turned(memory: EpisodicMemory, x: Tensor, distance: int) -> Tensor:
    """x (H, K) turned by a distance, by complex multiplication."""
    if memory.rotary is None:
        return x
    half = x.shape[-1] // 2
    angle = distance * memory.rotary ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def _score(memory: EpisodicMemory, q: Tensor, record: Record, distance: int) -> Tensor:
    """(H,)"""
    scale = memory.scale or 1 / math.sqrt(q.shape[-1])
    return scale * (_turned(memory, q, distance) * _repeated(record.key, q)).sum(-1)


def _repeated(x: Tensor, q: Tensor) -> Tensor:
    """x (H, .) of keys or values once for each head of q."""
    return torch.stack([x[head * len(x) // len(q)] for head in range(len(q))])


def _look(memory: EpisodicMemory, past: list[Record], q: Tensor, now: int) -> None:
    window = [record for record in past if now - record.position < memory.window]
    if isinstance(memory.summary, Representatives) and window:
        scores = torch.stack([_score(memory, q, record, now - record.position) for record in window])
        for record, weight in zip(window, torch.softmax(scores.detach(), 0).sum(1).tolist(), strict=True):
            record.received += weight


def _mean_key(rule: MeanKey, episode: list[Record]) -> Tensor:
    return torch.stack([record.key for record in episode]).mean(0)


def _address(rule: Address, episode: list[Record]) -> Tensor:
    return torch.stack([_given(record) for record in episode]).mean(0)


def _given(record: Record) -> Tensor:
    assert record.address is not None
    return record.address


def _representatives(rule: Representatives, episode: list[Record]) -> Tensor:
    best = sorted(episode, key=lambda record: (-round(record.received, 6), record.position))[: rule.number]
    return torch.stack([record.key for record in best]).mean(0)


SUMMARIES: dict[type, Callable[[Any, list[Record]], Tensor]] = {
    MeanKey: _mean_key,
    Address: _address,
    Representatives: _representatives,
}
"""(rule, the records of an episode) -> its summary (H, K)."""


def _answer(memory: EpisodicMemory, past: list[Record], q: Tensor, controls: Controls, now: int) -> Tensor:
    current, nothing = past[-1].episode, torch.zeros_like(_repeated(past[-1].value, q))
    episodes: dict[int, list[Record]] = {}
    for record in past:
        if record.episode:
            episodes.setdefault(record.episode, []).append(record)
    waiting = 1 if memory.boundary.refine is None else 2
    far = {
        number: episode
        for number, episode in episodes.items()
        if number <= current - waiting and all(now - record.position >= memory.window for record in episode)
    }
    readable = {n: episode for n, episode in far.items() if memory.keep is None or n >= current - memory.keep}
    asked = controls["asking"] if isinstance(memory.summary, Address) else _turned(memory, q, memory.window)
    match = {
        n: (asked * _repeated(SUMMARIES[type(memory.summary)](memory.summary, episode), q)).sum() / math.sqrt(q.numel())
        for n, episode in readable.items()
    }
    finished = {n: episode for n, episode in episodes.items() if n <= current - waiting}
    chosen = _recall(memory.recall, {n: float(x.detach()) for n, x in match.items()}, finished, readable, now)
    if not memory.together:
        if not chosen:
            return nothing
        shares = torch.softmax(torch.stack([match[n] for n in chosen]), 0)
        return sum(
            (
                share * _mean(memory, q, [(record, 0) for record in episodes[n]])
                for share, n in zip(shares, chosen, strict=True)
            ),
            nothing,
        )
    read = []
    for record in past:
        lag = now - record.position
        sink = record.position < memory.sinks
        if lag < memory.window or (memory.window and not sink and record.episode not in far):
            read.append((record, lag))
        elif sink or record.episode in chosen:
            read.append((record, memory.window))
    return _mean(memory, q, read) if read else nothing


def _mean(memory: EpisodicMemory, q: Tensor, read: list[tuple[Record, int]]) -> Tensor:
    """Softmax attention to records at distances, (H, V)."""
    weights = torch.softmax(torch.stack([_score(memory, q, record, lag) for record, lag in read]), 0)
    return (weights[..., None] * torch.stack([_repeated(record.value, q) for record, _ in read])).sum(0)


def _recall(
    rule: Recall,
    match: dict[int, float],
    finished: dict[int, list[Record]],
    readable: dict[int, list[Record]],
    now: int,
) -> list[int]:
    ranked = sorted(match, key=lambda n: (-round(match[n], 6), n))
    if rule.unit == "episodes":
        found = ranked[: rule.similar]
    else:
        totals = [sum(len(readable[n]) for n in ranked[: i + 1]) for i in range(len(ranked))]
        off = [abs(total - rule.similar) for total in totals]
        found = ranked[: off.index(min(off)) + 1] if off else []
    if not rule.contiguous:
        return found
    for n in found:
        for record in [*finished.get(n - 1, []), *finished.get(n + 1, [])]:
            record.queued = now + 1
    queue = [n for n in readable if n not in found and readable[n][0].queued]
    left, beside = rule.contiguous, []
    for n in sorted(queue, key=lambda n: (-readable[n][0].queued, -n)):
        left -= 1 if rule.unit == "episodes" else len(readable[n])
        if left < 0:
            break
        beside.append(n)
    return found + beside


def _room(memory: EpisodicMemory, past: list[Record]) -> list[Record]:
    """What there is room for: the sinks and the newest."""
    if memory.capacity is None:
        return past
    sinks = [record for record in past if record.position < memory.sinks]
    others = [record for record in past if record.position >= memory.sinks]
    return sinks + others[-(memory.capacity - len(sinks)) :]


def _records(memory: EpisodicMemory, state: State, row: int) -> list[Record]:
    places = sorted((s, place) for place, s in enumerate(state["slot"][row].tolist()) if s > 0)

    def note(name: str, place: int) -> Any:
        return state[name].detach()[row, place].item() if name in state.entries else 0

    return [
        Record(
            slot - 1,
            state["keys"][row, place].double(),
            state["values"][row, place].double(),
            state["address"][row, place].double() if "address" in state.entries else None,
            note("surprise", place),
            note("episode", place),
            note("received", place),
            note("queued", place),
        )
        for slot, place in places
    ]


def _state(memory: EpisodicMemory, state: State, k: Tensor, v: Tensor, rows: list[tuple[list[Record], int]]) -> State:
    """The state that holds these records in the order of time."""
    places = memory.capacity or max(len(past) for past, _ in rows)
    whole, real = {"dtype": torch.int64, "device": k.device}, {"dtype": torch.float64, "device": k.device}
    entries: dict[str, Tensor | State] = {}
    for name in state.entries:
        if name == "count":
            entries[name] = torch.tensor([count for _, count in rows], **whole)
            continue
        shape = v.shape[2:] if name == "values" else k.shape[2:]
        filled = []
        for past, _ in rows:
            if name in ("keys", "values", "address"):
                own = {"keys": "key", "values": "value", "address": "address"}[name]
                found = [getattr(record, own) for record in past]
                found += [k.new_zeros(shape)] * (places - len(past))
                filled.append(torch.stack(found) if found else k.new_zeros(0, *shape))
            else:
                notes = [record.position + 1 if name == "slot" else getattr(record, name) for record in past]
                kind = real if name in ("surprise", "received") else whole
                filled.append(torch.tensor(notes + [0] * (places - len(past)), **kind))
        entries[name] = torch.stack(filled)
    return state.successor(**entries)
