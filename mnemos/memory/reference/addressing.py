"""The literal form of rows that heads address."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.addressed import SHORTEST, Addressed
from mnemos.memory.control import Controls
from mnemos.state import State


def address_rows(
    memory: Addressed, q: Tensor, k: Tensor, v: Tensor, controls: Controls, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """One row of the batch, one head and one token after another, as `Addressed` states it."""
    batch, time, heads, _ = q.shape
    outputs: list[Tensor] = []
    held: dict[str, list[Tensor]] = {name: [] for name in state.entries}
    for b in range(batch):
        for h in range(heads):
            rows = state["rows"][b, h].double()
            written, looked = state["write_weights"][b, h].double(), state["read_weights"][b, h].double()
            out = []
            for t in range(time):
                if lengths is not None and t >= int(lengths[b]):
                    out.append(torch.zeros_like(q[b, t, h]))
                    continue
                now = {name: value[b, t, h] for name, value in controls.items()}
                before = rows
                written = _weights(memory, before, written, k[b, t, h], "write", now)
                rows = before * (1 - torch.outer(written, now["erase"])) + torch.outer(written, v[b, t, h])
                seen = before if memory.read_timing == "before" else rows
                looked = _weights(memory, seen, looked, q[b, t, h], "read", now)
                out.append(looked @ seen)
            outputs.append(torch.stack(out) if out else v.new_zeros(0, v.shape[-1]))
            for name, value in (("rows", rows), ("write_weights", written), ("read_weights", looked)):
                held[name].append(value)
    if not outputs:
        return v.new_zeros(v.shape), state
    shaped = {name: torch.stack(values).unflatten(0, (batch, heads)) for name, values in held.items()}
    return torch.stack(outputs).unflatten(0, (batch, heads)).transpose(1, 2), state.successor(**shaped)


def _weights(memory: Addressed, rows: Tensor, before: Tensor, key: Tensor, head: str, now: Controls) -> Tensor:
    """Where a head looks in rows (N, W)."""

    def length(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1).clamp(min=SHORTEST)

    cosines = (rows @ key) / (length(key) * length(rows))
    gate, places = now[f"{head}_gate"], torch.arange(len(rows), device=rows.device)
    content = torch.exp(now[f"{head}_strength"] * cosines)
    looked = gate * content / content.sum() + (1 - gate) * before
    moved = torch.zeros_like(looked)
    for d in range(-memory.shifts, memory.shifts + 1):
        moved = moved + now[f"{head}_shift"][d + memory.shifts] * looked[(places - d) % len(rows)]
    sharp = moved ** now[f"{head}_sharpness"]
    return sharp / sharp.sum()
