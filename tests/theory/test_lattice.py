"""Where one memory contains another, and closed forms that some of them have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.layers import Polynomial

B, T, H, K = 2, 37, 2, 4


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def keys_and_values(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    shape = (B, time, H, K)
    return torch.randn(shape, dtype=torch.float64), unit(*shape), torch.randn(shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def assert_different(one: Tensor, other: Tensor) -> None:
    assert float((one - other).detach().abs().max()) > 1e-3


LINEAR = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0))
RETENTION = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="head"), mn.GD(rate=1.0))
GLA = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD(rate=1.0))
DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD())
GATED_DELTA = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="head"), mn.GD())
TITANS = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="head"), mn.GD(momentum=True, anchor="previous"))

EVERY_DECAY = [
    mn.Memory(mn.Matrix(), objective, mn.Decay(per="head"), mn.GD(momentum=momentum, anchor=anchor))
    for objective in (mn.Dot(), mn.L2(), mn.Huber(0.5))
    for momentum in (False, True)
    for anchor in ("retained", "previous", mn.Chunk(4))
]


def some_controls(memory: mn.Memory, **given: Tensor) -> dict[str, Tensor]:
    return {c.name: given.get(c.name, 0.7 + 0.3 * uniform(B, T, H)) for c in memory.controls}


def test_gated_deltanet_without_decay_is_deltanet() -> None:
    q, k, v = keys_and_values()
    rate = uniform(B, T, H)
    one, _ = mn.run(GATED_DELTA, q, k, v, {"rate": rate, "decay": ones(B, T, H)})
    other, _ = mn.run(DELTA, q, k, v, {"rate": rate})
    assert_same(one, other)


def test_gla_without_decay_is_linear_attention() -> None:
    q, k, v = keys_and_values()
    one, _ = mn.run(GLA, q, k, v, {"decay": ones(B, T, H, K)})
    other, _ = mn.run(LINEAR, q, k, v)
    assert_same(one, other)
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    assert_same(other, torch.einsum("bhts,bshv->bthv", scores, v))


def test_titans_without_momentum_and_decay_is_deltanet() -> None:
    q, k, v = keys_and_values()
    rate = uniform(B, T, H)
    controls = {"rate": rate, "decay": ones(B, T, H), "momentum": torch.zeros(B, T, H, dtype=torch.float64)}
    one, _ = mn.run(TITANS, q, k, v, controls)
    other, _ = mn.run(DELTA, q, k, v, {"rate": rate})
    assert_same(one, other)


@pytest.mark.parametrize("memory", EVERY_DECAY, ids=str)
def test_decay_equal_in_all_channels_is_decay_per_head(memory: mn.Memory) -> None:
    q, k, v = keys_and_values()
    controls = some_controls(memory)
    channels = memory.replace(retention=mn.Decay(per="channel"))
    by_channel = controls | {"decay": controls["decay"][..., None].expand(-1, -1, -1, K)}
    assert_same(mn.run(memory, q, k, v, controls)[0], mn.run(channels, q, k, v, by_channel)[0], 1e-9)


@pytest.mark.parametrize("memory", EVERY_DECAY, ids=str)
def test_decay_of_one_is_no_decay(memory: mn.Memory) -> None:
    q, k, v = keys_and_values()
    controls = some_controls(memory, decay=ones(B, T, H))
    kept = memory.replace(retention=mn.Keep())
    without = {name: value for name, value in controls.items() if name != "decay"}
    assert_same(mn.run(memory, q, k, v, controls)[0], mn.run(kept, q, k, v, without)[0], 1e-9)


@pytest.mark.parametrize("memory", [m for m in EVERY_DECAY if m.learner.momentum], ids=str)
def test_momentum_of_zero_is_no_momentum(memory: mn.Memory) -> None:
    q, k, v = keys_and_values()
    controls = some_controls(memory, momentum=torch.zeros(B, T, H, dtype=torch.float64))
    plain = memory.replace(learner=memory.learner.replace(momentum=False))
    without = {name: value for name, value in controls.items() if name != "momentum"}
    assert_same(mn.run(memory, q, k, v, controls)[0], mn.run(plain, q, k, v, without)[0], 1e-9)


@pytest.mark.parametrize("structure", [mn.Matrix(learned=True), mn.MLP(depth=2, expansion=2)], ids=str)
@pytest.mark.parametrize("momentum", [False, True])
def test_a_chunk_of_one_token_is_the_previous_anchor(structure: mn.Matrix | mn.MLP, momentum: bool) -> None:
    q, k, v = keys_and_values()
    previous = mn.Memory(structure, mn.L2(), mn.Decay(), mn.GD(momentum=momentum, anchor="previous"))
    chunk = previous.replace(learner=mn.GD(momentum=momentum, anchor=mn.Chunk(1)))
    weights = {n: w.double() for n, w in previous.initial_weights(H, K, K).items()}
    controls = some_controls(previous, rate=0.2 * uniform(B, T, H))
    one, _ = mn.run(chunk, q, k, v, controls, weights)
    other, _ = mn.run(previous, q, k, v, controls, weights)
    assert_same(one, other, 1e-9)
    longer = previous.replace(learner=mn.GD(momentum=momentum, anchor=mn.Chunk(4)))
    assert_different(mn.run(longer, q, k, v, controls, weights)[0], other)


def test_warm_and_cold_start_differ_by_what_was_forgotten() -> None:
    """Gradient before forgetting (Titans) against after (Gated DeltaNet): the one step from the same M' differs by
    exactly -rate (1 - decay) M' k k^T, so it is the same step only where nothing is forgotten."""
    cold = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(anchor="previous"))
    start = {"matrix": torch.randn(H, K, K, dtype=torch.float64)}
    q, k, v = keys_and_values(1)
    rate, decay = uniform(B, 1, H), uniform(B, 1, H)
    controls = {"rate": rate, "decay": decay}
    after_cold = mn.run(cold, q, k, v, controls, start)[1]["matrix"]
    after_warm = mn.run(GATED_DELTA, q, k, v, controls, start)[1]["matrix"]
    key = k[:, 0]
    asked = torch.einsum("hvk,bhk->bhv", start["matrix"], key)
    difference = -(rate * (1 - decay))[:, 0, :, None, None] * asked[..., :, None] * key[..., None, :]
    assert_same(after_cold - after_warm, difference)
    controls["decay"] = ones(B, 1, H)
    assert_same(mn.run(cold, q, k, v, controls, start)[0], mn.run(GATED_DELTA, q, k, v, controls, start)[0])


