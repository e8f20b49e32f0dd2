"""Rows of a batch computed side by side, each share of them on cores of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from mnemos.layers.centroids import CentroidAffinity
from mnemos.layers.mixture import Router

Found = TypeVar("Found")


class Shares:
    """On the CPU, two shares of a batch's rows, each in a thread of its own with half of PyTorch's threads.

    A second core does little for an operation on few numbers, and much for a second operation beside it. All rows stay
    together on a GPU, on one thread, and where the loss is more than a mean over rows: with routers whose loads are
    balanced, or with centroids that follow their queries.
    """

    def __init__(self, model: nn.Module, device: torch.device, batch: int):
        threads = torch.get_num_threads()
        together = any(isinstance(module, Router | CentroidAffinity) for module in model.modules())
        self.number = 2 if device.type == "cpu" and min(threads, batch) > 1 and not together else 1
        if self.number > 1:
            each = threads // self.number
            self.pool = ThreadPoolExecutor(self.number, "share", initializer=torch.set_num_threads, initargs=(each,))

    def map(self, work: Callable[[slice], Found], rows: int) -> list[Found]:
        """What `work` makes of each share of so many rows, in their order. With two shares gradients are on in them,
        whatever the caller has set."""
        number = min(self.number, rows)
        if number == 1:
            return [work(slice(0, rows))]
        edges = [rows * i // number for i in range(number + 1)]
        return list(self.pool.map(work, map(slice, edges[:-1], edges[1:])))
