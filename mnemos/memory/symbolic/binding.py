"""Symbols as vectors of signs (MAP) or of unit complex numbers (FHRR), and what can be done with them.

The dtype says which: real vectors hold +1 and -1 and are their own inverse, complex ones hold numbers of modulus 1,
whose inverse is the conjugate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect


def codebook(
    number: int, size: int, *, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
) -> Tensor:
    """`number` random symbols (number, size): signs for a real dtype, random phases for a complex one.

    Raises InvalidValue for a number or a size below 1, InvalidType for a dtype of whole numbers.
    """
    expect(number >= 1 and size >= 1, f"codebook() takes a number and a size of at least 1; got {number} and {size}.")
    if dtype.is_complex:
        real = torch.float64 if dtype == torch.complex128 else torch.float32
        angle = 2 * math.pi * torch.rand(number, size, generator=generator, dtype=real)
        return torch.polar(torch.ones_like(angle), angle).to(dtype)
    if not dtype.is_floating_point:
        raise InvalidType(f"codebook(dtype=) is real (signs) or complex (phases); got {dtype}.")
    return 2 * torch.randint(0, 2, (number, size), generator=generator).to(dtype) - 1


def bind(*symbols: Tensor) -> Tensor:
    """The product of symbols (..., size), unlike each of them; binding is undone by `unbind`."""
    expect(bool(symbols), "bind() takes at least one symbol.")
    whole = symbols[0]
    for symbol in symbols[1:]:
        _check_alike(whole, symbol)
        whole = whole * symbol
    return whole


def unbind(whole: Tensor, *symbols: Tensor) -> Tensor:
    """What was bound with these symbols in `whole`: its product with their inverses, exactly."""
    return bind(whole, *(symbol.conj() for symbol in symbols))


def bundle(symbols: Tensor) -> Tensor:
    """The symbol most like all of symbols (..., n, size): their sum, each coordinate brought back to modulus 1."""
    return normal(symbols.sum(-2))


def likeness(x: Tensor, symbols: Tensor) -> Tensor:
    """Re <symbol, x> / size, 1 for the same symbol and about 0 for a random one: x (..., size), symbols (n, size) ->
    (..., n)."""
    _check_alike(x, symbols)
    return (x @ symbols.mH).real / x.shape[-1]


def normal(x: Tensor) -> Tensor:
    """Each coordinate as a sign (0 counts as +1), or divided by its modulus (0 becomes 1)."""
    if not x.is_complex():
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
    size = x.abs()
    return torch.where(size > 0, x / torch.where(size > 0, size, 1.0), 1.0)


def _check_alike(x: Tensor, y: Tensor) -> None:
    if x.dtype != y.dtype:
        raise InvalidType(f"symbols must share a dtype; got {x.dtype} and {y.dtype}.")
    if x.shape[-1] != y.shape[-1]:
        raise InvalidValue(f"symbols must have the same size; got {x.shape[-1]} and {y.shape[-1]}.")
