"""Work of a claim that is no trial, over processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

from mnemos.claims.base import Bench

Case = TypeVar("Case")
Found = TypeVar("Found")


def over_processes(bench: Bench, measure: Callable[[Case], Found], cases: Sequence[Case]) -> list[Found]:
    """What `measure` finds of each case, in as many processes of one thread as the bench has workers."""
    number = min(bench.workers or os.cpu_count() or 1, len(cases))
    if number == 1:
        return [measure(case) for case in cases]
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, mp_context=fresh, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(measure, cases))
