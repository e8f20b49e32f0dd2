"""Backward passes by hand that cannot be differentiated in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


def differentiable_once(backward: Callable[P, Result]) -> Callable[P, Result]:
    """`backward`, but raises RuntimeError where its own derivative is wanted (`create_graph=True`).

    PyTorch's `once_differentiable` complains only when that derivative is asked for by `backward()`.
    `torch.autograd.grad` follows just the paths that lead to what it is asked for, never gets to the complaint, and
    gives second derivatives that lack terms, without a word.
    """

    @functools.wraps(backward)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: this algorithm is differentiated by hand, once; "
                'run the memory with plan="loop" for second derivatives'
            )
        return backward(*args, **kwargs)

    return run
