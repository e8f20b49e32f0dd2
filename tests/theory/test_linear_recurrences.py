"""Linear recurrences of the matrix kind: each against a literal formula, and where one contains another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import (
    Coupled,
    LayerDeclaration,
    LowerBounded,
    PrefixSoftmax,
    RecurrentChunks,
    Sigmoid,
    StateSpace,
    Taylor,
)
from mnemos.layers.coupled_decays import EMPTY, prefix_softmax

B, T, H, K, V = 2, 37, 2, 4, 3
WIDTH = 16

RETENTION = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="head"), mn.GD())
GLA = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD(rate=1.0))
LINEAR = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD())


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def build(spec: LayerDeclaration, width: int = WIDTH, heads: int = H) -> Any:
    """The layer in float64, its parameters moved off their starting values."""
    layer = spec.build(width, heads).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def by_head(x: Tensor, heads: int = H) -> Tensor:
    return x.unflatten(-1, (heads, -1))


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def causal(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution over time, channel by channel, its last tap on the present token: (B, T, C), (size, C)."""
    size = weight.shape[0]
    return F.conv1d(F.pad(x.mT, (size - 1, 0)), weight.mT[:, None], groups=x.shape[-1]).mT


def gated(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """M_t = M_t-1 Diag(decay_t) + v_t k_t^T, o_t = M_t q_t, one token after another."""
    state, outputs = v.new_zeros(v.shape[0], v.shape[2], v.shape[3], k.shape[3]), []
    for t in range(q.shape[1]):
        state = state * decay[:, t, :, None] + v[:, t, :, :, None] * k[:, t, :, None]
        outputs.append((state @ q[:, t, :, :, None])[..., 0])
    return torch.stack(outputs, 1)


class TestStateSpaceDuality:
    """Mamba-2."""

    @pytest.mark.parametrize("groups", [1, 2])
    def test_the_layer_as_a_semiseparable_matrix(self, groups: int) -> None:
        """Y = (L * C B^T) (dt x) + D x with L_ts = exp(sum_{s < j <= t} dt_j A)."""
        heads, inner, n = 4, 2 * WIDTH, 5
        layer = build(StateSpace(state_dim=n, groups=groups), heads=heads)
        u = randn(B, T, WIDTH)
        z, mixed, dt = layer.project(u).split([inner, inner + 2 * groups * n, heads], -1)
        mixed = F.silu(causal(mixed, layer.conv.weight) + layer.conv_bias)
        x, b, c = mixed.split([inner, groups * n, groups * n], -1)
        x, b, c = by_head(x, heads), by_head(b, groups), by_head(c, groups)
        dt = F.softplus(dt + layer.step_bias)
        log_decay = -torch.exp(layer.log_speed) * dt
        out = torch.zeros_like(x)
        for h in range(heads):
            group = h * groups // heads
            for t in range(T):
                for s in range(t + 1):
                    weight = torch.exp(log_decay[:, s + 1 : t + 1, h].sum(1)) * dt[:, s, h]
                    out[:, t, h] += (weight * (c[:, t, group] * b[:, s, group]).sum(-1))[:, None] * x[:, s, h]
        out = out + layer.skip[:, None] * x
        y = layer.out(rms(out.flatten(-2) * F.silu(z), layer.norm.gain))
        assert_same(layer(u)[0], y)

    def test_it_starts_with_the_paper_s_steps_and_speeds(self) -> None:
        layer = StateSpace().build(256, 64)
        step, speed = F.softplus(layer.step_bias.detach()), layer.log_speed.detach().exp()
        assert 0.001 - 1e-6 <= float(step.min()) <= float(step.max()) <= 0.1 + 1e-6
        assert 1 <= float(speed.min()) <= float(speed.max()) <= 16 and float(speed.max()) > 8
        assert torch.equal(layer.skip, torch.ones(64))

    def test_a_step_of_zero_skips_a_token_and_a_large_one_starts_afresh(self) -> None:
        layer = StateSpace(state_dim=5).build(WIDTH, H).double()
        _, start = layer(randn(B, T, WIDTH))
        for bias, fresh in ((-1e4, False), (1e4, True)):
            with torch.no_grad():
                layer.step_bias.fill_(bias)
            x = randn(B, 1, WIDTH)
            _, after = layer(x, start)
            before, matrix = start.child("memory")["matrix"], after.child("memory")["matrix"]
            if fresh:  # only the write is left, whatever was there
                empty = start.successor(
                    memory=layer.memory.init(B, H, 5, layer.value_dim, dtype=torch.float64), conv=start["conv"]
                )
                assert_same(matrix, layer(x, empty)[1].child("memory")["matrix"])
            else:
                assert_same(matrix, before)

    def test_without_decay_it_is_linear_attention(self) -> None:
        q, k, v = randn(B, T, H, K), randn(B, T, H, K), randn(B, T, H, V)
        rate = torch.rand(B, T, H, dtype=torch.float64)
        one, _ = mn.run(RETENTION, q, k, v, {"rate": rate, "decay": torch.ones_like(rate)})
        assert_same(one, mn.run(LINEAR, q, k, v, {"rate": rate})[0])

    def test_it_is_gated_linear_attention_with_equal_channels(self) -> None:
        """Writing with rate dt is writing dt x, and the decay of a head is that of all its channels."""
        q, k, v = randn(B, T, H, K), randn(B, T, H, K), randn(B, T, H, V)
        dt = F.softplus(randn(B, T, H))
        decay = torch.exp(-2 * dt)
        one, _ = mn.run(RETENTION, q, k, v, {"rate": dt, "decay": decay})
        wide = decay[..., None].expand(-1, -1, -1, K)
        assert_same(one, mn.run(GLA, q, k, dt[..., None] * v, {"decay": wide})[0])
        assert_same(one, gated(q, k, dt[..., None] * v, wide))

    def test_a_mamba_1_scan_with_equal_decays_is_one_of_single_channels(self) -> None:
        """h_t = exp(dt_t A) h_t-1 + dt_t B_t x_t per channel, B and C shared by the channels, A equal along them."""
        x, b, c = randn(B, T, H), randn(B, T, K), randn(B, T, K)
        dt, a = F.softplus(randn(B, T, H)), -torch.rand(H, dtype=torch.float64)
        h, outputs = torch.zeros(B, H, K, dtype=torch.float64), []
        for t in range(T):
            h = torch.exp(dt[:, t] * a)[..., None] * h + (dt[:, t] * x[:, t])[..., None] * b[:, t, None]
            outputs.append((h * c[:, t, None]).sum(-1))
        q, k = (y[:, :, None].expand(-1, -1, H, -1) for y in (c, b))
        out, _ = mn.run(RETENTION, q, k, x[..., None], {"rate": dt, "decay": torch.exp(dt * a)})
        assert_same(out[..., 0], torch.stack(outputs, 1))

    def test_steps_are_euler_s_and_not_the_exact_ones(self) -> None:
        """With N = 1, A = -1, B = C = 1 the exact discretisation is the gate h_t = (1 - g) h_t-1 + g x_t, g =
        sigmoid(z), dt = softplus(z). The layer keeps exp(-dt) = 1 - g too, but writes dt x_t, not g x_t."""
        z, x, one = randn(B, T, H), randn(B, T, H, 1), torch.ones(B, T, H, 1, dtype=torch.float64)
        dt, g = F.softplus(z), torch.sigmoid(z)
        exact, _ = mn.run(RETENTION, one, one, x, {"rate": 1 - torch.exp(-dt), "decay": torch.exp(-dt)})
        h = torch.zeros(B, H, dtype=torch.float64)
        for t in range(T):
            h = (1 - g[:, t]) * h + g[:, t] * x[:, t, :, 0]
            assert_same(exact[:, t, :, 0], h)
        layer = build(StateSpace(state_dim=1))
        with torch.no_grad():
            layer.step_bias.fill_(0.5)
        u = randn(B, 1, WIDTH)
        _, mixed, step = layer.project(u).split(layer.parts, -1)
        x, b, _ = F.silu(causal(mixed, layer.conv.weight) + layer.conv_bias).split(layer.mixed_parts, -1)
        dt, speed = F.softplus(step + layer.step_bias)[:, 0], layer.log_speed.exp()
        written = (by_head(x)[:, 0] * b)[..., None]
        matrix = layer(u)[1].child("memory")["matrix"]
        assert_same(matrix, dt[..., None, None] * written)
        held = (1 - torch.exp(-speed * dt)) / speed
        assert float((matrix - held[..., None, None] * written).detach().abs().max()) > 1e-3

    def test_it_takes_other_memories_with_a_rate_and_a_decay(self) -> None:
        delta = StateSpace(mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD()), state_dim=5)
        x = randn(B, 9, WIDTH)
        layer = delta.build(WIDTH, H).double()
        with torch.no_grad():
            layer.step_bias.fill_(0)
        plain = StateSpace(state_dim=5).build(WIDTH, H).double()
        plain.load_state_dict(layer.state_dict())
        one, other = layer(x)[0].detach(), plain(x)[0].detach()
        assert torch.isfinite(one).all() and float((one - other).abs().max()) > 1e-5
        assert "triangular delta" in layer.explain(64)
        with pytest.raises(InvalidValue, match="a rate and a decay a head"):
            StateSpace(mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD()))


