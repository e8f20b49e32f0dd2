"""Sparsey's code selection (arXiv 1710.07829): familiarity, drawn codes, recall in one shot."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import AnyMemory, Cliques, Patterns, Sparsey, Willshaw

PATTERNS = Patterns("sparse", active=12)


def drawn(count: int, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    return PATTERNS.draw(count, size, size, torch.Generator().manual_seed(seed))


def stored(memory: Sparsey, k: Tensor, v: Tensor) -> mn.State:
    state = memory.init(1, 1, k.shape[1], v.shape[1], dtype=torch.float64)
    return memory.write_all(state, k[None, :, None], v[None, :, None])


def code_of_write(memory: Sparsey, state: mn.State, x: Tensor) -> Tensor:
    """The winners that a write of x takes, (modules,): the cells that are then linked with a value of their own."""
    before = state["back"].clone()
    mark = torch.zeros(before.shape[2]).double()
    mark[-1] = 1.0
    assert not before[0, 0, -1].any()
    after = memory.write(state, x[None, None], mark[None, None])
    return after["back"][0, 0, -1].view(memory.modules, memory.units).double().argmax(-1)


def test_blank_weights_know_nothing_and_draw_evenly() -> None:
    memory = Sparsey(modules=500, units=5)
    k, _ = drawn(1)
    state = memory.init(1, 1, 64, 1)
    support = memory.support(state, k[None, :, None])
    assert not memory.familiarity(state, k[None, :, None]).any()
    assert float((memory.chances(support) - 0.2).abs().max()) < 1e-12
    counts = torch.bincount(code_of_write(memory, state, k[0]), minlength=5)
    assert int(counts.min()) > 70 and int(counts.sum()) == 500  # 100 each, of deviation 9


def test_the_formulas_of_a_draw() -> None:
    memory = Sparsey(modules=2, units=3, expansion=1.5, sharpness=2.0, floor=0.1, steepness=9.0, shift=4.0)
    support = torch.tensor([[0.9, 0.1, 0.0], [0.3, 0.4, 0.4]], dtype=torch.float64)
    eta = 1 + 1.5 * 3 * ((0.65 - 0.1) / 0.9) ** 2
    for row, found in zip(support.tolist(), memory.chances(support).tolist(), strict=True):
        psi = [(eta - 1) / (1 + math.exp(-9.0 * v + 4.0)) + 1 for v in row]
        assert found == pytest.approx([p / sum(psi) for p in psi])
    low = torch.tensor([[0.1, 0.0, 0.0], [0.1, 0.1, 0.0]], dtype=torch.float64)
    assert float((memory.chances(low) - 1 / 3).abs().max()) < 1e-12  # at the floor every key is new


def test_what_was_stored_is_wholly_familiar_and_finds_its_own_code() -> None:
    memory = Sparsey(modules=16, units=8)
    k, v = drawn(12)
    codes, state = [], memory.init(1, 1, 64, 65, dtype=torch.float64)
    for x, y in zip(k, v, strict=True):
        codes.append(code_of_write(memory, state.clone(), x))
        state = memory.write(state, x[None, None], torch.cat([y, y.new_zeros(1)])[None, None])
    assert torch.equal(memory.familiarity(state, k[None, :, None])[0, :, 0], torch.ones(12).double())
    support = memory.support(state, k[None, :, None])[0, :, 0]
    own = torch.stack(codes)
    assert bool((support.gather(-1, own[..., None])[..., 0] == 1).all())
    assert float((memory.code(state, k[None, :, None])[0, :, 0] == own).double().mean()) > 0.99
    again = memory.code(state, k[None, :, None])
    assert torch.equal(again, memory.code(state, k[None, :, None]))
    new, _ = drawn(12, seed=5)
    assert float(memory.familiarity(state, new[None, :, None]).max()) < 0.75


def test_a_key_alone_finds_the_very_code_it_was_stored_with() -> None:
    memory = Sparsey(modules=40, units=8)
    k, _ = drawn(1)
    empty = memory.init(1, 1, 64, 1, dtype=torch.float64)
    own = code_of_write(memory, empty.clone(), k[0])
    state = memory.write(empty, k[:, None], torch.zeros(1, 1, 1).double())
    assert torch.equal(memory.code(state, k[None, :, None])[0, 0, 0], own) and len(own.unique()) > 1
    assert float(memory.familiarity(state, k[None, :, None])) == 1


def test_values_come_back_after_one_showing() -> None:
    memory = Sparsey(modules=16, units=8)
    k, v = drawn(10)
    state = stored(memory, k, v)
    found = memory.read(state, k[None, :, None])[0, :, 0]
    assert bool((found >= v).all()) and float((found == v).all(1).double().mean()) >= 0.9
    cues = PATTERNS.cues(k, 0.25, torch.Generator().manual_seed(1))
    assert float((memory.read(state, cues[None, :, None])[0, :, 0] == v).all(1).double().mean()) >= 0.9


def test_like_inputs_have_overlapping_codes() -> None:
    """Winners shared with a stored key, by how many of 12 ones are shared: rising from chance to nearly all."""
    memory = Sparsey(modules=200, units=8)
    k, _ = drawn(1, 200)
    first = code_of_write(memory, memory.init(1, 1, 200, 2), k[0])
    state = stored(memory, k, torch.zeros(1, 2).double())
    ones, others = k[0].nonzero().flatten(), (1 - k[0]).nonzero().flatten()
    shared = []
    for same in (0, 4, 6, 8, 10, 12):
        x = torch.zeros(200, dtype=torch.float64)
        x[ones[:same]] = 1
        x[others[: 12 - same]] = 1
        shared.append(float((code_of_write(memory, state, x) == first).double().mean()))
    assert shared == sorted(shared) and shared[0] < 0.25 and shared[-1] > 0.6 and shared[-1] > shared[2] + 0.1


def test_nothing_is_learned_from_nothing_nor_when_full() -> None:
    memory = Sparsey(modules=2, units=2, saturation=0.25)
    empty = memory.init(1, 1, 4, 3)
    after = memory.write(empty, torch.zeros(1, 1, 4), torch.ones(1, 1, 3))
    assert not after["links"].any() and not after["back"].any() and after["count"].tolist() == [1]
    full = memory.write(empty, torch.ones(1, 1, 4), torch.ones(1, 1, 3))
    assert float(full["links"].double().mean()) == 0.5
    later = full
    for _ in range(20):  # not even where other winners are drawn
        later = memory.write(later, torch.tensor([[[1.0, 0, 0, 0]]]), torch.ones(1, 1, 3))
    assert torch.equal(later["links"], full["links"]) and torch.equal(later["back"], full["back"])
    assert not memory.read(empty, torch.ones(1, 1, 4)).any() and not memory.read(full, torch.zeros(1, 1, 4)).any()


def test_draws_are_of_the_seed_and_the_token() -> None:
    k, v = drawn(6)
    one, same, other = (stored(Sparsey(seed=seed), k, v)["back"] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    draws = Sparsey(modules=50)._draws(torch.arange(200), 3)
    assert abs(float(draws.mean()) - 0.5) < 0.01 and abs(float(draws.var()) - 1 / 12) < 0.003
    assert len(draws.unique()) == draws.numel() and bool(((draws >= 0) & (draws < 1)).all())


def test_its_state_is_constant() -> None:
    memory = Sparsey()
    sizes = {stored(memory, *drawn(count)).nbytes for count in (1, 30)}
    assert len(sizes) == 1


class Operations(TorchDispatchMode):
    """What is computed, and on tensors of which shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((str(func), [tuple(x.shape) for x in args if isinstance(x, Tensor)]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory", [Sparsey(), Willshaw(), Willshaw(4), Cliques(4)], ids=str)
def test_a_step_takes_as_long_whatever_is_stored(memory: AnyMemory) -> None:
    """The same operations on the same shapes after 1 item and after 60, to write and to read."""
    patterns = Patterns("message", active=4, same=True) if isinstance(memory, Cliques) else PATTERNS
    k, v = patterns.draw(61, 64, 64, torch.Generator().manual_seed(0))
    done = []
    for number in (1, 60):
        state = memory.init(1, 1, 64, 64, dtype=torch.float64)
        state = memory.write_all(state, k[None, :number, None], v[None, :number, None])
        with Operations() as operations:
            memory.read(memory.write(state, k[None, -1, None], v[None, -1, None]), k[None, 0, None])
        done.append(operations.seen)
    assert len(done[0]) > 10 and done[0] == done[1]
    assert memory.step_flops(64, 64, 1) == memory.step_flops(64, 64, 10**6)


def test_what_cannot_be() -> None:
    for options, message in (
        ({"modules": 0}, r"Sparsey\(modules=\) is at least 1; got 0"),
        ({"units": 1}, r"Sparsey\(units=\) is at least 2; got 1"),
        ({"floor": 1.0}, r"Sparsey\(floor=\) lies in \[0, 1\); got 1"),
        ({"saturation": 0.0}, r"Sparsey\(saturation=\) lies in \(0, 1\]; got 0"),
        ({"expansion": 0.0}, r"Sparsey\(expansion=\) is positive; got 0"),
        ({"steepness": math.inf}, r"Sparsey\(steepness=\) is positive; got inf"),
        ({"shift": math.nan}, r"Sparsey\(shift=\) is a number; got nan"),
    ):
        with pytest.raises(InvalidValue, match=message):
            Sparsey(**options)  # pyright: ignore[reportArgumentType]