def test_a_forgetful_titans_still_sees_what_it_forgets() -> None:
    """Decay 0 and no momentum: M_t = -rate grad l(M_t-1), which depends on M_t-1; Gated DeltaNet's is rate v k^T."""
    cold = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(anchor="previous"))
    q, k, v = keys_and_values(1)
    start = {"matrix": torch.randn(H, K, K, dtype=torch.float64)}
    rate = uniform(B, 1, H)
    controls = {"rate": rate, "decay": torch.zeros(B, 1, H, dtype=torch.float64)}
    written = rate[:, 0, :, None, None] * v[:, 0, :, :, None] * k[:, 0, :, None, :]
    assert_same(mn.run(GATED_DELTA, q, k, v, controls, start)[1]["matrix"], written)
    residual = torch.einsum("hvk,bhk->bhv", start["matrix"], k[:, 0]) - v[:, 0]
    expected = -rate[:, 0, :, None, None] * residual[..., None] * k[:, 0, :, None, :]
    assert_same(mn.run(cold, q, k, v, controls, start)[1]["matrix"], expected)


def test_small_steps_of_the_delta_rule_are_linear_attention() -> None:
    q, k, v = keys_and_values()
    small = 1e-7
    one, _ = mn.run(DELTA, q, k, v, {"rate": torch.full((B, T, H), small, dtype=torch.float64)})
    other, _ = mn.run(LINEAR, q, k, v)
    assert_same(one / small, other, 1e-4)


