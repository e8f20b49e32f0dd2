"""Fast weights that are one matrix: cut into chunks, made into plain matrices, swept segment by segment."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.chunks import lay_back, lay_out, live_tokens, segment_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scores
from mnemos.execute.factors import decayed
from mnemos.execute.recompute import recomputed, recomputing
from mnemos.execute.request import Request
from mnemos.execute.sweep import Chunks, sweep
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State

CHUNK = 32


def chunk_flops(memory: Memory, request: Request, solve: bool) -> float:
    """Scores, reads, carries and, with `solve`, the triangular inverse, to leading order."""
    size = CHUNK
    tokens = request.batch * request.heads * request.length
    key, value = request.key_dim, request.value_dim
    inside = 2 * size * (key + value) * (2 if solve else 1) + (2 * size * size if solve else 0)
    carried = (4 if solve else 2) * 2 * key * value
    assert isinstance(memory.learner, GD)
    return float(tokens * (inside + carried * (2 if memory.learner.momentum else 1)))


def run_linear(
    memory: Memory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    controls: Controls,
    state: State,
    lengths: Tensor | None,
    solve: bool,
) -> tuple[Tensor, State]:
    """An executor's `run` for a matrix with one gradient a token. solve: the gradient is the residual; otherwise it
    does not depend on the state."""
    assert isinstance(memory.learner, GD)
    names = ["matrix", *(["momentum.matrix"] if memory.learner.momentum else [])]
    held = torch.cat([state[name] for name in names], -1)
    size, (batch, length, heads, _) = CHUNK, q.shape
    live = live_tokens(length, lengths, size, q.device)
    live = None if live is None else live.expand(batch, heads, -1, -1).flatten(0, 1)
    tokens = [q, k, v, *controls.values()]
    missing = -length % size
    if missing:
        tokens = [F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing]) for x in tokens]
    step = segment_tokens(batch * heads, size)

    def work(here: Tensor | None, now: Tensor, *segment: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, *rest = (lay_out(x.to(held.dtype), size) for x in segment)
        of_segment = dict(zip(controls, rest, strict=True))
        out, now = sweep(_matrices(memory, q, k, v, of_segment, here, solve), now)
        return lay_back(out, batch), now

    # Split, not sliced: the gradient of a slice is a full-length tensor of zeros.
    segments = zip(*(x.split(step, 1) for x in tokens), strict=True)
    again = recomputing(batch * heads * length)
    outputs, now = [], held.flatten(0, 1)
    for i, segment in enumerate(segments):
        here = None if live is None else live[:, i * step // size : (i + 1) * step // size].transpose(0, 1)
        of_here = partial(work, here)
        out, now = recomputed(of_here, now, *segment) if again else of_here(now, *segment)
        outputs.append(out)
    ends = now.unflatten(0, (batch, heads)).chunk(len(names), -1)
    out = (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1))[:, :length]
    return out.to(v.dtype), state.successor(**{n: x.contiguous() for n, x in zip(names, ends, strict=True)})


def _matrices(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, live: Tensor | None, solve: bool
) -> Chunks:
    """The chunks (N, B * H, C, ...) of a segment as what a sweep takes.

    The residuals r_i = W k_i - v_i, with W at the gradient's point, depend on the writes before them within the chunk,
    which makes them the solution of (I + lower) r = asks Z^T - v.
    """
    assert isinstance(memory.learner, GD)
    if memory.learner.momentum:
        return _matrices_with_momentum(memory, q, k, v, controls, live, solve)
    decay, rate = controls.get("decay"), controls.get("rate")
    if decay is not None and decay.ndim < k.ndim:
        decay = decay[..., None]
    written = k * (memory.learner.rate or 0.0) if rate is None else k * rate[..., None]
    if live is not None:
        here = live[..., None]
        decay, written = None if decay is None else torch.where(here, decay, 1.0), torch.where(here, written, 0.0)
    after = memory.read_timing == "after"
    asks = [(k, memory.learner.anchor == "retained")] if solve else []
    made = decayed([(q, after), *asks], written, decay)
    return Chunks(
        v,
        made.scores[0].tril(0 if after else -1),
        made.readers[0],
        made.writers,
        made.end,
        made.readers[1] if solve else None,
        made.scores[1].tril(-1) if solve else None,
    )


def _matrices_with_momentum(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, live: Tensor | None, solve: bool
) -> Chunks:
    """The same by the coefficients of decay and momentum together. With a_i the decay if the gradient is taken after
    retention and 1 if before, the system is b_i = a_i (carry_i-1 W_0 + carry_momentum_i-1 S_0) k_i - v_i and L_ij = a_i
    write_i-1,j (k_j . k_i).
    """
    assert isinstance(memory.learner, GD)
    c = coefficients(memory, controls, live, k)
    assert c.carry_momentum is not None and c.momentum_carry is not None and c.momentum_write is not None
    rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
    readers = [scale_tokens(q, carry[..., rows]) for carry in (c.carry, c.carry_momentum)]
    writers = [scale_tokens(k, c.write[..., -1, :]), k * c.momentum_write[..., None]]
    keep, push = c.carry[..., None, :, -1], c.carry_momentum[..., None, :, -1]
    wide = (*keep.shape[:-1], k.shape[-1])
    keep = torch.cat([keep.expand(wide), c.momentum_carry[..., None, None].expand(wide)], -1)
    asks = lower = None
    if solve:
        share = None
        if memory.learner.anchor == "retained" and "decay" in controls:
            decay = controls["decay"]
            share = decay[..., None, :] if decay.ndim < k.ndim else decay.mT
        lower = scores(k, k, _times(c.write[..., :-1, :], None if share is None else share[..., None]))
        asks = [scale_tokens(k, _times(carry[..., :-1], share)) for carry in (c.carry, c.carry_momentum)]
    return Chunks(
        v,
        scores(q, k, c.write[..., rows, :]),
        _beside(readers),
        _beside(writers),
        keep,
        None if asks is None else _beside(asks),
        None if lower is None else lower,
        push,
    )


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def _beside(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, -1)
