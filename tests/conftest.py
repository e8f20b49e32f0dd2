"""One core, a seed of its own for every test, and uninitialised memory that shows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch
import torch.utils.deterministic


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="other random inputs for every test")


def pytest_report_header(config: pytest.Config) -> str:
    return f"random inputs: --seed {config.getoption('--seed')}"


@pytest.fixture(autouse=True, scope="session")
def one_core_and_every_warning() -> None:
    torch.set_num_threads(1)
    torch.set_warn_always(True)  # warnings are errors here; given once only, they would meet the first test alone


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """The global generator starts from the test's own name, so that a failing test fails alone too."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()) + request.config.getoption("--seed"))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """`torch.empty` holds NaN (or the largest integer), so that reading it before writing cannot pass unseen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
