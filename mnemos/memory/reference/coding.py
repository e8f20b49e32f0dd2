"""The literal form of Sparsey: sets of linked inputs, one winner after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.sparsey import Sparsey
from mnemos.state import State


def encode(
    memory: Sparsey, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Row by row and head by head. The draws are the memory's own: there is nothing to judge in them."""
    batch, time, heads, _ = q.shape
    out = torch.zeros_like(v)
    links, back, counts = state["links"].clone(), state["back"].clone(), state["count"].clone()
    for b in range(batch):
        for t in range(time if lengths is None else int(lengths[b])):
            draws = memory._draws(counts[b : b + 1], heads)[0].tolist()
            for h in range(heads):
                to_key, to_value = links[b, h], back[b, h]
                x, y = _units(k[b, t, h]), _units(v[b, t, h])
                if x and float(to_key.double().mean()) <= memory.saturation:
                    for cell in _drawn(memory, _support(memory, to_key, x), draws[h]):
                        to_key[cell, x] = True
                        to_value[y, cell] = True
                support = _support(memory, to_key, _units(q[b, t, h]))
                if max(max(row) for row in support) > 0:
                    code = [m * memory.units + row.index(max(row)) for m, row in enumerate(support)]
                    for i in range(v.shape[-1]):
                        out[b, t, h, i] = float(all(bool(to_value[i, cell]) for cell in code))
            counts[b] += 1
    return out, state.successor(links=links, back=back, count=counts)


def _units(x: Tensor) -> list[int]:
    return [i for i, value in enumerate(x.tolist()) if value > 0]


def _support(memory: Sparsey, links: Tensor, x: list[int]) -> list[list[float]]:
    """V by module and unit."""
    known = [sum(bool(row[j]) for j in x) / max(len(x), 1) for row in links]
    return [known[m * memory.units : (m + 1) * memory.units] for m in range(memory.modules)]


def _drawn(memory: Sparsey, support: list[list[float]], draws: list[float]) -> list[int]:
    """One cell a module."""
    familiar = sum(max(row) for row in support) / memory.modules
    above = max(familiar - memory.floor, 0.0) / (1 - memory.floor)
    eta = 1 + memory.expansion * memory.units * above**memory.sharpness
    winners = []
    for m, (row, draw) in enumerate(zip(support, draws, strict=True)):
        psi = [1 + (eta - 1) / (1 + math.exp(memory.shift - memory.steepness * value)) for value in row]
        reached, winner = 0.0, memory.units - 1
        for i, odds in enumerate(psi):
            reached += odds / sum(psi)
            if draw < reached:
                winner = i
                break
        winners.append(m * memory.units + winner)
    return winners
