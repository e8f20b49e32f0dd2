"""Memories keep their own precision: autocast does not touch what is computed in them, nor their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
Result = TypeVar("Result")


def own_precision(work: Callable[P, Result]) -> Callable[P, Result]:
    """`work` with autocast off for the device of its first tensor. A backward pass written by hand needs it: it would
    find its products rounded where `backward()` is called inside an autocast block."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        device = _device(args)
        if device is None or not torch.is_autocast_enabled(device):
            return work(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return work(*args, **kwargs)

    return run


def _device(args: tuple[Any, ...]) -> str | None:
    for x in args:
        if isinstance(x, Tensor):
            return x.device.type
    return None