class TestRetNet:
    def test_the_paper_s_rescalings_vanish_in_the_norm(self) -> None:
        """O = R V with R = (Q K^T / sqrt(K)) * D / sqrt(sum D), each row over max(|sum R|, 1): what the layer leaves
        out is one positive number a token and head."""
        layer = build(mn.zoo.retnet())
        layer.norm.epsilon = 0.0
        x = randn(B, T, WIDTH)
        q, k, v = (by_head(y) for y in layer.project(x).split(layer.sizes, -1))
        half = q.shape[-1] // 2
        angle = torch.arange(T)[:, None] * 10000.0 ** -torch.linspace(0, 1, half, dtype=torch.float64)
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k = (torch.complex(y[..., :half], y[..., half:]) * turn for y in (q, k))
        distance = torch.arange(T)[:, None] - torch.arange(T)
        factor = (1 - torch.exp2(-5 - torch.arange(H, dtype=torch.float64)))[:, None, None]
        d = torch.where(distance >= 0, factor ** distance.clamp(min=0), 0.0)
        scores = torch.einsum("bthk,bshk->bhts", q, k.conj()).real
        raw = torch.einsum("bhts,bshv->bthv", scores * d, v)
        scaled = scores / math.sqrt(2 * half) * d / d.sum(-1, keepdim=True).sqrt()
        scaled = scaled / scaled.sum(-1, keepdim=True).abs().clamp(min=1)
        o = torch.einsum("bhts,bshv->bthv", scaled, v)
        assert float((o - raw).detach().abs().max()) > 0.1
        normed = o / o.square().mean(-1, keepdim=True).sqrt() * layer.norm.gain
        assert_same(layer(x)[0], layer.out(normed.flatten(-2) * F.silu(layer.gate(x))), 1e-9)