def test_gradients_at_a_frozen_zero_are_linear_attention() -> None:
    """L2 with one chunk over the whole sequence: every residual is -v."""
    q, k, v = keys_and_values()
    frozen = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0, anchor=mn.Chunk(T)))
    assert_same(mn.run(frozen, q, k, v)[0], mn.run(LINEAR, q, k, v)[0])


def test_full_steps_recall_orthonormal_keys_and_the_latest_value_wins() -> None:
    keys = torch.linalg.qr(torch.randn(K, K, dtype=torch.float64)).Q
    values = torch.randn(K + 1, K, dtype=torch.float64)
    written = torch.cat([keys, keys[:1]])[None, :, None]  # the first key is written again at the end
    rate = ones(1, K + 1, 1)
    _, state = mn.run(DELTA, written, written, values[None, :, None], {"rate": rate})
    recalled = DELTA.read(state, keys[None, :, None])[0, :, 0]
    assert_same(recalled[1:], values[1:K])
    assert_same(recalled[0], values[K])
    _, hebbian = mn.run(LINEAR, written, written, values[None, :, None])
    assert_same(LINEAR.read(hebbian, keys[None, :1, None])[0, 0, 0], values[0] + values[K])


@pytest.mark.parametrize("momentum", [False, True])
def test_a_rate_of_zero_only_forgets(momentum: bool) -> None:
    memory = mn.Memory(mn.Matrix(learned=True), mn.L2(), mn.Decay(), mn.GD(momentum=momentum, anchor="previous"))
    start = {"matrix": torch.randn(H, K, K, dtype=torch.float64)}
    controls = some_controls(memory, rate=torch.zeros(B, T, H, dtype=torch.float64))
    q, k, v = keys_and_values()
    out, state = mn.run(memory, q, k, v, controls, start)
    kept = controls["decay"].cumprod(1)
    assert_same(state["matrix"], kept[:, -1, :, None, None] * start["matrix"])
    assert_same(out, kept[..., None] * torch.einsum("hvk,bthk->bthv", start["matrix"], q))


def test_a_gated_delta_rule_with_a_rate_of_zero_only_forgets() -> None:
    start = {"matrix": torch.randn(H, K, K, dtype=torch.float64)}
    q, k, v = keys_and_values()
    decay = uniform(B, T, H)
    out, _ = mn.run(GATED_DELTA, q, k, v, {"rate": torch.zeros_like(decay), "decay": decay}, start)
    kept = decay.cumprod(1)[..., None]
    assert_same(out, kept * torch.einsum("hvk,bthk->bthv", start["matrix"], q))


def test_a_rate_of_zero_goes_on_with_the_momentum_there_is() -> None:
    """M_t = b_t M_0 + f_t S_0 and S_t = m_t S_0, b and m the products of decays and momenta so far, f_t = sum_i b_t /
    b_i m_i: what is left of an earlier surprise is still being written."""
    q, k, v = keys_and_values()
    first, pushed = torch.randn(2, B, H, K, K, dtype=torch.float64)
    controls = {name: 0.5 + 0.5 * uniform(B, T, H) for name in ("decay", "momentum")}
    controls["rate"] = torch.zeros(B, T, H, dtype=torch.float64)
    state = TITANS.init(B, H, K, K, None, torch.float64)
    state = state.successor(**state.entries | {"matrix": first, "momentum.matrix": pushed})
    out, last = mn.run(TITANS, q, k, v, controls, state=state)
    share = controls["momentum"].cumprod(1)
    for t in range(T):
        kept = controls["decay"][:, : t + 1].prod(1)
        going = sum(controls["decay"][:, i + 1 : t + 1].prod(1) * share[:, i] for i in range(t + 1))
        matrix = kept[..., None, None] * first + going[..., None, None] * pushed
        assert_same(out[:, t], torch.einsum("bhvk,bhk->bhv", matrix, q[:, t]))
    assert_same(last["matrix"], matrix)
    assert_same(last["momentum.matrix"], share[:, -1, :, None, None] * pushed)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("memory", [GLA, RETENTION], ids=str)
