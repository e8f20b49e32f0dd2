"""Log-linear attention (arXiv 2506.04761): its masked form, its levels, and what it becomes without them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.execute.fenwick import SIZE
from mnemos.layers import LevelWeights
from mnemos.memory import LogLinear

B, H, K, V = 2, 2, 4, 3
MAMBA = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD(rate=1.0))
HEBB = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD())
GATED_DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD())
COLD_DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(anchor="previous"))
DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD())
BASES = pytest.mark.parametrize("base", [MAMBA, HEBB, GATED_DELTA, COLD_DELTA, DELTA], ids=str)
PLANS = pytest.mark.parametrize("plan", ["fenwick chunks", "loop", "reference"])
LONG = 2 * SIZE + 7


def level_of(t: int, s: int, levels: int) -> int:
    """From the paper's partition: peel the largest power of two off t + 1 tokens, again and again."""
    if s == t:
        return 0
    begin, left = 0, t
    while True:
        size = 1 << (left.bit_length() - 1)  # the buckets before t, oldest first, from the binary digits of t
        if s < begin + size:
            return min(size.bit_length(), levels - 1)
        begin, left = begin + size, left - size


def inputs(base: mn.Memory, time: int, levels: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    def rand(*shape: int) -> Tensor:
        return torch.rand(B, time, H, *shape, dtype=torch.float64)

    q, v = torch.randn(B, time, H, K, dtype=torch.float64), torch.randn(B, time, H, V, dtype=torch.float64)
    k = torch.nn.functional.normalize(torch.randn(B, time, H, K, dtype=torch.float64), dim=-1)
    controls = {"rate": rand(), "decay": 0.5 + 0.5 * rand()}
    controls = {c.name: controls[c.name] for c in base.controls}
    return q, k, v, controls | {"level": 2 * rand(levels)}


def masked(base: mn.Memory, q: Tensor, k: Tensor, v: Tensor, controls: dict[str, Tensor]) -> Tensor:
    """O = (A * Lambda) V, where A_ts = r_s k_s^T (transitions s+1 .. t) q_t, entry by entry."""
    levels, time = controls["level"].shape[-1], q.shape[1]
    delta, before = base.objective == mn.L2(), getattr(base.learner, "anchor", "") == "previous"
    ones = torch.ones(B, time, H, dtype=q.dtype)
    rate, decay = (controls.get(n, ones)[..., None] for n in ("rate", "decay"))
    if isinstance(base.learner, mn.GD) and base.learner.rate is not None:
        rate = base.learner.rate * ones[..., None]
    out = torch.zeros_like(v)
    for t in range(time):
        asked = q[:, t]  # what the query has become on its way back to token s
        for s in range(t, -1, -1):
            weight = controls["level"][:, t, :, level_of(t, s, levels), None]
            score = rate[:, s] * (k[:, s] * asked).sum(-1, keepdim=True)
            out[:, t] += weight * score * v[:, s]
            erased = score * k[:, s] if delta else torch.zeros_like(asked)
            asked = decay[:, s] * asked - (erased if before else decay[:, s] * erased)
    return out


@pytest.mark.parametrize("levels", [1, 2, 4, 12])
@BASES
def test_all_forms_are_the_masked_one(base: mn.Memory, levels: int) -> None:
    memory = LogLinear(base, levels)
    given = inputs(base, LONG, levels)
    expected = masked(base, *given)
    for plan in ("fenwick chunks", "loop", "reference"):
        out, _ = mn.run(memory, *given, plan=plan)
        assert float((out - expected).abs().max()) <= 1e-11 * float(expected.abs().max()), plan


def test_the_partition() -> None:
    """Levels are bit_length(t xor s); a level l > 0 is there where bit l - 1 of t is set, and holds 2^(l-1) tokens."""
    for t in range(100):
        levels = [level_of(t, s, 99) for s in range(t + 1)]
        assert levels == [(t ^ s).bit_length() for s in range(t + 1)]
        sizes = {level: levels.count(level) for level in levels}
        assert sizes == {0: 1} | {i + 1: 1 << i for i in range(10) if t >> i & 1}


@BASES
def test_with_all_weights_1_it_is_the_base_memory(base: mn.Memory) -> None:
    """Outputs, the sum of the levels, and gradients."""
    for levels in (1, 3, 12):
        q, k, v, controls = inputs(base, LONG, levels)
        own = {name: x for name, x in controls.items() if name != "level"}
        controls["level"] = torch.ones_like(controls["level"])
        leaves = [x.requires_grad_() for x in (q, k, v, *own.values())]
        out, state = mn.run(LogLinear(base, levels), q, k, v, controls)
        expected, last = mn.run(base, q, k, v, own)
        assert float((out - expected).detach().abs().max()) <= 1e-11
        assert float((state["matrix"].sum(2) - last["matrix"]).detach().abs().max()) <= 1e-11
        found = torch.autograd.grad(out.square().sum(), leaves)
        wanted = torch.autograd.grad(expected.square().sum(), leaves)
        for one, other in zip(found, wanted, strict=True):
            assert float((one - other).abs().max()) <= 1e-9 * max(1.0, float(other.abs().max()))


@PLANS
@BASES
def test_level_0_alone_is_the_token_itself(base: mn.Memory, plan: str) -> None:
    q, k, v, controls = inputs(base, LONG, 12)
    controls["level"] = torch.zeros_like(controls["level"])
    controls["level"][..., 0] = 1.0
    out, _ = mn.run(LogLinear(base, 12), q, k, v, controls, plan=plan)
    rate = controls.get("rate", torch.ones(B, LONG, H, dtype=torch.float64))
    assert float((out - (rate * (q * k).sum(-1))[..., None] * v).abs().max()) <= 1e-12


@PLANS
def test_how_many_levels_hold_something(plan: str) -> None:
    """As many as the last token's position has bits set, and one more; each as many tokens as its level says."""
    memory = LogLinear(HEBB, 12)
    q, _, v, controls = inputs(HEBB, 130, 12)
    k, v = torch.ones_like(q), torch.ones_like(v)
    controls["rate"] = torch.ones_like(controls["rate"])
    for time in (1, 2, 3, 31, 32, 33, 64, 65, 96, 97, 127, 128, 129, 130):
        cut = {name: x[:, :time] for name, x in controls.items()}
        _, state = mn.run(memory, q[:, :time], k[:, :time], v[:, :time], cut, plan=plan)
        t = time - 1
        held = state["matrix"].transpose(1, 2).flatten(2)
        assert [int(x.any(-1).sum()) for x in held] == [t.bit_count() + 1] * B
        expected = torch.tensor([1.0] + [float(1 << i) if t >> i & 1 else 0.0 for i in range(11)], dtype=torch.float64)
        assert torch.equal(held, expected[None, :, None].expand_as(held))


def test_the_last_level_takes_in_all_that_is_older() -> None:
    memory = LogLinear(HEBB, 4)
    q, _, v, controls = inputs(HEBB, 30, 4)
    controls["rate"] = torch.ones_like(controls["rate"])
    _, state = mn.run(memory, q, torch.ones_like(q), torch.ones_like(v), controls)
    assert state["matrix"][0, 0, :, 0, 0].tolist() == [1.0, 1.0, 0.0, 28.0]  # t = 29 = 11101b


@BASES
def test_streaming_from_any_position(base: mn.Memory) -> None:
    """Rows that stand at different places of their buckets, cut anywhere, over several chunks."""
    memory = LogLinear(base, 9)
    q, k, v, controls = inputs(base, 3 * SIZE + 5, 9)
    whole, last = mn.run(memory, q, k, v, controls)
    for cuts in ((1, 2, SIZE - 1), (SIZE, SIZE + 1), (17, 2 * SIZE + 1), (2 * SIZE - 1, 2 * SIZE)):
        bounds, state, outputs = (0, *cuts, q.shape[1]), None, []
        for i, end in enumerate(bounds[1:]):
            part = slice(bounds[i], end)
            out, state = mn.run(
                memory, q[:, part], k[:, part], v[:, part], {n: x[:, part] for n, x in controls.items()}, state=state
            )
            outputs.append(out)
        assert state is not None
        assert float((torch.cat(outputs, 1) - whole).abs().max()) <= 1e-11
        for name, tensor in state.tensors():
            assert float((tensor - last[name]).abs().max()) <= 1e-11

    mask = torch.ones(B, q.shape[1], dtype=torch.bool)
    mask[0, :21] = False  # this row is 21 tokens behind the other
    out, state = mn.run(memory, q, k, v, controls, mask=mask)
    alone, end = mn.run(memory, q[:1, 21:], k[:1, 21:], v[:1, 21:], {n: x[:1, 21:] for n, x in controls.items()})
    assert float((out[0, 21:] - alone[0]).abs().max()) <= 1e-11
    on, after = mn.run(memory, q, k, v, controls, state=state)
    apart, after_alone = mn.run(memory, q[:1], k[:1], v[:1], {n: x[:1] for n, x in controls.items()}, state=end)
    assert float((on[0] - apart[0]).abs().max()) <= 1e-11
    assert float((after["matrix"][0] - after_alone["matrix"][0]).abs().max()) <= 1e-11


def test_without_decay_and_with_one_weight_a_level_the_matrix_is_hierarchical() -> None:
    """All pairs of the same two dyadic blocks share a weight: their block of the scores has the rank of q k^T."""
    time, levels = 64, 12
    q, k, _, controls = inputs(HEBB, time, levels)
    controls = {
        "rate": torch.ones(B, time, H, dtype=torch.float64),
        "level": torch.zeros(B, time, H, levels, dtype=torch.float64),
    }
    controls["level"] += torch.linspace(0.5, 3.0, levels, dtype=torch.float64)
    v = torch.eye(time, dtype=torch.float64)[None, :, None].expand(B, -1, H, -1)
    scores, _ = mn.run(LogLinear(HEBB, levels), q, k, v, controls)
    scores, plain = scores[0, :, 0], (q[0, :, 0] @ k[0, :, 0].mT)
    for size in (1, 2, 4, 8, 16, 32):
        for begin in range(0, time, 2 * size):
            rows, columns = slice(begin + size, begin + 2 * size), slice(begin, begin + size)
            weight = controls["level"][0, 0, 0, size.bit_length()]
            assert torch.allclose(scores[rows, columns], weight * plain[rows, columns], atol=1e-12)


def test_level_weights() -> None:
    """softplus(L W x): ln 2 for an input of zeros, never negative, without weight decay."""
    layer = mn.zoo.log_linear_gated_deltanet(levels=6).build(16, 2)
    rule = layer.controls["level"]
    x = torch.randn(2, 5, 16)
    value = rule(x)
    assert value.shape == (2, 5, 2, 6) and bool((value >= 0).all())
    assert torch.allclose(rule(torch.zeros_like(x)), torch.tensor(2.0).log())
    with torch.no_grad():
        rule.scale.mul_(3.0)
    assert torch.allclose(rule(x), torch.nn.functional.softplus(3.0 * rule.linear(x)).unflatten(-1, (2, 6)))
    assert rule.scale.ndim == 1  # the optimiser decays matrices only
    with pytest.raises(InvalidValue, match="LevelWeights"):
        mn.LayerSpec(mn.Memory(), controls=(("rate", LevelWeights()),)).build(16, 2)


def some_layer(spec: mn.layers.LayerDeclaration) -> Any:
    layer = spec.build(16, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize(
    ("one", "base"),
    [
        (mn.zoo.log_linear_gated_deltanet(levels=9), mn.zoo.gated_deltanet()),
        (mn.zoo.log_linear_mamba2(levels=9), mn.zoo.mamba2()),
    ],
    ids=["gated_deltanet", "mamba2"],
)
def test_layers_with_all_weights_1_are_the_base_layers(one: Any, base: Any) -> None:
    layer, plain = some_layer(one), some_layer(base)
    own = {n: x for n, x in layer.state_dict().items() if not n.startswith("controls.level.")}
    plain.load_state_dict(own)
    assert len(layer.state_dict()) == len(own) + 2
    x = torch.randn(2, LONG, 16, dtype=torch.float64)
    assert float((layer(x)[0] - plain(x)[0]).detach().abs().max()) > 1e-3
    layer.controls["level"] = Ones()
    out, _ = layer(x)
    expected, _ = plain(x)
    assert float((out - expected).detach().abs().max()) <= 1e-10


class Ones(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(*x.shape[:2], 2, 9, dtype=x.dtype)


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (mn.Memory(mn.MLP(), mn.L2(), mn.Decay()), r"Matrix\(\)"),
        (mn.Memory(mn.Matrix(learned=True), mn.L2(), mn.Decay()), r"Matrix\(\)"),
        (mn.Memory(mn.Matrix(), mn.Huber(0.5), mn.Decay()), r"Dot\(\) or L2\(\)"),
        (mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="channel")), 'per="head"'),
        (mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(momentum=True)), "without momentum"),
        (mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(anchor=mn.Chunk(4))), "own gradient"),
        (mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(steps=2)), "one pair"),
        (MAMBA.replace(read_timing="before"), "read_timing"),
    ],
    ids=str,
)
def test_what_is_refused(memory: mn.Memory, reason: str) -> None:
    with pytest.raises(InvalidValue, match=reason):
        LogLinear(memory)


def test_sizes_and_weights_that_are_refused() -> None:
    with pytest.raises(InvalidValue, match="levels"):
        LogLinear(MAMBA, 0)
    with pytest.raises(InvalidValue, match="takes no weights"):
        LogLinear(MAMBA).init(1, H, K, V, {"matrix": torch.zeros(H, V, K)})


@pytest.mark.parametrize("base", [MAMBA, GATED_DELTA], ids=str)
def test_second_derivatives(base: mn.Memory) -> None:
    q, k, v, controls = inputs(base, 5, 4)
    tensors = [x[:1, :, :1].clone().requires_grad_() for x in (q, k, v, *controls.values())]

    def run(*given: Tensor) -> Tensor:
        named = dict(zip(controls, given[3:], strict=True))
        return mn.run(LogLinear(base, 4), *given[:3], named, plan="fenwick chunks")[0]

    assert torch.autograd.gradgradcheck(run, tuple(tensors))