class TestHGRN2:
    @staticmethod
    def at(index: int, depth: int) -> Any:
        return mn.zoo.hgrn2().at(index, depth).build(WIDTH, H)

    @pytest.mark.parametrize("index", [0, 2])
    def test_the_layer_is_gated_linear_attention_with_tied_keys(self, index: int) -> None:
        layer = build(mn.zoo.hgrn2().at(index, 4))
        x = randn(B, T, WIDTH)
        q, v = layer.project(x).chunk(2, -1)
        share = torch.sigmoid(layer.decay.linear(x))
        bound = torch.sigmoid(layer.decay.bound) if index else 0.0
        decay = by_head(bound + (1 - bound) * share)
        o = gated(by_head(F.silu(q)), 1 - decay, by_head(v), decay)
        assert_same(layer(x)[0], layer.out(rms(o.flatten(-2), layer.norm.gain)))

    def test_heads_of_one_channel_are_hgrn_s_cell_times_a_query(self) -> None:
        """h_t = a_t h_t-1 + (1 - a_t) v_t, element by element."""
        layer = build(mn.zoo.hgrn2().at(1, 4), heads=WIDTH)
        x = randn(B, T, WIDTH)
        q, v = layer.project(x).chunk(2, -1)
        bound = torch.sigmoid(layer.decay.bound)
        decay = bound + (1 - bound) * torch.sigmoid(layer.decay.linear(x))
        h, outputs = torch.zeros(B, WIDTH, dtype=torch.float64), []
        for t in range(T):
            h = decay[:, t] * h + (1 - decay[:, t]) * v[:, t]
            outputs.append(F.silu(q[:, t]) * h)
        assert_same(layer(x)[0], layer.out(rms(torch.stack(outputs, 1), layer.norm.gain)))

    def test_lower_bounds_rise_from_zero_to_below_one(self) -> None:
        """Layer l of L starts at l / L, the first stays at exactly 0."""
        model = mn.LanguageModel(mn.ModelSpec(pattern=(mn.zoo.hgrn2(),), width=WIDTH, depth=5, heads=H, vocabulary=7))
        layers: list[Any] = list(model.layers())
        bounds = [layer.decay.bound for layer in layers]
        assert bounds[0] is None
        for index, bound in enumerate(bounds[1:], 1):
            assert_same(torch.sigmoid(bound.double()), torch.full((WIDTH,), index / 5, dtype=torch.float64), 1e-6)
        with torch.no_grad():
            decay, _, _ = layers[3].decay(100 * torch.randn(B, T, WIDTH), None, None)
        assert float(decay.min()) >= 0.6 - 1e-6 and float(decay.max()) <= 1

    def test_other_layers_in_a_pattern_count_too(self) -> None:
        spec = mn.ModelSpec(pattern=(mn.zoo.gla(), mn.zoo.hgrn2(), LowerBoundedPair), depth=6)
        decays = [layer.decay for layer in spec.layers if isinstance(layer, Coupled)]
        assert [decay.bound for decay in decays if isinstance(decay, LowerBounded)] == [1 / 6, 0.9, 4 / 6, 0.9]

    def test_the_state_stays_within_the_values(self) -> None:
        """A mean of values and of zeros."""
        layer = build(mn.zoo.hgrn2().at(2, 4))
        x = randn(B, T, WIDTH)
        v = by_head(layer.project(x).chunk(2, -1)[1])
        low, high = v.amin(1).clamp(max=0), v.amax(1).clamp(min=0)
        matrix = layer(x)[1].child("memory")["matrix"]
        assert bool((matrix >= low[..., None] - 1e-12).all()) and bool((matrix <= high[..., None] + 1e-12).all())

    def test_a_decay_of_zero_remembers_nothing_and_one_writes_nothing(self) -> None:
        q, v = randn(B, T, H, K), randn(B, T, H, V)
        nothing = torch.zeros(B, T, H, K, dtype=torch.float64)
        out, _ = mn.run(GLA, q, 1 - nothing, v, {"decay": nothing})
        assert_same(out, q.sum(-1, keepdim=True) * v)
        out, _ = mn.run(GLA, q, nothing, v, {"decay": 1 - nothing})
        assert not out.any()

    def test_constant_values_are_approached(self) -> None:
        """Each key channel's mean goes to the value as fast as its decays multiply to zero."""
        decay = torch.rand(B, T, H, K, dtype=torch.float64)
        v = randn(B, 1, H, V).expand(-1, T, -1, -1)
        _, state = mn.run(GLA, decay, 1 - decay, v, {"decay": decay})
        expected = v[:, 0, :, :, None] * (1 - decay.prod(1))[:, :, None]
        assert_same(state["matrix"], expected)

    @pytest.mark.parametrize("bound", [0.0, 0.5, 0.99])
    def test_what_is_left_is_exact_in_single_precision(self, bound: float) -> None:
        """1 - decay keeps its digits where decay is 1 up to rounding; log-space and direct decays are the same."""
        rule: Any = LowerBounded(bound).build(1, 1, 1)
        with torch.no_grad():
            rule.linear.weight.fill_(1.0)
            x = torch.linspace(-40, 40, 161)[None, :, None]
            decay, left, _ = rule(x, None, None)
            g = 0.0 if not bound else float(torch.sigmoid(rule.bound.double()))
        exact = (1 - g) * torch.sigmoid(-x.double())
        assert float(((left[..., 0].double() - exact) / exact).abs().max()) < 1e-5
        log_decay = torch.logaddexp(torch.tensor(g).double().log(), math.log1p(-g) + F.logsigmoid(x.double()))
        assert_same(decay[..., 0].double(), log_decay.exp(), 1e-6)
        assert_same(decay + left, torch.ones_like(decay), 1e-6)


