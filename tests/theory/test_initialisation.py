"""Mimetic initialisation (arXiv 2410.11135) and polarised decays (arXiv 2501.00658)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import Constant, LayerSpec, LowRankDecay, Mimetic, Polarised, Sigmoid
from mnemos.layers.mimetic import DECAY

WIDTH, HEADS = 16, 2
DOT = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD(rate=1.0))


def linear_attention(q: Tensor, k: Tensor, v: Tensor, decay: float) -> Tensor:
    """sum_s<=t decay^(t-s) (q_t . k_s) v_s, all (B, T, H, .), written down directly."""
    lag = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    weight = torch.where(lag >= 0, decay ** lag.clamp(min=0).double(), 0.0)
    return torch.einsum("bthk,bshk,ts,bshv->bthv", q, k, weight, v)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_state_space_layer_starts_as_linear_attention(groups: int) -> None:
    layer: Any = Mimetic(mn.zoo.mamba2(state_dim=8, groups=groups)).build(WIDTH, HEADS).double()
    x = torch.randn(2, 30, WIDTH, dtype=torch.float64)
    z, mixed, step = layer.project(x).split(layer.parts, -1)
    assert torch.equal(step, torch.zeros_like(step))
    v, k, q = F.silu(mixed).split(layer.mixed_parts, -1)
    assert torch.allclose(q, k, rtol=0, atol=1e-14)
    v, q = v.unflatten(-1, (HEADS, -1)), q.unflatten(-1, (groups, -1)).repeat_interleave(HEADS // groups, 2)
    for decay, tolerance in ((DECAY, 1e-6), (1.0, 0.02)):  # the decay's exponent is a float32 number
        o = linear_attention(q, q, v, decay) + v
        y = layer.out(layer.norm(o.flatten(-2) * F.silu(z)))
        assert (layer(x)[0] - y).abs().max() < tolerance * y.abs().max()


def test_steps_are_one_and_almost_nothing_is_forgotten() -> None:
    layer: Any = Mimetic(mn.zoo.mamba2()).build(WIDTH, HEADS).double()
    rate = F.softplus(layer.step_bias)
    assert torch.allclose(rate, torch.ones_like(rate), atol=1e-7)
    assert (torch.exp(-torch.exp(layer.log_speed) * rate) ** 1000 > 0.7).all()


@pytest.mark.parametrize("name", ["gla", "gated_deltanet", "titans_lmm"])
def test_memory_layers_start_with_matching_keys_and_long_memory(name: str) -> None:
    layer: Any = Mimetic(getattr(mn.zoo, name)()).build(WIDTH, HEADS)
    decay = layer.controls["decay"](torch.randn(2, 9, WIDTH))
    assert torch.allclose(decay, torch.full_like(decay, DECAY), atol=1e-5)
    assert (decay**1000 > 0.7).all()
    q, k, v = layer.project.weight.split(layer.sizes)
    assert torch.equal(q, k)
    assert not torch.equal(k[: len(v)], v[: len(k)])
    x = torch.randn(2, 12, layer.mixed_sizes[0])
    if layer.conv is not None:
        assert torch.equal(layer.conv(x, torch.zeros(2, layer.conv.size - 1, x.shape[-1]), None)[0], x)


def test_gla_starts_as_linear_attention() -> None:
    layer: Any = Mimetic(mn.zoo.gla(key_expand=1.0)).build(WIDTH, HEADS).double()
    x = torch.randn(2, 30, WIDTH, dtype=torch.float64)
    q, k, v = (y.unflatten(-1, (HEADS, -1)) for y in layer.project(x).split(layer.sizes, -1))
    expected = layer.finish(linear_attention(q, k, v, DECAY), x)
    assert torch.allclose(layer(x)[0], expected, atol=1e-6)


def test_equal_tokens_attend_to_each_other() -> None:
    """The weight of one token for another peaks where they are the same; without this start it does not."""
    found = {}
    for start in (False, True):
        spec = mn.zoo.mamba2(state_dim=64)
        layer: Any = (Mimetic(spec) if start else spec).build(WIDTH, HEADS)
        x = torch.eye(WIDTH)[None] * 4  # every kind of token once
        _, mixed, _ = layer.project(x).split(layer.parts, -1)
        mixed, _ = layer.conv(mixed, torch.zeros(1, 3, mixed.shape[-1]), None)
        _, k, q = F.silu(mixed).split(layer.mixed_parts, -1)
        found[start] = ((q[0] @ k[0].T).argmax(-1) == torch.arange(WIDTH)).float().mean().item()
    assert found[True] > 0.9
    assert found[False] < 0.4


def test_everything_goes_on_being_learned() -> None:
    for spec in (mn.zoo.mamba2(state_dim=8), mn.zoo.gated_deltanet()):
        layer: Any = Mimetic(spec).build(WIDTH, HEADS)
        layer(torch.randn(2, 20, WIDTH))[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_a_mimetic_model_is_a_declaration_like_any_other() -> None:
    spec = mn.ModelSpec((Mimetic(mn.zoo.gla()), mn.zoo.gla()), width=WIDTH, depth=2, heads=HEADS, vocabulary=12)
    assert mn.from_json(spec.to_json()) == spec
    torch.manual_seed(0)
    one = mn.LanguageModel(spec)
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), mn.LanguageModel(spec).parameters(), strict=True))
    first, second = ([*layer.project.weight.split(layer.sizes)][:2] for layer in one.layers())  # pyright: ignore
    assert torch.equal(*first)
    assert not torch.equal(*second)
    tokens = torch.randint(0, 12, (2, 20))
    whole, _ = one(tokens)
    early, state = one(tokens[:, :7])
    late, _ = one(tokens[:, 7:], state)
    assert torch.allclose(torch.cat([early, late], 1), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (mn.zoo.transformer().pattern[0], InvalidValue, "takes a LayerSpec around a memory that learns one pair"),
        (mn.zoo.deltaproduct(), InvalidValue, "takes a LayerSpec around a memory that learns one pair"),
        (mn.Memory(), InvalidType, "layer= takes a LayerDeclaration"),
    ],
)
def test_mimetic_refuses_what_it_cannot_start(layer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Mimetic(layer)


def test_mimetic_refuses_fixed_decays() -> None:
    with pytest.raises(InvalidValue, match="Mimetic needs a decay that can start at any value; _Fixed cannot"):
        Mimetic(mn.zoo.retnet()).build(WIDTH, HEADS)


def polarised(ones: int = 1, zeros: int = 1, **changes: Any) -> LayerSpec:
    return LayerSpec(DOT, controls=(("decay", Polarised(LowRankDecay(), ones, zeros)),), **changes)


def memory_inputs(layer: Any, x: Tensor) -> dict[str, Any]:
    q, k, v = (y.unflatten(-1, (HEADS, -1)) for y in layer.project(x).split(layer.sizes, -1))
    return {"q": q, "k": k, "v": v, "controls": {"decay": layer.controls["decay"](x)}}


@pytest.mark.parametrize(("ones", "zeros"), [(1, 1), (0, 1), (1, 0), (2, 3)])
def test_ones_sum_up_and_zeros_hold_the_present_exactly(ones: int, zeros: int) -> None:
    layer: Any = polarised(ones, zeros).build(WIDTH, HEADS).double()
    given = memory_inputs(layer, torch.randn(2, 37, WIDTH, dtype=torch.float64))
    decay = given["controls"]["decay"]
    assert decay.shape[-1] == layer.key_dim
    assert (decay[..., :ones] == 1).all()
    assert (decay[..., decay.shape[-1] - zeros :] == 0).all()
    between = decay[..., ones : decay.shape[-1] - zeros]
    assert ((between > 0) & (between < 1)).all()
    _, state = mn.run(DOT, **given)
    (matrix,) = (tensor for _, tensor in state.tensors())
    written = torch.einsum("bthv,bthk->bthvk", given["v"], given["k"])
    assert torch.allclose(matrix[..., :ones], written.sum(1)[..., :ones], rtol=1e-12, atol=1e-12)
    last = matrix.shape[-1] - zeros
    assert torch.equal(matrix[..., last:], written[:, -1][..., last:])


def test_influence_fades_exponentially_but_for_the_channels_that_never_forget() -> None:
    """|d y_t / d v_0| <= C exp(-kappa (t - 0)), kappa = -log of the largest decay (recency)."""
    influence = {}
    for ones in (0, 1):
        rule = Polarised(Constant(0.9), ones=ones, zeros=1)
        layer: Any = LayerSpec(DOT, controls=(("decay", rule),)).build(WIDTH, HEADS).double()
        given = memory_inputs(layer, torch.randn(1, 200, WIDTH, dtype=torch.float64))
        v = given["v"].detach().requires_grad_()
        out, _ = mn.run(DOT, **(given | {"v": v}))
        for t in (50, 100, 199):
            (grad,) = torch.autograd.grad(out[0, t].sum(), v, retain_graph=True)
            bound = given["q"].abs().amax() * given["k"].abs().amax() * layer.key_dim * 0.9**t
            influence[ones, t] = grad[0, 0].abs().max().item()
            if ones == 0:
                assert influence[0, t] <= bound
    assert influence[1, 199] > 1e3 * influence[0, 199]
    assert influence[1, 199] > 1e-4


def test_slow_channels_smooth_tokens_into_each_other_and_those_that_always_forget_do_not() -> None:
    """y_t = a y_t-1 + (1 - a) x_t from y_-1 = x_0: the span between the largest and the smallest token never grows from
    layer to layer, for a near 1 it falls fast, and for a = 0 tokens stay as they are."""
    memory = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="value"), mn.GD(rate=1.0))
    x = 5 + torch.randn(1, 50, 1, 3, dtype=torch.float64)
    one, a = torch.ones(1, 50, 1, 1, dtype=torch.float64), torch.tensor([0.0, 0.5, 0.97], dtype=torch.float64)
    y, spans = x, [x.amax((0, 1, 2)) - x.amin((0, 1, 2))]
    for _ in range(4):
        first = {"matrix": y[0, 0, :, :, None].clone()}
        y, _ = mn.run(memory, one, one, (1 - a) * y, {"decay": a.expand_as(y)}, first)
        spans.append(y.amax((0, 1, 2)) - y.amin((0, 1, 2)))
    for before, after in itertools.pairwise(spans):
        assert (after <= before + 1e-12).all()
    assert torch.equal(y[..., 0], x[..., 0])
    assert spans[-1][1] < 0.7 * spans[0][1] and spans[-1][2] < 0.1 * spans[0][2]


def test_without_fixed_channels_nothing_is_changed() -> None:
    torch.manual_seed(0)
    plain = LayerSpec(DOT, controls=(("decay", LowRankDecay()),)).build(WIDTH, HEADS)
    torch.manual_seed(0)
    wrapped = polarised(0, 0).build(WIDTH, HEADS)
    x = torch.randn(2, 20, WIDTH)
    assert torch.equal(plain(x)[0], wrapped(x)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler itself uses what PyTorch deprecates
def test_polarised_layers_stream_compile_and_are_written_down() -> None:
    spec = polarised(keys=None)
    assert mn.from_json(spec.to_json()) == spec
    layer = spec.build(WIDTH, HEADS).double()
    x = torch.randn(2, 21, WIDTH, dtype=torch.float64)
    whole, _ = layer(x)
    early, state = layer(x[:, :8])
    late, _ = layer(x[:, 8:], state)
    assert torch.allclose(torch.cat([early, late], 1), whole, rtol=1e-10, atol=1e-12)
    compiled = torch.compile(layer, backend="aot_eager_decomp_partition", fullgraph=True)
    assert torch.allclose(compiled(x)[0], whole, rtol=1e-10, atol=1e-12)


def test_a_polarised_layer_may_start_mimetically() -> None:
    decay = Mimetic(polarised()).build(WIDTH, HEADS).controls["decay"](torch.randn(1, 5, WIDTH))  # pyright: ignore
    assert torch.allclose(decay[..., 1:-1], torch.full_like(decay[..., 1:-1], DECAY), atol=1e-5)
    assert (decay[..., 0] == 1).all()
    assert (decay[..., -1] == 0).all()


def test_polarised_refuses_what_has_no_channels_to_fix() -> None:
    with pytest.raises(InvalidValue, match=r"here are one number a head\. Use Decay\(per=\"channel\"\)"):
        LayerSpec(mn.Memory(retention=mn.Decay()), controls=(("decay", Polarised(Sigmoid())),)).build(WIDTH, HEADS)
    with pytest.raises(InvalidValue, match=r"fixes 8 channels .* here are 8 channels"):
        polarised(4, 4).build(WIDTH, HEADS)
    with pytest.raises(InvalidValue, match="numbers of channels of at least 0; got -1 and 1"):
        Polarised(Sigmoid(), ones=-1)
