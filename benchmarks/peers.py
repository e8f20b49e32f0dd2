"""The same work done by us and by transformers or titans-pytorch, in one run.

    make bench                              # an environment of its own, then all benchmarks
    python benchmarks/peers.py --only titans --repeats 5

Ratios are peer time / our time: above 1, ours is faster. Rows where both sides claim the same function first check that
they compute the same outputs and, where the backward pass is timed, the same gradients. float32 throughout. `predicted`
was written down before the first measurement, or is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import Pair, Row, arguments, by_time, run_rows, same, timed
from torch import Tensor

import mnemos as mn
from mnemos.layers.gated_recurrence import GatedRecurrenceLayer
from mnemos.lowering import run_rows as run_memory


def peer_pair(
    ours: Callable[[], Tensor], peer: Callable[[], Tensor], leaves: list[Tensor], backward: bool, **facts: Any
) -> Pair:
    """Both sides, once they were seen to agree."""
    same(ours, peer, leaves, backward)
    return Pair(timed(ours, leaves, backward), timed(peer, leaves, backward), facts=facts)


def gated_delta_sides(
    batch: int, length: int, backward: bool
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], list[Tensor]]:
    """The chunked gated delta rule, H=4, K=V=64, and transformers' on the same inputs; all inputs."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    peer_rule = getattr(torch_chunk_gated_delta_rule, "__wrapped__", torch_chunk_gated_delta_rule)
    q, k, v = (torch.randn(batch, length, 4, 64) for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    rate, decay = torch.rand(batch, length, 4), torch.rand(batch, length, 4) * 0.2 + 0.8
    leaves = [x.requires_grad_(backward) for x in (q, k, v, rate, decay)]
    memory = mn.zoo.gated_deltanet().memory

    def ours() -> Tensor:
        return mn.run(memory, q, k, v, {"rate": rate, "decay": decay})[0]

    def peer() -> Tensor:
        return peer_rule(q * 8, k, v, decay.log(), rate)[0]  # it scales queries by 1/sqrt(64)

    return ours, peer, leaves


def gated_delta(length: int, backward: bool) -> Pair:
    """The chunked gated delta rule on B=2, H=4, K=V=64."""
    ours, peer, leaves = gated_delta_sides(2, length, backward)
    return peer_pair(ours, peer, leaves, backward)


def scalar_decay(length: int, backward: bool, chunk: int) -> Pair:
    """Mamba-2's chunk scan on B=2, H=4, state 64, head 64, each head with B and C of its own.

    The scan alone: projections, convolution, D and norm left out on both sides. chunk: the peer's chunk size. 256 is
    its default; on a CPU it was fastest with 32 or 64, hence the rows of that.
    """
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    scan = getattr(mamba2_chunk_scan, "__wrapped__", mamba2_chunk_scan)
    x, b, c = (torch.randn(2, length, 4, 64) for _ in range(3))
    step, speed = torch.rand(2, length, 4) * 0.2, -torch.rand(4) - 0.5
    leaves = [y.requires_grad_(backward) for y in (x, b, c, step, speed)]
    memory = mn.zoo.mamba2().memory

    def ours() -> Tensor:
        return mn.run(memory, c, b, x, {"rate": step, "decay": torch.exp(speed * step)})[0]

    def peer() -> Tensor:
        return scan(x, step, speed, b, c, chunk_size=chunk)

    return peer_pair(ours, peer, leaves, backward, peer_chunk=chunk)


def per_token_gla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """S_t = Diag(a_t) S_t-1 + k_t v_t^T,  o_t = S_t^T q_t (arXiv 2312.06635), token after token.

    Inputs (B, T, H, .). Written as flash-linear-attention's `naive_recurrent_gla` is: heads first, one state, sums
    instead of matrix products, each output put into its place of one tensor.
    """
    q, k, v, log_decay = (x.transpose(1, 2) for x in (q, k, v, log_decay))
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    out = torch.zeros_like(v)
    for t in range(q.shape[2]):
        written = k[:, :, t, :, None] * v[:, :, t, None, :]
        state = state * log_decay[:, :, t, :, None].exp() + written
        out[:, :, t] = (q[:, :, t, :, None] * state).sum(-2)
    return out.transpose(1, 2)


def channel_decay(length: int, backward: bool) -> Pair:
    """Gated linear attention on B=2, H=4, K=V=64, beside the loop over tokens."""
    q, k, v = (torch.randn(2, length, 4, 64) for _ in range(3))
    logits = torch.randn(2, length, 4, 64)
    leaves = [x.requires_grad_(backward) for x in (q, k, v, logits)]
    memory = mn.zoo.gla().memory

    def ours() -> Tensor:
        return mn.run(memory, q, k, v, {"decay": (F.logsigmoid(logits) / 16).exp()})[0]

    def peer() -> Tensor:
        return per_token_gla(q, k, v, F.logsigmoid(logits) / 16)

    return peer_pair(ours, peer, leaves, backward)


def gated_recurrence(length: int, backward: bool) -> Pair:
    """The RG-LRU, gates included, on B=2, width 256, 4 heads, beside RecurrentGemma's with the same weights."""
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    mine = mn.zoo.hawk().build(256, 4)
    assert isinstance(mine, GatedRecurrenceLayer)
    theirs = RecurrentGemmaRglru(RecurrentGemmaConfig(hidden_size=256, lru_width=256, num_attention_heads=4))
    weights = [mine.gates, mine.gate_biases, mine.forgetting]
    x, positions = torch.randn(2, length, 256, requires_grad=backward), torch.arange(length)[None].expand(2, -1)
    opens = torch.ones(2, dtype=torch.bool)

    def ours() -> Tensor:
        decay, written = mine.gated(x.unflatten(-1, (4, 64)), opens)
        return mine.recur(written, {"decay": decay}, mine.init_state(2), None)[0].flatten(-2)

    def peer() -> Tensor:
        theirs.recurrent_states = None
        in_use = {
            "recurrent_gate_weight": mine.gates[0],
            "input_gate_weight": mine.gates[1],
            "recurrent_gate_bias": mine.gate_biases[0],
            "input_gate_bias": mine.gate_biases[1],
            "recurrent_param": mine.forgetting.flatten(),
        }
        return torch.func.functional_call(theirs, in_use, (x, positions))

    return peer_pair(ours, peer, [x, *weights], backward)


def gated_delta_decode() -> Pair:
    """64 single steps of the gated delta rule, B=1, H=4, K=V=64, gradients off, by what a layer calls for a token."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule

    peer_rule = getattr(torch_recurrent_gated_delta_rule, "__wrapped__", torch_recurrent_gated_delta_rule)
    q, k, v = (torch.randn(64, 1, 1, 4, 64) for _ in range(3))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    rate, decay = torch.rand(64, 1, 1, 4), torch.rand(64, 1, 1, 4) * 0.2 + 0.8
    memory = mn.zoo.gated_deltanet().memory
    for_us = list(zip(*(x.unbind(0) for x in (q, k, v, rate, decay)), strict=True))
    for_peer = list(zip(*(x.unbind(0) for x in (q * 8, k, v, decay.log(), rate)), strict=True))

    @torch.no_grad()
    def ours() -> Tensor:
        state, out = memory.init(1, 4, 64, 64), v[0]
        for q, k, value, rate, decay in for_us:
            out, state = run_memory(memory, q, k, value, {"rate": rate, "decay": decay}, state, None)
        return out

    @torch.no_grad()
    def peer() -> Tensor:
        state, out = torch.zeros(1, 4, 64, 64), v[0]
        for token in for_peer:
            out, state = peer_rule(*token, initial_state=state, output_final_state=True)
        return out

    return peer_pair(ours, peer, [], False)


def titans_layers(chunk: int) -> tuple[mn.MemoryLayer, Any]:
    """A Titans layer with a two-layer memory of expansion 4, width 256, 4 heads; and the peer's.

    The peer with batch_size=chunk_size, its only truly sequential setting; a small step size keeps it finite.
    """
    from titans_pytorch import NeuralMemory

    theirs = NeuralMemory(
        dim=256, heads=4, dim_head=64, chunk_size=chunk, batch_size=chunk, default_step_transform_max_lr=0.01
    )
    return mn.MemoryLayer(mn.zoo.titans_lmm(chunk=chunk).replace(conv=None), width=256, heads=4), theirs


def titans(chunk: int, backward: bool) -> Pair:
    """A Titans layer, B=2, T=2048, projections included. The two differ in details, so numbers are not compared."""
    mine, theirs = titans_layers(chunk)
    x = torch.randn(2, 2048, 256, requires_grad=backward)
    return Pair(
        timed(lambda: mine(x)[0], [x, *mine.parameters()], backward),
        timed(lambda: theirs(x)[0], [x, *theirs.parameters()], backward),
    )


def titans_decode() -> Pair:
    """16 single tokens written and read, projections included, B=1, width 256, 4 heads, gradients off."""
    from titans_pytorch import NeuralMemory

    theirs = NeuralMemory(dim=256, heads=4, dim_head=64, chunk_size=1, default_step_transform_max_lr=0.01)
    mine = mn.MemoryLayer(mn.zoo.titans_lmm(chunk=16).replace(conv=None), width=256, heads=4)
    x = torch.randn(1, 1, 256)

    @torch.no_grad()
    def ours() -> None:
        state = mine.init_state(1)
        for _ in range(16):
            _, state = mine(x, state)

    @torch.no_grad()
    def peer() -> None:
        state = None
        for _ in range(16):
            _, state = theirs(x, state=state)

    return Pair(ours, peer)


GROUP = "beside peers"
LOOP = "per-token loop (as fla's naive_recurrent_gla)"


def row(
    name: str,
    peer: str,
    predicted: float | None,
    mark: float | None,
    make: Callable[..., Pair],
    *of: Any,
    most: int = 100,
) -> Row:
    return Row(name, GROUP, peer, predicted, mark, by_time(make, *of), most=most)


ROWS = [
    row("gated delta T=2048 forward", "transformers", 1.6, 2.5, gated_delta, 2048, False),
    row("gated delta T=2048 forward+backward", "transformers", 1.5, 3.5, gated_delta, 2048, True),
    row("gated delta T=8192 forward+backward", "transformers", 4.0, 11.0, gated_delta, 8192, True),
    row("scalar decay T=2048 forward", "transformers", 2.0, 3.0, scalar_decay, 2048, False, 256),
    row("scalar decay T=2048 forward+backward", "transformers", 2.5, 3.0, scalar_decay, 2048, True, 256),
    row("scalar decay T=2048 forward, peer's chunk 64", "transformers", None, None, scalar_decay, 2048, False, 64),
    row(
        "scalar decay T=2048 forward+backward, peer's chunk 64",
        "transformers",
        None,
        None,
        scalar_decay,
        2048,
        True,
        64,
    ),
    row("channel decay T=2048 forward", LOOP, 4.0, 7.0, channel_decay, 2048, False),
    row("channel decay T=2048 forward+backward", LOOP, 30.0, 80.0, channel_decay, 2048, True, most=3),
    row("RG-LRU T=2048 forward+backward", "transformers", 20.0, 30.0, gated_recurrence, 2048, True, most=5),
    row("gated delta decode, B=1", "transformers", 1.0, 3.5, gated_delta_decode),
    row("titans MLP C=64 forward", "titans-pytorch", 1.5, 3.2, titans, 64, False),
    row("titans MLP C=64 forward+backward", "titans-pytorch", 1.5, 3.0, titans, 64, True),
    row("titans MLP C=16 forward", "titans-pytorch", 4.0, 9.0, titans, 16, False),
    row("titans MLP C=16 forward+backward", "titans-pytorch", 4.0, 9.0, titans, 16, True),
    row("titans decode, B=1", "titans-pytorch", 10.0, 30.0, titans_decode),
]


def main() -> None:
    parser = arguments(__doc__)
    run_rows(parser, parser.parse_args(), ROWS)


if __name__ == "__main__":
    main()