LowerBoundedPair = Coupled(LowerBounded(0.9))


class TestLightNet:
    def test_every_key_channel_holds_a_softmax_mean_of_all_values_so_far(self) -> None:
        layer = build(mn.zoo.lightnet(gate_rank=3))
        x = randn(B, T, WIDTH)
        q, v = layer.project(x).chunk(2, -1)
        q, v, k = by_head(F.silu(q)), by_head(v), by_head(layer.decay.linear(x))
        seen = torch.ones(T, T, dtype=torch.bool).tril()[None, :, :, None, None]
        weights = torch.softmax(k[:, None].masked_fill(~seen, -torch.inf), 2)  # (B, t, j, H, K)
        o = torch.einsum("bthk,btjhk,bjhv->bthv", q, weights, v)
        down, up = layer.gate
        y = layer.out(rms(o.flatten(-2), layer.norm.gain) * F.silu(up(down(x))))
        assert_same(layer(x)[0], y)

    def test_it_is_hgrn2_with_a_cumulative_decay(self) -> None:
        q, k, v = randn(B, T, H, K), 3 * randn(B, T, H, K), randn(B, T, H, V)
        z = torch.stack([torch.logsumexp(k[:, : t + 1], 1) for t in range(T)], 1)
        before = torch.cat([torch.full_like(z[:, :1], -torch.inf), z[:, :-1]], 1)
        decay = torch.exp(before - z)
        assert_same(torch.exp(k - z), 1 - decay)
        expected = gated(q, torch.exp(k - z), v, decay)
        found, left, after = prefix_softmax(k, torch.full((B, H, K), EMPTY, dtype=torch.float64), None)
        assert_same(found, decay)
        assert_same(left, 1 - decay)
        assert_same(after, z[:, -1])
        assert_same(mn.run(GLA, q, left, v, {"decay": found})[0], expected)

    def test_a_constant_added_to_a_channel_of_scores_changes_nothing(self) -> None:
        scores, past = randn(B, T, H, K), torch.full((B, H, K), EMPTY, dtype=torch.float64)
        for shift in (5.0, -300.0, 1e4):
            one, other = prefix_softmax(scores, past, None), prefix_softmax(scores + shift, past, None)
            assert_same(one[0], other[0], 1e-10)
            assert_same(one[1], other[1], 1e-10)

    def test_scores_far_apart_stay_finite(self) -> None:
        scores = (1e4 * randn(B, T, H)).requires_grad_()
        decay, left, after = prefix_softmax(scores, torch.full((B, H), EMPTY, dtype=torch.float64), None)
        assert_same(decay + left, torch.ones_like(decay))
        assert_same(after, scores.amax(1), 1e-9)
        (gradient,) = torch.autograd.grad(decay.sum() + after.sum(), scores)
        assert bool(torch.isfinite(gradient).all())

    def test_constant_scores_are_a_running_mean_and_stay_accurate(self) -> None:
        """After 100,000 tokens in single precision the weights are still 1/t."""
        count = torch.arange(1, 100_001)
        _, left, _ = prefix_softmax(torch.zeros(1, 100_000, 1), torch.full((1, 1), EMPTY), None)
        assert float((left[0, :, 0].double() * count - 1).abs().max()) < 1e-3

    def test_constant_values_are_given_back(self) -> None:
        q, scores = randn(B, T, H, K), randn(B, T, H, K)
        v = randn(B, 1, H, V).expand(-1, T, -1, -1)
        decay, left, _ = prefix_softmax(scores, torch.full((B, H, K), EMPTY, dtype=torch.float64), None)
        assert_same(mn.run(GLA, q, left, v, {"decay": decay})[0], q.sum(-1, keepdim=True) * v)

    def test_one_key_channel_is_a_constant_query(self) -> None:
        """Aaren is LightNet with a single key channel, its score as the key and 1 as the query."""
        aaren = build(mn.zoo.aaren())
        x = randn(B, T, WIDTH)
        k, v = (by_head(y) for y in aaren.project(x).chunk(2, -1))
        q = aaren.ask(aaren.query).view(H, -1)
        scores = (k * q).sum(-1, keepdim=True) / math.sqrt(k.shape[-1])
        decay, left, _ = prefix_softmax(scores, torch.full((B, H, 1), EMPTY, dtype=torch.float64), None)
        o, _ = mn.run(GLA, torch.ones_like(left), left, v, {"decay": decay})
        assert_same(aaren(x)[0], aaren.out(o.flatten(-2)))


