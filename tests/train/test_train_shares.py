"""Halves of a batch side by side are the batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from mnemos.train import TrainConfig
from mnemos.train.loop import Trainer
from mnemos.train.shares import Shares

Tiny = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(config: TrainConfig, number: int) -> Trainer:
    """After three steps in float64, the batch in so many shares."""
    trainer = Trainer(config, lambda text: None, False)
    assert trainer.shares.number == 2
    trainer.shares.number = number
    trainer.model.double()
    for _ in range(3):
        trainer.train_step()
    return trainer


@pytest.mark.parametrize("kind", ["fresh", "passed", "noisy", "carried"])
@pytest.mark.parametrize("system", ["titans_mag", "gla"])
def test_two_shares_train_as_the_whole_does(tiny: Tiny, system: str, kind: str) -> None:
    config = tiny(system=system, batch=3, initial_state=kind, documents="separate")
    whole, shared = trained(config, 1), trained(config, 2)
    for (name, one), other in zip(whole.model.named_parameters(), shared.model.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-9, atol=1e-12, msg=name)
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9, msg=name)
    assert (whole.state is None) == (shared.state is None) == (kind == "fresh")
    if whole.state is not None and shared.state is not None:
        for (name, one), (_, other) in zip(whole.state.tensors(), shared.state.tensors(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9, msg=name)
    assert abs(whole.evaluate()["loss"] - shared.evaluate()["loss"]) < 1e-6


def test_shares_are_threads_with_half_of_the_threads_each(tiny: Tiny) -> None:
    trainer = Trainer(tiny(batch=3), lambda text: None, False)
    meet = threading.Barrier(2, timeout=20)  # passed only by two at once

    def work(rows: slice) -> tuple[slice, int, str]:
        meet.wait()
        return rows, torch.get_num_threads(), threading.current_thread().name

    (first, one, here), (second, other, there) = trainer.shares.map(work, 3)
    assert (first, second, one, other) == (slice(0, 1), slice(1, 3), 1, 1)
    assert here != there


@pytest.mark.parametrize("system", ["mom", "routing_transformer"])
def test_what_is_said_of_a_whole_batch_is_not_shared_out(tiny: Tiny, system: str) -> None:
    assert Trainer(tiny(system=system, depth=2), lambda text: None, False).shares.number == 1


def test_one_row_one_thread_or_a_gpu_is_not_shared_out(tiny: Tiny) -> None:
    model = Trainer(tiny(), lambda text: None, False).model
    assert Shares(model, torch.device("cpu"), 2).number == 2
    assert Shares(model, torch.device("cpu"), 1).number == 1
    assert Shares(model, torch.device("cuda"), 2).number == 1
    torch.set_num_threads(1)
    assert Shares(model, torch.device("cpu"), 2).number == 1
