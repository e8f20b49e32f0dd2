"""Diagonal plus low rank transitions (RWKV-7, arXiv 2503.14456), and several delta steps a token (DeltaProduct)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.layers import TimeMixingLayer
from mnemos.lowering import run_rows
from mnemos.memory import DPLR, Controls, Retention

B, T, H, K, V = 2, 37, 2, 4, 3
RWKV = mn.Memory(mn.Matrix(), mn.Dot(), DPLR(), mn.GD(rate=1.0))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def unit(*shape: int) -> Tensor:
    return F.normalize(normal(*shape), dim=-1)


def tokens(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, time, H, K), normal(B, time, H, K), normal(B, time, H, V)


def rwkv_controls(time: int = T) -> dict[str, Tensor]:
    u = unit(B, time, H, K)
    return {"decay": 0.545 + 0.455 * uniform(B, time, H, K), "removal": u, "replacement": uniform(B, time, H, K) * u}


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def literal(q: Tensor, k: Tensor, v: Tensor, controls: Controls) -> Tensor:
    """S_t = S_t-1 (Diag(w) - u b^T) + v k^T by whole transition matrices, one head and token at a time."""
    out = torch.zeros(*v.shape, dtype=torch.float64)
    for b in range(v.shape[0]):
        for h in range(v.shape[2]):
            state = torch.zeros(v.shape[3], k.shape[3], dtype=torch.float64)
            for t in range(v.shape[1]):
                w, u, r = (controls[name][b, t, h] for name in ("decay", "removal", "replacement"))
                state = state @ (torch.diag(w) - torch.outer(u, r)) + torch.outer(v[b, t, h], k[b, t, h])
                out[b, t, h] = state @ q[b, t, h]
    return out


@pytest.mark.parametrize("plan", ["triangular removal", "loop", "reference"])
def test_the_recurrence_with_whole_transition_matrices(plan: str) -> None:
    q, k, v = tokens()
    controls = rwkv_controls()
    assert_same(mn.run(RWKV, q, k, v, controls, plan=plan)[0], literal(q, k, v, controls))


def test_long_sequences_run_in_chunks() -> None:
    plan = mn.MemoryLayer(RWKV, width=16, heads=2).plan(64)
    assert plan.executor.name in ("compiled recurrence", "triangular removal")


def test_one_decay_and_one_rate_for_all_channels_is_gated_deltanet() -> None:
    """S (c I - c b u u^T) + v (b u)^T is the decay c, then a delta step of rate b with the key u."""
    q, _, v = tokens()
    u, decay, rate = unit(B, T, H, K), uniform(B, T, H), uniform(B, T, H)
    channels = decay[..., None].expand(-1, -1, -1, K)
    controls = {"decay": channels, "removal": u, "replacement": channels * rate[..., None] * u}
    one, _ = mn.run(RWKV, q, u * rate[..., None], v, controls)
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="head"), mn.GD())
    other, _ = mn.run(delta, q, u, v, {"rate": rate, "decay": decay})
    assert_same(one, other)


def test_a_decay_per_channel_before_the_delta_step() -> None:
    """S Diag(w) (I - b u u^T) + b v u^T: removal w * u, because what is removed is read before the decay."""
    q, _, v = tokens()
    u, decay, rate = unit(B, T, H, K), uniform(B, T, H, K), uniform(B, T, H)
    controls = {"decay": decay, "removal": decay * u, "replacement": rate[..., None] * u}
    one, _ = mn.run(RWKV, q, u * rate[..., None], v, controls)
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="channel"), mn.GD())
    other, _ = mn.run(delta, q, u, v, {"rate": rate, "decay": decay})
    assert_same(one, other)


def test_nothing_removed_is_gated_linear_attention() -> None:
    q, k, v = tokens()
    controls = rwkv_controls() | {"removal": torch.zeros(B, T, H, K, dtype=torch.float64)}
    gla = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel"), mn.GD(rate=1.0))
    assert_same(mn.run(RWKV, q, k, v, controls)[0], mn.run(gla, q, k, v, {"decay": controls["decay"]})[0])


def test_decays_of_zero_and_equal_directions() -> None:
    """A token of decay 0 without removal erases everything before it, exactly; the same direction over and over, and
    decays that multiply to less than the smallest number, leave all numbers finite and right."""
    q, k, v = tokens()
    u = unit(1, 1, 1, K).expand(B, T, H, K)
    tiny = torch.full((B, T, H, K), 1e-30, dtype=torch.float64)
    controls = {"decay": torch.where(uniform(B, T, H, K) < 0.5, 1.0, tiny), "removal": u, "replacement": u}
    controls["decay"][:, 20], controls["removal"] = 0.0, u.clone()
    controls["removal"][:, 20] = 0.0
    out, state = mn.run(RWKV, q, k, v, controls, plan="triangular removal")
    assert_same(out, literal(q, k, v, controls))
    later, after = mn.run(RWKV, q[:, 20:], k[:, 20:], v[:, 20:], {n: c[:, 20:] for n, c in controls.items()})
    assert_same(out[:, 20:], later)
    assert_same(state["matrix"], after["matrix"])


def test_replacing_all_that_is_read_empties_the_direction() -> None:
    """Decay 1, removal = replacement = u: after the token S u = v k^T u, whatever was there."""
    q, k, v = tokens(1)
    u = unit(B, 1, H, K)
    controls = {"decay": torch.ones(B, 1, H, K, dtype=torch.float64), "removal": u, "replacement": u}
    start = {"matrix": normal(H, V, K)}
    _, state = mn.run(RWKV.replace(structure=mn.Matrix(learned=True)), q, k, v, controls, start)
    left = state["matrix"] - v[:, 0, :, :, None] * k[:, 0, :, None]
    assert_same((left @ u[:, 0, :, :, None]).squeeze(-1), torch.zeros(B, H, V, dtype=torch.float64))
    assert float(left.abs().max()) > 0.1


def test_time_mixing_is_the_papers_equations() -> None:
    """The whole layer, token by token, from the paper's equations 3 to 22."""
    torch.manual_seed(3)
    width, heads = 16, 2
    size = width // heads
    layer = mn.zoo.rwkv7(rank=5, gate_rank=6).build(width, heads).double()
    assert isinstance(layer, TimeMixingLayer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = normal(1, 9, width)
    y, _ = layer(x)

    def low_rank(name: str, z: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
        weights = dict(layer.get_submodule(name).named_parameters())
        return weights["2.weight"] @ between(weights["0.weight"] @ z) + weights.get("2.bias", 0.0)

    state, before = torch.zeros(heads, size, size, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    mu_r, mu_k, mu_v, mu_w, mu_a, mu_g = layer.blend
    for t in range(9):
        now = x[0, t]
        blended = [now + (before - now) * mu for mu in (mu_r, mu_k, mu_v, mu_w, mu_a, mu_g)]
        before = now
        r, k, v = (m.weight @ z for m, z in zip((layer.receptance, layer.key, layer.value), blended[:3], strict=True))
        w = torch.exp(-math.exp(-0.5) / (1 + torch.exp(-low_rank("decay", blended[3], torch.tanh))))
        a = 1 / (1 + torch.exp(-low_rank("rate", blended[4], lambda z: z)))
        g = low_rank("gate", blended[5], torch.sigmoid)
        kappa, kept = k * layer.removal_scale, k * (1 + (a - 1) * layer.replacement_share)
        p = torch.zeros(width, dtype=torch.float64)
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            u = kappa[own] / kappa[own].norm()
            state_h = state[h] @ (torch.diag(w[own]) - torch.outer(u, a[own] * u)) + torch.outer(v[own], kept[own])
            state = torch.cat([state[:h], state_h[None], state[h + 1 :]])
            o = state_h @ r[own]
            normed = (o - o.mean()) / torch.sqrt(o.var(unbiased=False) + 64e-5)
            p[own] = normed * layer.norm_gain[own] + layer.norm_bias[own]
            p[own] += (r[own] @ (layer.bonus[own] * kept[own])) * v[own]
        assert_same(y[0, t], layer.out.weight @ (p * g), 1e-9)


# DeltaProduct


def products(n: int, retention: Retention | None = None) -> mn.Memory:
    return mn.Memory(mn.Matrix(learned=True), mn.L2(), retention or mn.Keep(), mn.GD(steps=n))


@pytest.mark.parametrize("gated", [False, True])
def test_a_token_is_a_product_of_householders(gated: bool) -> None:
    """M_t = decay M_t-1 prod_i (I - b_i k_i k_i^T) + sum_j b_j v_j k_j^T prod_i>j (I - b_i k_i k_i^T)."""
    n, time = 3, 11
    memory = products(n, mn.Decay(per="head") if gated else None)
    q, v = normal(B, time, H, K), normal(B, time, H, n, V)
    k, rate, decay = unit(B, time, H, n, K), 2 * uniform(B, time, H, n), uniform(B, time, H)
    start = normal(H, V, K)
    controls = {"rate": rate} | ({"decay": decay} if gated else {})
    out, state = mn.run(memory, q, k.flatten(-2), v.flatten(-2), controls, {"matrix": start})
    eye = torch.eye(K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            m = start[h]
            for t in range(time):
                factors = [eye - rate[b, t, h, i] * torch.outer(k[b, t, h, i], k[b, t, h, i]) for i in range(n)]
                m = m * (decay[b, t, h] if gated else 1.0) @ torch.linalg.multi_dot(factors)
                for j in range(n):
                    written = rate[b, t, h, j] * torch.outer(v[b, t, h, j], k[b, t, h, j])
                    for factor in factors[j + 1 :]:
                        written = written @ factor
                    m = m + written
                assert_same(m @ q[b, t, h], out[b, t, h])
            assert_same(state["matrix"][b, h], m)


def test_one_step_is_deltanet() -> None:
    x = normal(2, 20, 32)
    for several, one in (
        (mn.zoo.deltaproduct(steps=1, negative=False), mn.zoo.deltanet()),
        (mn.zoo.gated_deltaproduct(steps=1, negative=False), mn.zoo.gated_deltanet()),
    ):
        torch.manual_seed(1)
        layer = mn.MemoryLayer(several, width=32, heads=2).double()
        torch.manual_seed(1)
        other = mn.MemoryLayer(one, width=32, heads=2).double()
        assert_same(layer(x)[0], other(x)[0])


def test_rates_of_two_reflect_and_keep_all_lengths() -> None:
    """With v = 0 a rate of 2 multiplies M by a reflection I - 2 k k^T: its singular values stay, one reflection
    turns the sign of its determinant, and two along one key are nothing."""
    q, zero = normal(1, 1, 1, K), torch.zeros(1, 1, 1, 2 * K, dtype=torch.float64)
    k = unit(1, 1, 1, 2, K)
    start = normal(1, K, K)
    twice = torch.full((1, 1, 1, 2), 2.0, dtype=torch.float64)
    _, state = mn.run(products(2), q, k.flatten(-2), zero, {"rate": twice}, {"matrix": start})
    assert_same(torch.linalg.svdvals(state["matrix"][0, 0]), torch.linalg.svdvals(start[0]))
    one = mn.Memory(mn.Matrix(learned=True), mn.L2(), mn.Keep(), mn.GD())
    _, flipped = mn.run(one, q, k[:, :, :, 0], zero[..., :K], {"rate": twice[..., 0]}, {"matrix": start})
    assert_same(torch.linalg.det(flipped["matrix"][0, 0]), -torch.linalg.det(start[0]))
    again = torch.cat([k[:, :, :, 0], k[:, :, :, 0]], -1)
    _, state = mn.run(products(2), q, again, zero, {"rate": twice}, {"matrix": start})
    assert_same(state["matrix"][0], start)


def test_two_reflections_are_a_rotation() -> None:
    """What one step cannot do: n tokens of two reflections each turn a plane by n times twice the keys' angle."""
    angle, time = 0.3, 7
    k = torch.zeros(1, time, 1, 2, K, dtype=torch.float64)
    k[..., 0, 0], k[..., 1, 0], k[..., 1, 1] = 1.0, math.cos(angle), math.sin(angle)
    start = torch.eye(K, dtype=torch.float64)[None]
    zero = torch.zeros(1, time, 1, 2 * K, dtype=torch.float64)
    rate = torch.full((1, time, 1, 2), 2.0, dtype=torch.float64)
    _, state = mn.run(products(2), normal(1, time, 1, K), k.flatten(-2), zero, {"rate": rate}, {"matrix": start})
    turned = state["matrix"][0, 0][:2, :2]
    assert_same(turned[0, 0], torch.tensor(math.cos(2 * angle * time), dtype=torch.float64))
    assert_same(turned[0, 1].abs(), torch.tensor(math.sin(2 * angle * time), dtype=torch.float64).abs())


def test_rates_reach_two_only_where_asked() -> None:
    def highest(spec: mn.LayerSpec) -> float:
        return dict(spec.controls)["rate"].bounds[1]

    assert highest(mn.zoo.deltaproduct()) == 2.0
    assert highest(mn.zoo.deltaproduct(negative=False)) == 1.0


def test_a_layer_brings_several_pairs_and_runs_them_in_chunks() -> None:
    layer = mn.MemoryLayer(mn.zoo.gated_deltaproduct(steps=3), width=32, heads=2)
    assert layer.sizes == [32, 96, 96]
    parallel = ("steps as tokens: compiled recurrence", "steps as tokens: triangular delta")
    assert layer.plan(64).executor.name in parallel
    q = torch.randn(1, 5, 2, 16)
    out, _ = run_rows(
        layer.memory,
        q,
        torch.randn(1, 5, 2, 48),
        torch.randn(1, 5, 2, 48),
        {"rate": torch.rand(1, 5, 2, 3), "decay": torch.rand(1, 5, 2)},
        layer.memory.init(1, 2, 16, 16),
    )
    assert out.shape == (1, 5, 2, 16)