def test_gradients_by_decays_are_sums_of_those_by_queries_and_keys(memory: mn.Memory, zeros: bool) -> None:
    """d / d log a_t = sum_{s >= t} (q_s * dq_s - k_s * dk_s) + what the last state brings, per key channel; for one
    decay a head its sum, sum_{s >= t} (o_s . do_s - v_s . dv_s)."""
    q, k, v = (x.requires_grad_() for x in keys_and_values())
    decay = 0.2 + 0.8 * uniform(B, T, H, *([K] if memory is GLA else []))
    decay[0, 5::11] *= not zeros
    decay.requires_grad_()
    out, state = mn.run(memory, q, k, v, {"decay": decay})
    by_out, by_state = torch.randn_like(out), torch.randn_like(state["matrix"])
    loss = (out * by_out).sum() + (state["matrix"] * by_state).sum()
    dq, dk, dv, by_decay = torch.autograd.grad(loss, (q, k, v, decay))
    last = (state["matrix"] * by_state).sum(-2)[:, None]

    def from_here_on(x: Tensor) -> Tensor:
        return x.flip(1).cumsum(1).flip(1)

    channels = from_here_on(q * dq - k * dk) + last
    assert_same(decay * by_decay, channels if memory is GLA else channels.sum(-1), 1e-10)
    assert_same(from_here_on((out * by_out).sum(-1) - (v * dv).sum(-1)) + last.sum(-1), channels.sum(-1), 1e-10)


def test_after_a_decay_of_zero_nothing_before_it_is_known() -> None:
    q, k, v = keys_and_values()
    decay = uniform(B, T, H, K)
    decay[:, 20] = 0
    whole, _ = mn.run(GLA, q, k, v, {"decay": decay})
    later, _ = mn.run(GLA, q[:, 20:], k[:, 20:], v[:, 20:], {"decay": decay[:, 20:]})
    assert_same(whole[:, 20:], later)


def test_retention_without_rotation_in_closed_form() -> None:
    """o_t = sum_s g^(t-s) (q_t . k_s) v_s."""
    q, k, v = keys_and_values()
    factor = 1 - torch.exp2(-5 - torch.arange(H, dtype=torch.float64))
    out, _ = mn.run(RETENTION, q, k, v, {"decay": factor.expand(B, T, H)})
    distance = torch.arange(T)[:, None] - torch.arange(T)
    weight = torch.where(distance >= 0, factor[:, None, None] ** distance.clamp(min=0), 0.0)
    scores = torch.einsum("bthk,bshk->bhts", q, k) * weight
    assert_same(out, torch.einsum("bhts,bshv->bthv", scores, v))


def test_retnet_sees_relative_positions_only() -> None:
    """Shifting all positions by a constant changes nothing; the decays are those of the paper."""
    layer = mn.MemoryLayer(mn.zoo.retnet(), width=16, heads=2).double()
    decay = layer.controls["decay"](torch.zeros(1, 3, 16))
    assert torch.equal(decay, torch.tensor([1 - 2**-5, 1 - 2**-6]).expand(1, 3, 2))
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    y, _ = layer(x)
    start = layer.init_state(2)
    shifted, _ = layer(x, start.successor(**start.entries | {"count": start["count"] + 1000}))
    assert_same(shifted, y, 1e-9)


