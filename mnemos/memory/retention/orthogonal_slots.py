"""Slots of fixed length that only turn: every step is orthogonal to the slot that takes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.retention.base import Retention

EPSILON = 1e-12


@dataclass(frozen=True)
class OrthogonalSlots(Retention):
    """Lattice (arXiv 2504.05646): the columns s_i of a weight are slots, of which only the directions count.

        W = (p_1 ... p_n),  p_i = s_i / |s_i|
        s_i <- s_i + (I - p_i p_i^T) step_i / |s_i|,   then with `unit` s_i <- p_i

    That is the gradient by s_i where `step` is a gradient by W: with L2 the slots decode (W k against v), with Dot they
    grow similar to the values. A slot forgets what it turns away from. Without `unit` its length grows by every step,
    and later steps turn it less.

    Slots start at the given weights plus the unit vectors e_1, e_2, ..., then -e_1, ..., scaled to length 1: a slot of
    zeros would have no direction.
    """

    unit: bool = True

    def combine(self, retained: Tensor, step: Tensor, controls: Controls, in_place: bool = False) -> Tensor:
        length = _length(retained)
        direction = retained / length
        across = step - direction * (direction * step).sum(-2, keepdim=True)
        slots = retained + across / length
        if self.unit:
            slots = slots / _length(slots)
        return retained.copy_(slots) if in_place else slots

    def link(self, state: Tensor) -> Tensor:
        return state / _length(state)

    def unlink(self, weight: Tensor) -> Tensor:
        out, count = weight.shape[-2:]
        slot = torch.arange(count, device=weight.device)
        sign = 1 - 2 * ((slot // out) % 2)
        axis = torch.arange(out, device=weight.device)[:, None] == slot % out
        slots = weight + axis * sign
        return slots / _length(slots)


def _length(slots: Tensor) -> Tensor:
    return (slots.square().sum(-2, keepdim=True) + EPSILON).sqrt()