class TestPositionsOfCoupledLayers:
    @pytest.mark.parametrize("axes", [(), (40,), (5, 8), (2, 5, 4)])
    def test_answers_are_weighted_by_the_cosines_of_differences(self, axes: tuple[int, ...]) -> None:
        """o_t = sum_j sum_i q_ti k_ji a_tji cos(f_i (n_t - n_j)) v_j, a_tji the product of decays in between, n the
        coordinate along the axis that channel i belongs to."""
        layer = build(Coupled(PrefixSoftmax(), axes=axes), width=24)
        x = randn(B, T, 24)
        q, v = layer.project(x).chunk(2, -1)
        q, v, scores = by_head(F.silu(q)), by_head(v), by_head(layer.decay.linear(x))
        places = torch.cartesian_prod(*[torch.arange(n) for n in axes]) if axes else torch.arange(T)
        places = places.view(len(places), -1)[:T].double()  # (T, axes): row by row
        group = 12 // places.shape[1]
        frequency = 10000.0 ** (-torch.arange(group, dtype=torch.float64) / group)
        difference = places[:, None] - places[None]  # (t, j, axes)
        cosine = torch.cos(difference[..., None] * frequency).flatten(2)  # (t, j, K)
        seen = torch.ones(T, T, dtype=torch.bool).tril()[None, :, :, None, None]
        weights = torch.softmax(scores[:, None].masked_fill(~seen, -torch.inf), 2) * cosine[None, :, :, None]
        o = torch.einsum("bthk,btjhk,bjhv->bthv", q, weights, v)
        assert_same(layer(x)[0], layer.out(rms(o.flatten(-2), layer.norm.gain)))

    def test_only_differences_count(self) -> None:
        """Counting from another cell of the first axis changes nothing; a full grid begins again."""
        layer = build(Coupled(LowerBounded(), axes=(100, 4)))
        x = randn(B, T, WIDTH)
        y, _ = layer(x)
        start = layer.init_state(B)
        for shift in (4, 40, 400):
            shifted, _ = layer(x, start.successor(**start.entries | {"count": start["count"] + shift}))
            assert_same(shifted, y)
        across, _ = layer(x, start.successor(**start.entries | {"count": start["count"] + 2}))
        assert float((across - y).detach().abs().max()) > 1e-3

    def test_what_cannot_be_a_grid(self) -> None:
        with pytest.raises(InvalidValue, match="axes="):
            Coupled(LowerBounded(), axes=(3, 0))
        with pytest.raises(InvalidValue, match="3 axes cannot share"):
            Coupled(LowerBounded(), axes=(3, 3, 3)).build(16, 2)