class TestLinearAttention:
    """The normalised form of Katharopoulos and others."""

    @staticmethod
    def layer() -> mn.MemoryLayer:
        return mn.MemoryLayer(mn.zoo.linear_attention(), width=8, heads=2).double()

    def test_in_closed_form(self) -> None:
        layer = self.layer()
        x = torch.randn(2, 19, 8, dtype=torch.float64)
        q, k, v = (y.unflatten(-1, (2, 4)) for y in layer.project(x).split(8, -1))
        q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
        scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
        weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
        out = torch.einsum("bhts,bshv->bthv", weights, v)
        assert_same(layer(x)[0], layer.out(out.flatten(-2)))

    def test_constant_values_are_given_back(self) -> None:
        """The weights sum to one, so that a constant comes out as it is."""
        layer = self.layer()
        with torch.no_grad():
            layer.project.weight[-8:] = 0  # no value from the input ...
            layer.project.weight[-8:, 0] = torch.arange(8.0)  # ... but from a channel that is constant
        x = torch.randn(2, 19, 8, dtype=torch.float64)
        x[..., 0] = 1
        y, _ = layer(x)
        assert_same(y, layer.out(torch.arange(8.0, dtype=torch.float64)).expand_as(y), 1e-5)

    def test_constant_keys_are_a_running_mean(self) -> None:
        layer = self.layer()
        with torch.no_grad():
            layer.project.weight[8:16] = 0
        x = torch.randn(2, 19, 8, dtype=torch.float64)
        mean = layer.project(x)[..., 16:].cumsum(1) / torch.arange(1, 20, dtype=torch.float64)[:, None]
        assert_same(layer(x)[0], layer.out(mean), 1e-5)

    def test_the_features_of_the_exponential_are_softmax_attention(self) -> None:
        """Polynomials of high degree, sum_i (q . k)^i / i!, come to exp(q . k)."""
        x, off = torch.randn(2, 19, 8, dtype=torch.float64), []
        for degree in (2, 20):
            features = Polynomial(tuple(1 / math.factorial(i) for i in range(degree + 1)))
            spec = mn.LayerSpec(LINEAR, keys=features, norm="sum", key_expand=0.5)
            torch.manual_seed(0)
            layer = mn.MemoryLayer(spec, width=8, heads=2).double()
            q, k, v = (y.unflatten(-1, (2, -1)).transpose(1, 2) for y in layer.project(x).split([4, 4, 8], -1))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
            expected = layer.out(out.transpose(1, 2).flatten(-2))
            off.append(float((layer(x)[0] - expected).detach().abs().max()))
        assert off[0] > 1e-3 and off[1] < 1e-5

    def test_the_order_of_the_past_does_not_matter(self) -> None:
        layer = self.layer()
        x = torch.randn(2, 19, 8, dtype=torch.float64)
        mixed = torch.cat([x[:, torch.randperm(18)], x[:, 18:]], 1)
        assert_same(layer(mixed)[0][:, -1], layer(x)[0][:, -1])
        assert_different(layer(mixed)[0][:, 5], layer(x)[0][:, 5])


def test_huber_with_an_endless_threshold_is_l2() -> None:
    q, k, v = keys_and_values()
    for delta in (1e9, math.inf):
        huber = mn.Memory(mn.Matrix(), mn.Huber(delta), mn.Keep(), mn.GD())
        rate = uniform(B, T, H)
        assert_same(mn.run(huber, q, k, v, {"rate": rate})[0], mn.run(DELTA, q, k, v, {"rate": rate})[0])


def test_huber_writes_no_more_than_its_threshold() -> None:
    q, k, v = keys_and_values(1)
    huber = mn.Memory(mn.Matrix(), mn.Huber(0.1), mn.Keep(), mn.GD(rate=1.0))
    _, state = mn.run(huber, q, k, 1000 * v)
    sign = v[:, 0].sign()
    assert_same(state["matrix"], 0.1 * sign[..., :, None] * k[:, 0, :, None, :])


@pytest.mark.parametrize("objective", [mn.Dot(), mn.L2(), mn.Huber(0.7)], ids=str)
def test_slopes_are_derivatives_of_losses(objective: mn.Dot | mn.L2 | mn.Huber) -> None:
    prediction = torch.randn(50, K, dtype=torch.float64, requires_grad=True)
    value = torch.randn(50, K, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: objective.loss(p, value, {}), (prediction,))
    (by_autograd,) = torch.autograd.grad(objective.loss(prediction, value, {}).sum(), prediction)
    assert_same(objective.slope(prediction, value, {}), by_autograd)


