"""Fast weights that are one matrix: cut into chunks, made into plain matrices, swept segment by segment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.execute.chunks import lay_back, lay_out, live_tokens, segment_tokens
from mnemos.execute.coefficients import coefficients, scale_tokens, scores
from mnemos.execute.request import Request
from mnemos.execute.sweep import Chunks, sweep
from mnemos.memory import GD, Controls, Memory
from mnemos.state import State


CHUNK = 32

LEAST_DECAY, LEAST_PRODUCT = 1e-3, 1e-30
"""Of one token and of a whole chunk: down to there a decay per channel may be divided by. The gradient by a decay is
off by rounding over the decay, and the inverse of the product must be far from overflow."""


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
    tokens = [q, k, v, *controls.values()]
    missing = -length % size
    if missing:
        tokens = [F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing]) for x in tokens]
    step = segment_tokens(batch * heads, size)
    # Split, not sliced: the gradient of a slice is a full-length tensor of zeros.
    segments = zip(*(x.split(step, 1) for x in tokens), strict=True)
    outputs, now = [], held.flatten(0, 1)
    for i, segment in enumerate(segments):
        laid = [lay_out(x.to(held.dtype), size) for x in segment]
        here = None if live is None else live[:, :, i * step // size : (i + 1) * step // size].movedim(2, 0)
        of_segment = dict(zip(controls, laid[3:], strict=True))
        out, now = sweep(_matrices(memory, laid[0], laid[1], laid[2], of_segment, here, solve), now)
        outputs.append(lay_back(out.unflatten(1, (batch, heads))))
    ends = now.unflatten(0, (batch, heads)).chunk(len(names), -1)
    out = (outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1))[:, :length]
    return out.to(v.dtype), state.successor(**{n: x.contiguous() for n, x in zip(names, ends, strict=True)})


def _matrices(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, live: Tensor | None, solve: bool
) -> Chunks:
    """The chunks (N, B, H, C, ...) of a segment as what a sweep takes.

    With a_i the decay if the gradient is taken after retention and 1 if before, the residuals r_i = W k_i - v_i, each
    depending on the writes before it, solve (I + L) r = b with b_i = a_i (carry_i-1 W_0 + carry_momentum_i-1 S_0) k_i -
    v_i and L_ij = a_i write_i-1,j (k_j . k_i).
    """
    assert isinstance(memory.learner, GD)
    if memory.retention.scaling == "channel" and not memory.learner.momentum and _divisible(controls["decay"]):
        return _factors(memory, q, k, v, controls, live, solve)
    c = coefficients(memory, controls, live, k)
    rows = slice(1, None) if memory.read_timing == "after" else slice(None, -1)
    readers = [scale_tokens(q, c.carry[..., rows])]
    writers = [scale_tokens(k, c.write[..., -1, :])]
    keep, push = c.carry[..., None, :, -1], None
    asks = lower = None
    if solve:
        share = None
        if memory.learner.anchor == "retained" and "decay" in controls:
            decay = controls["decay"]
            share = decay[..., None, :] if decay.ndim < k.ndim else decay.mT
        lower = scores(k, k, _times(c.write[..., :-1, :], None if share is None else share[..., None]))
        asks = [scale_tokens(k, _times(c.carry[..., :-1], share))]
        if c.carry_momentum is not None:
            asks.append(scale_tokens(k, _times(c.carry_momentum[..., :-1], share)))
    if c.carry_momentum is not None and c.momentum_carry is not None and c.momentum_write is not None:
        readers.append(scale_tokens(q, c.carry_momentum[..., rows]))
        writers.append(k * c.momentum_write[..., None])
        push = c.carry_momentum[..., None, :, -1]
        wide = (*keep.shape[:-1], k.shape[-1])
        keep = torch.cat([keep.expand(wide), c.momentum_carry[..., None, None].expand(wide)], -1)
    return Chunks(
        v.flatten(1, 2),
        scores(q, k, c.write[..., rows, :]).flatten(1, 2),
        _beside(readers),
        _beside(writers),
        keep.flatten(1, 2),
        None if asks is None else _beside(asks),
        None if lower is None else lower.flatten(1, 2),
        None if push is None else push.flatten(1, 2),
    )


def _divisible(decay: Tensor) -> bool:
    """Whether decays per channel (N, B, H, C, K) are far enough from 0. Compiled code cannot look at values."""
    if torch.compiler.is_compiling():
        return False
    with torch.no_grad():
        return bool(decay.amin() >= LEAST_DECAY) and bool(decay.prod(-2).amin() >= LEAST_PRODUCT)


def _factors(
    memory: Memory, q: Tensor, k: Tensor, v: Tensor, controls: Controls, live: Tensor | None, solve: bool
) -> Chunks:
    """What `_matrices` makes, without a matrix for each channel: with c_t the product of a chunk's decays up to token
    t, what token j writes has decayed to c_t / c_j by token t, which is a factor for each of the two tokens."""
    assert isinstance(memory.learner, GD)
    rate, log_decay = controls.get("rate"), controls["decay"].log()
    if live is not None:
        log_decay = torch.where(live[..., None], log_decay, 0.0)
    total = log_decay.cumsum(-2)
    after = total.exp()
    before = (total - log_decay).exp()
    written = k * (-total).exp()
    if rate is not None:
        written = written * rate[..., None]
    elif memory.learner.rate != 1.0:
        written = written * (memory.learner.rate or 0.0)
    if live is not None:
        written = torch.where(live[..., None], written, 0.0)
    reads_own = memory.read_timing == "after"
    readers = q * (after if reads_own else before)
    asks = lower = None
    if solve:
        asks = k * (after if memory.learner.anchor == "retained" else before)
        lower = (asks @ written.mT).tril(-1)
    end = after[..., -1:, :]
    chunks = (v, (readers @ written.mT).tril(0 if reads_own else -1), readers, written * end, end, asks, lower)
    return Chunks(*(None if x is None else x.flatten(1, 2) for x in chunks))  # pyright: ignore[reportArgumentType]


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def _beside(parts: list[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts, -1)).flatten(1, 2)