class TestAaren:
    @staticmethod
    def layer(loud: float = 1.0) -> Any:
        layer = build(mn.zoo.aaren())
        with torch.no_grad():
            layer.query.mul_(loud)
        return layer

    @staticmethod
    def literally(layer: Any, x: Tensor) -> Tensor:
        """Causal softmax attention in which every token asks the same."""
        k, v = (by_head(y).transpose(1, 2) for y in layer.project(x).chunk(2, -1))
        q = layer.ask(layer.query).view(1, H, 1, -1).expand(x.shape[0], -1, x.shape[1], -1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return layer.out(o.transpose(1, 2).flatten(-2))

    @pytest.mark.parametrize("loud", [0.0, 1.0, 1e5])
    def test_it_is_softmax_attention_with_equal_queries(self, loud: float) -> None:
        layer, x = self.layer(loud), randn(B, 70, WIDTH)
        y, _ = layer(x)
        assert_same(y, self.literally(layer, x), 1e-10)
        if not loud:  # equal scores: the running mean
            v = layer.project(x).chunk(2, -1)[1]
            mean = v.cumsum(1) / torch.arange(1, 71, dtype=torch.float64)[:, None]
            assert_same(y, layer.out(mean))

    def test_gradients(self) -> None:
        layer, x = self.layer(3.0), randn(B, 9, WIDTH)
        parameters = list(layer.parameters())
        one = torch.autograd.grad(layer(x)[0].square().sum(), parameters)
        other = torch.autograd.grad(self.literally(layer, x).square().sum(), parameters)
        for found, expected in zip(one, other, strict=True):
            assert_same(found, expected, 1e-10)

    def test_a_constant_added_to_all_scores_changes_nothing(self) -> None:
        """Every key longer by the same vector."""
        layer, x = self.layer(), randn(B, T, WIDTH)
        x[..., 0] = 1
        before = layer(x)[0].detach()
        with torch.no_grad():
            q = layer.ask(layer.query).view(H, -1)
            layer.project.weight[:WIDTH, 0] += (100 * q / q.square().sum(-1, keepdim=True)).flatten()
        assert_same(layer(x)[0], before, 1e-10)

    def test_the_order_of_the_past_does_not_matter(self) -> None:
        layer, x = self.layer(), randn(B, T, WIDTH)
        mixed = x[:, torch.randperm(T)]
        assert_same(layer(mixed)[0][:, -1], layer(x)[0][:, -1])


class TestBased:
    def test_the_features_multiply_to_the_second_order_of_the_softmax_kernel(self) -> None:
        q, k = randn(50, 16), randn(50, 16)
        assert Taylor().width(16) == Taylor()(q).shape[-1] == 1 + 16 + 16 + 120
        a = (q * k).sum(-1) / math.sqrt(16)
        product = (Taylor()(q) * Taylor()(k)).sum(-1)
        assert_same(product, 1 + a + a.square() / 2)
        assert float(product.min()) >= 0.5
        x = q / 16**0.25  # all products, not packed
        unpacked = [torch.ones(50, 1, dtype=torch.float64), x, torch.einsum("ni,nj->nij", x, x).flatten(1) / 2**0.5]
        y = k / 16**0.25
        others = [torch.ones(50, 1, dtype=torch.float64), y, torch.einsum("ni,nj->nij", y, y).flatten(1) / 2**0.5]
        assert_same(product, (torch.cat(unpacked, -1) * torch.cat(others, -1)).sum(-1))

    @staticmethod
    def layer(scale: float = 1.0) -> mn.MemoryLayer:
        spec = mn.zoo.based(key_expand=0.5).pattern[1]
        layer = build(spec)
        assert isinstance(layer, mn.MemoryLayer)
        with torch.no_grad():
            layer.project.weight[:-WIDTH] *= scale
        return layer

    @staticmethod
    def parts(layer: mn.MemoryLayer, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (by_head(y) for y in layer.project(x).split([8, 8, WIDTH], -1))
        return torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(4), v

    def test_the_layer_is_attention_with_a_quadratic_kernel(self) -> None:
        layer, x = self.layer(), randn(B, T, WIDTH)
        a, v = self.parts(layer, x)
        scores = (1 + a + a.square() / 2).tril()
        o = torch.einsum("bhts,bshv->bthv", scores / (scores.sum(-1, keepdim=True) + 1e-6), v)
        assert_same(layer(x)[0], layer.out(o.flatten(-2)))

    def test_small_scores_are_softmax_attention_to_third_order(self) -> None:
        x, off = randn(B, T, WIDTH), []
        layer = self.layer()
        a, v = self.parts(layer, x)
        weight = layer.project.weight.detach().clone()
        for scale in (0.1, 0.05):
            with torch.no_grad():
                layer.project.weight[:-WIDTH] = weight[:-WIDTH] * scale
            scores = (a * scale**2).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
            o = torch.einsum("bhts,bshv->bthv", torch.softmax(scores, -1), v)
            # The 1e-6 of the denominator, exactly at the first token, is taken out: it is larger than the difference.
            y = torch.linalg.solve(layer.out.weight, layer(x)[0].mT).mT
            total = (1 + a * scale**2 + (a * scale**2).square() / 2).tril().sum(-1).transpose(1, 2)[..., None]
            y = by_head(y) * (1 + 1e-6 / total)
            off.append(float((y - o).detach().norm()))
        assert 40 < off[0] / off[1] < 90, "scores, a fourth as large, are off by a sixty-fourth"

    def test_constant_values_are_given_back(self) -> None:
        layer = self.layer()
        with torch.no_grad():
            layer.project.weight[-WIDTH:] = 0
            layer.project.weight[-WIDTH:, 0] = torch.arange(float(WIDTH))
        x = randn(B, T, WIDTH)
        x[..., 0] = 1
        y, _ = layer(x)
        assert_same(y, layer.out(torch.arange(float(WIDTH), dtype=torch.float64)).expand_as(y), 1e-5)

    def test_without_keys_it_is_the_running_mean(self) -> None:
        layer, x = self.layer(scale=0.0), randn(B, T, WIDTH)
        v = layer.project(x)[..., -WIDTH:]
        mean = v.cumsum(1) / torch.arange(1, T + 1, dtype=torch.float64)[:, None]
        assert_same(layer(x)[0], layer.out(mean), 1e-5)

    def test_its_first_features_are_the_lower_orders(self) -> None:
        """Order 0 is the running mean, order 1 linear attention with the features [1, x / d^(1/4)]."""
        q, k, v = 0.3 * randn(B, T, H, K), 0.3 * randn(B, T, H, K), randn(B, T, H, V)
        counted = torch.cat([v, torch.ones_like(v[..., :1])], -1)

        def truncated(features: int) -> Tensor:
            summing = LINEAR.replace(learner=mn.GD(rate=1.0))
            o, _ = mn.run(summing, Taylor()(q)[..., :features], Taylor()(k)[..., :features], counted)
            return o[..., :-1] / o[..., -1:]

        count = torch.arange(1, T + 1, dtype=torch.float64)[:, None, None]
        assert_same(truncated(1), v.cumsum(1) / count)
        weights = (1 + torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(K)).tril()
        expected = torch.einsum("bhts,bshv->bthv", weights / weights.sum(-1, keepdim=True), v)
        assert_same(truncated(1 + K), expected)

    def test_a_window_over_the_whole_sequence_is_full_attention(self) -> None:
        window = mn.zoo.based(window=T).pattern[2]
        assert isinstance(window, mn.LayerSpec) and isinstance(window.memory, mn.KVMemory)
        one = build(window)
        other = mn.LayerSpec(window.memory.replace(retain=mn.Everything())).build(WIDTH, H).double()
        other.load_state_dict(one.state_dict())
        x = randn(B, T, WIDTH)
        assert_same(one(x)[0], other(x)[0])

    def test_the_gated_convolution(self) -> None:
        layer = build(mn.zoo.based().pattern[0])
        x = randn(B, T, WIDTH)
        one, other = layer.project(x).chunk(2, -1)
        assert_same(layer(x)[0], layer.out(F.silu(causal(one, layer.conv.weight)) * other))
        assert layer.conv.weight.shape == (3, 2 * WIDTH)


class TestKimiDeltaAttention:
    def test_the_layer(self) -> None:
        """Decay per key channel first, then the delta rule at the decayed state."""
        layer = build(mn.zoo.kda(rank=3))
        x = randn(B, T, WIDTH)
        q, k, v = (by_head(y) for y in F.silu(causal(layer.project(x), layer.conv.weight)).chunk(3, -1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        rule, beta = layer.controls["decay"], torch.sigmoid(layer.controls["rate"].linear(x))
        step = F.softplus(rule.linear(rule.down(x)) + rule.bias)
        decay = torch.exp(-rule.log_speed.exp()[:, None] * by_head(step))
        dim = WIDTH // H
        state, outputs = torch.zeros(B, H, dim, dim, dtype=torch.float64), []
        for t in range(T):
            erase = torch.eye(dim) - beta[:, t, :, None, None] * k[:, t, :, :, None] * k[:, t, :, None]
            state = (state * decay[:, t, :, None]) @ erase
            state = state + beta[:, t, :, None, None] * v[:, t, :, :, None] * k[:, t, :, None]
            outputs.append((state @ q[:, t, :, :, None])[..., 0])
        o = rms(torch.stack(outputs, 1), layer.norm.gain).flatten(-2)
        down, up = layer.gate
        assert_same(layer(x)[0], layer.out(o * torch.sigmoid(up(down(x)))), 1e-9)
        assert decay.std(-1).min() > 0, "the channels of a head decay each at their own rate"

    def test_equal_channels_are_gated_deltanet(self) -> None:
        memory = mn.zoo.kda().memory
        gated_delta = mn.zoo.gated_deltanet().memory
        assert isinstance(memory, mn.Memory) and memory.retention == mn.Decay(per="channel")
        q, k, v = randn(B, T, H, K), F.normalize(randn(B, T, H, K), dim=-1), randn(B, T, H, V)
        rate, decay = torch.rand(2, B, T, H, dtype=torch.float64)
        wide = decay[..., None].expand(-1, -1, -1, K)
        one, _ = mn.run(memory, q, k, v, {"rate": rate, "decay": wide})
        assert_same(one, mn.run(gated_delta, q, k, v, {"rate": rate, "decay": decay})[0])

    def test_a_full_step_replaces_what_its_key_recalls(self) -> None:
        memory = mn.zoo.kda().memory
        k, v = F.normalize(randn(B, T, H, K), dim=-1), randn(B, T, H, V)
        controls = {"rate": torch.ones(B, T, H, dtype=torch.float64), "decay": torch.rand(B, T, H, K).double()}
        assert_same(mn.run(memory, k, k, v, controls)[0], v)


class TestRecurrentChunks:
    """RAT."""

    @staticmethod
    def literally(layer: Any, x: Tensor) -> Tensor:
        """Token after token, a list of summaries, rotation by complex numbers."""
        spec, dim = layer.spec, layer.head_dim
        z, v, g, q, k = layer.project(x).split(layer.sizes, -1)
        gate = by_head(torch.sigmoid(g + layer.gate_bias), layer.heads)
        v, (q, k) = by_head(v, layer.heads), (by_head(y, layer.groups) for y in (q, k))
        heads = torch.arange(layer.heads) % layer.groups
        q, k = q[:, :, heads], k[:, :, heads]

        def turned(y: Tensor, chunk: int) -> Tensor:
            half = dim // 2
            angle = chunk * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
            both = torch.complex(y[..., :half], y[..., half:]) * torch.polar(torch.ones_like(angle), angle)
            return torch.cat([both.real, both.imag], -1)

        summaries: list[tuple[Tensor, Tensor]] = []
        outputs, key, value = [], torch.zeros_like(k[:, 0]), torch.zeros_like(v[:, 0])
        for t in range(x.shape[1]):
            chunk, place = divmod(t, spec.chunk)
            if place == 0:
                key, value = torch.zeros_like(key), torch.zeros_like(value)
            key = gate[:, t] * key + (1 - gate[:, t]) * k[:, t]
            value = gate[:, t] * value + (1 - gate[:, t]) * v[:, t]
            entries = [*summaries, (turned(key, chunk), value)]
            keys, values = (torch.stack(column, 2) for column in zip(*entries, strict=True))
            weights = torch.softmax((keys @ turned(q[:, t], chunk)[..., None])[..., 0] / math.sqrt(dim), -1)
            outputs.append((weights[..., None, :] @ values)[..., 0, :])
            if place == spec.chunk - 1:
                summaries.append((turned(key, chunk), value))
        return layer.out(torch.sigmoid(z) * torch.stack(outputs, 1).flatten(-2))

    @pytest.mark.parametrize(("chunk", "groups"), [(1, 1), (2, 2), (5, 2), (8, 4), (64, 1)])
    def test_the_layer(self, chunk: int, groups: int) -> None:
        layer = build(mn.zoo.rat(chunk=chunk, groups=groups), heads=4)
        x = randn(B, T, WIDTH)
        assert_same(layer(x)[0], self.literally(layer, x))

    def test_one_chunk_is_a_gated_recurrent_network(self) -> None:
        """The softmax is over a single entry: queries and keys do not matter."""
        layer = build(RecurrentChunks(chunk=T))
        x = randn(B, T, WIDTH)
        z, v, g, _, _ = layer.project(x).split(layer.sizes, -1)
        gate, h, outputs = torch.sigmoid(g + layer.gate_bias), torch.zeros(B, WIDTH, dtype=torch.float64), []
        for t in range(T):
            h = gate[:, t] * h + (1 - gate[:, t]) * v[:, t]
            outputs.append(torch.sigmoid(z[:, t]) * h)
        assert_same(layer(x)[0], layer.out(torch.stack(outputs, 1)))

    def test_chunks_of_a_token_without_gates_are_softmax_attention(self) -> None:
        layer = build(RecurrentChunks(chunk=1, groups=H))
        with torch.no_grad():
            layer.gate_bias.fill_(-1e4)
        x = randn(B, T, WIDTH)
        z, v, _, q, k = layer.project(x).split(layer.sizes, -1)
        attention = mn.KVMemory(read=mn.Softmax(rotary=10000.0))
        o, _ = mn.run(attention, by_head(q), by_head(k), by_head(v))
        assert_same(layer(x)[0], layer.out(torch.sigmoid(z) * o.flatten(-2)))

    @pytest.mark.parametrize(("biases", "heard"), [(-1e4, {3}), (1e4, set())])
    def test_a_chunk_is_only_heard_through_its_last_state(self, biases: float, heard: set[int]) -> None:
        """Gates of 0: later chunks hear the last token alone. Gates of 1: nothing is ever written."""
        layer = build(RecurrentChunks(chunk=4))
        with torch.no_grad():
            layer.gate_bias.fill_(biases)
        x = randn(1, 8, WIDTH).requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x)[0][:, 6].square().sum(), x)
        assert {t for t in range(4) if gradient[0, t].any()} == heard

    @staticmethod
    def gates_by_channel_0(gates: list[float]) -> tuple[Any, Tensor]:
        """A layer of two chunks whose gates are what is given, for the tokens of the first, and half elsewhere."""
        layer = build(RecurrentChunks(chunk=4))
        x = randn(1, 8, WIDTH)
        with torch.no_grad():
            layer.project.weight[:, 0] = 0
            layer.project.weight[2 * WIDTH : 3 * WIDTH] = 0
            layer.project.weight[2 * WIDTH : 3 * WIDTH, 0] = 1
            layer.gate_bias.zero_()
            x[0, :, 0] = torch.logit(torch.tensor([*gates, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)).clamp(-1e4, 1e4)
        return layer, x

    def test_a_last_gate_of_zero_leaves_the_last_token_alone(self) -> None:
        for last, heard in ((0.0, {3}), (0.5, {0, 1, 2, 3})):
            layer, x = self.gates_by_channel_0([0.5, 0.5, 0.5, last])
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(layer(x)[0][:, 6].square().sum(), x)
            assert {t for t in range(4) if gradient[0, t].any()} == heard

    def test_gates_of_one_freeze_the_summary(self) -> None:
        """Later chunks hear what it was at the last gate below one: other tokens behind that are all the same."""
        layer, x = self.gates_by_channel_0([0.5, 0.3, 1.0, 1.0])
        y, state = layer(x)
        other = x.clone()
        other[:, 2:4, 1:] = randn(1, 2, WIDTH - 1)
        assert_same(layer(other)[0][:, 4:], y[:, 4:])
        _, early = layer(x[:, :2])
        value = early["running"][..., WIDTH // H :]
        assert_same(state["values"][:, 0], value)
        other[:, 1, 1:] = randn(1, WIDTH - 1)
        assert float((layer(other)[0][:, 4:] - y[:, 4:]).detach().abs().max()) > 1e-3

    def test_the_cache_holds_one_entry_a_chunk(self) -> None:
        layer = build(mn.zoo.rat(chunk=5))
        for time in (0, 1, 4, 5, 9, 10, 23):
            _, state = layer(randn(B, time, WIDTH))
            assert state["keys"].shape == (B, time // 5, H, WIDTH // H)
        with torch.no_grad():
            state = layer.init_state(B)
            for _ in range(23):
                _, state = layer(randn(B, 1, WIDTH), state)
        assert state["keys"].shape[1] == 4 and state["slot"].tolist() == [[1, 2, 3, 4]] * B

    def test_without_queries_summaries_are_averaged(self) -> None:
        layer = build(RecurrentChunks(chunk=4, rotary=None))
        with torch.no_grad():
            layer.project.weight[3 * WIDTH : 3 * WIDTH + layer.sizes[3]] = 0
            layer.out.weight.copy_(torch.eye(WIDTH))
        x = randn(B, 12, WIDTH)
        z, v, g, _, _ = layer.project(x).split(layer.sizes, -1)
        gate, h, summaries = torch.sigmoid(g + layer.gate_bias), torch.zeros(B, WIDTH, dtype=torch.float64), []
        for t in range(12):
            h = (1 - gate[:, t]) * v[:, t] + (gate[:, t] * h if t % 4 else 0)
            if t % 4 == 3:
                summaries.append(h)
        mean = torch.stack(summaries).mean(0)
        assert_same(layer(x)[0][:, -1], torch.sigmoid(z[:, -1]) * mean)

    def test_gates_start_with_a_memory_of_up_to_a_chunk(self) -> None:
        gate = torch.sigmoid(mn.zoo.rat(chunk=16).build(256, 2).gate_bias.detach())
        assert 0.5 <= float(gate.min()) <= float(gate.max()) <= 15 / 16 + 1e-6 and float(gate.max()) > 0.9


def test_prefix_softmax_is_a_rule_for_coupled_layers_only() -> None:
    with pytest.raises(InvalidType, match="decay= takes a CoupledDecay"):
        Coupled(Sigmoid())  # pyright: ignore[reportArgumentType]
    assert Coupled(PrefixSoftmax()).kept == Coupled(LowerBounded()).kept