NETWORKS = [
    mn.MLP(depth=depth, expansion=2, activation=activation, residual=residual, norm=norm)
    for depth in (1, 2, 3, 4)
    for activation in ("gelu", "silu", "relu")
    for residual in (True, False)
    for norm in (True, False)
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_pullbacks_are_derivatives_of_predictions(network: mn.MLP) -> None:
    value_dim = K if network.residual else K - 1
    weights = {n: w.double()[None].requires_grad_() for n, w in network.initial(H, K, value_dim, None).items()}
    x = torch.randn(B, H, 5, K, dtype=torch.float64)
    error = torch.randn(B, H, 5, value_dim, dtype=torch.float64)
    trace = network.trace(weights, x)
    assert_same(trace.prediction, network.forward(lambda name, h: h @ weights[name].mT, x))
    by_autograd = torch.autograd.grad((trace.prediction * error).sum(), list(weights.values()))
    outputs = trace.pullback(error)
    for name, gradient in zip(weights, by_autograd, strict=True):
        by_hand = (outputs[name].mT @ trace.inputs[name]).sum(0, keepdim=True)
        assert_same(by_hand, gradient)


@pytest.mark.parametrize("momentum", [False, True])
def test_the_dual_form_of_a_two_layer_memory_written_by_hand(momentum: bool) -> None:
    """One chunk of M(x) = W2 gelu(W1 x): gradients e_j at the chunk's start, then

    W_t = b_t W_0 - sum_j G_tj (error_j x_j^T),   G_tj = sum_k=j..t (b_t / b_k) rate_j prod_j<i<=k momentum_i
    """
    time = 8
    anchor = mn.Chunk(time)
    network = mn.MLP(depth=2, expansion=2, residual=False, norm=False)
    memory = mn.Memory(network, mn.L2(), mn.Decay(), mn.GD(momentum=momentum, anchor=anchor))
    q, k, v = (x[:1, :, :1] for x in keys_and_values(time))
    rate, decay, share = (0.5 + 0.5 * uniform(time) for _ in range(3))
    share = share if momentum else torch.zeros_like(share)
    controls = {n: x[None, :, None] for n, x in (("rate", rate), ("decay", decay), ("momentum", share))}
    controls = {c.name: controls[c.name] for c in memory.controls}
    weights = {n: w.double() for n, w in memory.initial_weights(1, K, K).items()}
    out, state = mn.run(memory, q, k, v, controls, weights)

    first, second = weights["layer1"][0], weights["layer2"][0]
    gelu = torch.nn.functional.gelu
    z = k[0, :, 0] @ first.T
    z.requires_grad_()
    hidden = gelu(z)
    error2 = (hidden @ second.T - v[0, :, 0]).detach()
    (error1,) = torch.autograd.grad((hidden * (error2 @ second)).sum(), z)
    hidden = hidden.detach()
    growth = torch.zeros(time, time, dtype=torch.float64)
    for t in range(time):
        for j in range(t + 1):
            for i in range(j, t + 1):
                growth[t, j] += decay[i + 1 : t + 1].prod() * rate[j] * share[j + 1 : i + 1].prod()
    for t in range(time):
        kept = decay[: t + 1].prod()
        w1 = kept * first - (growth[t, :, None] * error1).T @ k[0, :, 0]
        w2 = kept * second - (growth[t, :, None] * error2).T @ hidden
        assert_same(out[0, t, 0], w2 @ gelu(w1 @ q[0, t, 0]))
    assert_same(state["layer1"][0, 0], w1)
    assert_same(state["layer2"][0, 0], w2)


def test_reading_before_writing_is_reading_the_memory_of_the_token_before() -> None:
    q, k, v = keys_and_values()
    rate = uniform(B, T, H)
    before = DELTA.replace(read_timing="before")
    same_query = q[:, :1].expand_as(q)
    after, last = mn.run(DELTA, same_query, k, v, {"rate": rate})
    shifted, end = mn.run(before, same_query, k, v, {"rate": rate})
    assert_same(shifted[:, 1:], after[:, :-1])
    assert not shifted[:, 0].any()
    assert_same(last["matrix"], end["matrix"])
