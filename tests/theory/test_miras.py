"""The Miras family (arXiv 2504.13173): its objectives, its retentions as minimisers, and Moneta, Yaad and Memora."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.memory import (
    KL,
    Bregman,
    ElasticNet,
    ElasticNetDual,
    FDivergence,
    Lp,
    Lq,
    Objective,
    Retention,
    RobustShift,
)

B, T, H, K = 2, 37, 2, 4


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    one, other = one.detach(), other.detach()
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


def tokens(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    k = torch.nn.functional.normalize(randn(B, time, H, K), dim=-1)
    return randn(B, time, H, K), k, randn(B, time, H, K)


def ran(memory: mn.Memory, time: int = T, seed: int = 0, plan: str | None = None, **given: Tensor) -> Tensor:
    """Outputs of `memory` on the same random tokens every time; `given` are controls and q, k, v."""
    torch.manual_seed(seed)
    names = dict(zip("qkv", tokens(time), strict=True))
    defaults = {"rate": 0.3 * rand(B, time, H), "decay": 0.8 + 0.2 * rand(B, time, H)}
    controls = {c.name: given.get(c.name, defaults.get(c.name, torch.empty(0))) for c in memory.controls}
    q, k, v = (given.get(name, names[name]) for name in "qkv")
    weights = {n: w.double() for n, w in memory.initial_weights(H, K, K, torch.Generator().manual_seed(1)).items()}
    return mn.run(memory, q, k, v, controls, weights, plan=plan)[0]


def matrix(objective: Objective, retention: Retention | None = None, **learner: object) -> mn.Memory:
    return mn.Memory(mn.Matrix(), objective, retention or mn.Decay(), mn.GD(**({"anchor": "previous"} | learner)))  # pyright: ignore


# Objectives.

OBJECTIVES: dict[Objective, dict[str, Tensor]] = {
    Lp(1.0): {},
    Lp(1.5): {},
    Lp(1.5, smooth=0.1): {},
    Lp(2.0): {},
    Lp(3.0): {},
    Lp(3.5, smooth=0.01): {},
    mn.Huber(0.7): {},
    mn.Huber(None): {"delta": rand(50)},
    mn.Huber(1.5, form="norm"): {},
    mn.Huber(None, form="norm"): {"delta": 3 * rand(50)},
    mn.Huber(1.5, form="mixture"): {},
    mn.Huber(None, form="mixture"): {"delta": 3 * rand(50)},
    mn.Huber(1.5, form="mixture", smooth=0.1): {},
    RobustShift(0.4): {},
    RobustShift(None): {"radius": rand(50)},
}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_slopes_are_finite_differences_of_losses(objective: Objective) -> None:
    prediction, value, controls = randn(50, K), randn(50, K), OBJECTIVES[objective]
    slope = objective.slope(prediction, value, controls)
    assert slope.shape == (50, K) and objective.loss(prediction, value, controls).shape == (50,)
    for i in range(K):
        nudge = 1e-6 * torch.eye(K, dtype=torch.float64)[i]
        up, down = (objective.loss(prediction + sign * nudge, value, controls) for sign in (1, -1))
        assert_same(slope[:, i], (up - down) / 2e-6, 1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_coordinatewise_claim(objective: Objective) -> None:
    value, controls = randn(50, K), OBJECTIVES[objective]
    prediction = randn(50, K).requires_grad_()
    slope = objective.slope(prediction, value, controls)
    mixes = 0.0
    for i in range(K):
        (by,) = torch.autograd.grad(slope[:, i].sum(), prediction, retain_graph=True)
        by[:, i] = 0
        mixes = max(mixes, float(by.abs().max()))
    assert (mixes == 0) if objective.coordinatewise else (mixes > 0 or "mixture" in str(objective))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_nothing_to_learn_is_no_slope_and_a_finite_gradient(objective: Objective) -> None:
    """At r = 0, where some of them bend or break."""
    value, controls = randn(50, K), OBJECTIVES[objective]
    leaves = [value.clone().requires_grad_(), *(c.clone().requires_grad_() for c in controls.values())]
    slope = objective.slope(leaves[0], value, dict(zip(controls, leaves[1:], strict=True)))
    assert not slope.any()
    for gradient in torch.autograd.grad(slope.sum(), leaves, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


def test_the_first_power_stores_signs() -> None:
    r = randn(50, K)
    assert torch.equal(Lp(1.0).slope(r, torch.zeros_like(r), {}), r.sign())


def test_the_second_power_is_twice_l2() -> None:
    assert_same(ran(matrix(Lp(2.0))), ran(matrix(mn.L2()), rate=2 * _rate()))


def _rate() -> Tensor:
    torch.manual_seed(0)
    tokens()
    return 0.3 * rand(B, T, H)


def test_a_smooth_power_approaches_the_plain_one() -> None:
    r, zero = randn(50, K), torch.zeros(50, K, dtype=torch.float64)
    for p in (1.0, 1.5, 3.0):
        assert_same(Lp(p, smooth=1e-12).slope(r, zero, {}), Lp(p).slope(r, zero, {}), 1e-6)


@pytest.mark.parametrize("form", ["coordinate", "norm", "mixture"])
def test_huber_between_its_limits(form: str) -> None:
    r, zero = 3 * randn(50, K), torch.zeros(50, K, dtype=torch.float64)
    endless, control = mn.Huber(math.inf, form=form), mn.Huber(None, form=form)  # pyright: ignore
    assert_same(endless.slope(r, zero, {}), r)
    assert_same(endless.loss(r[:1] * 0, zero[:1], {}), torch.zeros(1, dtype=torch.float64))
    assert not control.slope(r, zero, {"delta": torch.zeros(50, dtype=torch.float64)}).any()
    half = torch.full((50,), 0.5, dtype=torch.float64)
    assert_same(control.slope(r, zero, {"delta": half}), mn.Huber(0.5, form=form).slope(r, zero, {}))  # pyright: ignore
    assert_same(ran(matrix(control), delta=torch.full((B, T, H), 1e6, dtype=torch.float64)), ran(matrix(mn.L2())))


def test_a_small_huber_is_the_first_power() -> None:
    small = 1e-6
    assert_same(
        mn.Huber(small).slope(randn(9, K) + 3, 0 * randn(9, K), {}) / small, torch.ones(9, K, dtype=torch.float64), 1e-9
    )


def test_the_norm_form_is_an_adaptive_rate() -> None:
    """r min(1, delta / |r|): one token of L2 at the rate min(1, delta / |r|)."""
    q, k, v = tokens(1)
    rate = rand(B, 1, H)
    delta = 0.5
    adapted = rate * (delta / v.norm(dim=-1)).clamp(max=1)
    given = {"q": q, "k": k, "v": v, "decay": torch.ones_like(rate)}
    one = ran(matrix(mn.Huber(delta, form="norm")), 1, rate=rate, **given)
    assert_same(one, ran(matrix(mn.L2()), 1, rate=adapted, **given))


def test_where_hubers_slopes_jump() -> None:
    """Through |r| = delta the coordinate and norm forms are continuous; the mixture's length jumps from delta to
    delta sqrt(channels)."""
    direction = torch.nn.functional.normalize(randn(K).abs() + 0.1, dim=0)
    below, above = ((1 + s * 1e-9) * direction[None] for s in (-1, 1))
    for form in ("coordinate", "norm", "mixture"):
        objective = mn.Huber(1.0, form=form)
        at = [objective.slope(r, torch.zeros_like(r), {}) for r in (below, above)]
        if form == "mixture":
            assert_same(at[0].norm(), torch.tensor(1.0).double(), 1e-8)
            assert_same(at[1].norm(), torch.tensor(math.sqrt(K)).double())
        else:
            assert_same(at[0], at[1], 1e-8)


@pytest.mark.parametrize("form", ["coordinate", "norm", "mixture"])
def test_an_outlier_writes_a_bounded_amount(form: str) -> None:
    q, k, v = tokens(1)
    memory = mn.Memory(mn.Matrix(), mn.Huber(0.1, form=form), mn.Keep(), mn.GD(rate=1.0))  # pyright: ignore
    near, far = (mn.run(memory, q, k, scale * v)[1]["matrix"] for scale in (1e3, 1e6))
    assert_same(near, far)
    bound = {"coordinate": 0.1 * math.sqrt(K), "norm": 0.1, "mixture": 0.1 * math.sqrt(K)}[form]
    assert_same(far.flatten(-2).norm(dim=-1), torch.full((B, H), bound, dtype=torch.float64))


def test_the_robust_loss_is_the_worst_case() -> None:
    """Sampled errors within the radius never exceed it, and e = -radius r / |r| attains it."""
    objective, radius = RobustShift(0.4, smooth=1e-20), 0.4
    r, zero = randn(20, K), torch.zeros(20, K, dtype=torch.float64)
    worst = objective.loss(r, zero, {})
    ball = torch.nn.functional.normalize(randn(2000, 1, K), dim=-1) * radius * rand(2000, 1, 1) ** (1 / K)
    sampled = 0.5 * (r - ball).square().sum(-1)
    assert (sampled <= worst).all() and (sampled.amax(0) > 0.8 * worst).all()
    attained = -radius * torch.nn.functional.normalize(r, dim=-1)
    assert_same(0.5 * (r - attained).square().sum(-1), worst)


def test_no_shift_is_l2() -> None:
    assert_same(ran(matrix(RobustShift(0.0))), ran(matrix(mn.L2())))
    assert_same(ran(matrix(RobustShift(None)), radius=torch.zeros(B, T, H, dtype=torch.float64)), ran(matrix(mn.L2())))


def test_a_robust_memory_swings_around_its_value() -> None:
    """On one pair again and again |r| settles at rate radius / (2 - rate)."""
    rate, radius, time = 0.5, 0.3, 60
    k = torch.nn.functional.normalize(randn(1, 1, 1, K), dim=-1).expand(1, time, 1, K)
    v = randn(1, 1, 1, K).expand(1, time, 1, K)
    memory = mn.Memory(mn.Matrix(), RobustShift(radius, smooth=1e-20), mn.Keep(), mn.GD(rate=rate))
    size = (mn.run(memory, k, k, v)[0] - v)[0, :, 0].norm(dim=-1)
    assert_same(size[-10:], torch.full((10,), rate * radius / (2 - rate), dtype=torch.float64), 1e-6)


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("objective", [Lp(1.5, smooth=0.01), mn.Huber(0.5, form="norm"), mn.Huber(0.5)], ids=str)
def test_forward_substitution_written_by_hand(objective: Objective, momentum: bool) -> None:
    """One token after another as the paper states it, against the algorithm that forms no weights per token."""
    memory = matrix(objective, momentum=momentum)
    q, k, v = tokens()
    rate, decay, share = 0.5 * rand(B, T, H), rand(B, T, H), rand(B, T, H)
    weight, pushed = (torch.zeros(B, H, K, K, dtype=torch.float64) for _ in range(2))
    expected = []
    for t in range(T):
        r = torch.einsum("bhvk,bhk->bhv", weight, k[:, t]) - v[:, t]
        if isinstance(objective, Lp):
            slope = 1.5 * r * (r * r + 0.01) ** -0.25
        elif objective.form == "norm":  # pyright: ignore
            slope = r * (0.5 / r.norm(dim=-1, keepdim=True)).clamp(max=1)
        else:
            slope = r.clamp(-0.5, 0.5)
        step = -rate[:, t, :, None, None] * slope[..., None] * k[:, t, :, None, :]
        pushed = share[:, t, :, None, None] * pushed + step if momentum else step
        weight = decay[:, t, :, None, None] * weight + pushed
        expected.append(torch.einsum("bhvk,bhk->bhv", weight, q[:, t]))
    controls = {"rate": rate, "decay": decay} | ({"momentum": share} if momentum else {})
    out, _ = mn.run(memory, q, k, v, controls, plan="nonlinear triangular")
    assert_same(out, torch.stack(expected, 1))


def test_forward_substitution_with_a_hundred_equal_keys_and_full_steps() -> None:
    memory = matrix(mn.Huber(0.5), anchor="retained")
    k = torch.nn.functional.normalize(randn(B, 1, H, K), dim=-1).expand(B, 100, H, K)
    one = torch.ones(B, 100, H, dtype=torch.float64)
    for decay in (one, 0 * one, (rand(B, 100, H) < 0.5).double(), 1e-30 * one):
        given = {"k": k, "rate": one, "decay": decay}
        fast = ran(memory, 100, plan="nonlinear triangular", **given)
        assert_same(fast, ran(memory, 100, plan="reference", **given))


def test_a_second_derivative_is_refused_not_wrong() -> None:
    q, k, v = tokens(5)
    v.requires_grad_()
    for objective, plan in (
        (mn.Huber(0.5), "nonlinear triangular"),
        (mn.L2(), "triangular delta"),
        (mn.Dot(), "cumulative decay"),
    ):
        memory = mn.Memory(mn.Matrix(), objective, mn.Keep(), mn.GD(rate=0.5))
        out, _ = mn.run(memory, q, k, v, plan=plan)
        with pytest.raises(RuntimeError, match='once; run the memory with plan="loop" for second derivatives'):
            torch.autograd.grad(out.square().sum(), v, create_graph=True)


# Retentions.


def after(retention: Retention, state: Tensor, step: Tensor, **controls: Tensor) -> Tensor:
    """The next state A."""
    return retention.combine(retention.retain(state, controls), step, controls)


def one(value: float) -> Tensor:
    return torch.full((1, 1), value, dtype=torch.float64)


ROWS, COLUMNS = 3, 5
SHAPE = (1, 1, ROWS, COLUMNS)


def test_the_elastic_net_minimises_its_regularised_loss() -> None:
    """Optimality of <W, g> + |W - W'|^2 / 2 eta + |W|^2 / 2 beta + |W|_1 / alpha: its smooth part's gradient is
    -sign(W) / alpha where W is not zero and at most 1 / alpha where it is."""
    eta, beta, alpha = 0.3, 2.0, 1.5
    before, gradient = randn(*SHAPE), randn(*SHAPE)
    decay = beta / (beta + eta)
    rate = eta * decay
    found = after(ElasticNet(None), before, -rate * gradient, decay=one(decay), threshold=one(rate / alpha))
    smooth = gradient + (found - before) / eta + found / beta
    assert (found == 0).any() and (found != 0).any()
    assert_same(smooth[found != 0], -found[found != 0].sign() / alpha)
    assert (smooth[found == 0].abs() <= 1 / alpha + 1e-12).all()


def test_the_dual_elastic_net_minimises_the_sum_of_its_losses() -> None:
    threshold = 0.4
    retention = ElasticNetDual(threshold, decay=False)
    steps = [randn(*SHAPE) for _ in range(3)]
    state = torch.zeros(SHAPE, dtype=torch.float64)
    for step in steps:
        state = after(retention, state, step)
    found, smooth = retention.link(state), retention.link(state) - sum(steps)
    assert (found == 0).any() and (found != 0).any()
    assert_same(smooth[found != 0], -threshold * found[found != 0].sign())
    assert (smooth[found == 0].abs() <= threshold + 1e-12).all()


def test_the_two_elastic_nets_agree_for_one_step_only() -> None:
    """The proximal one forgets what it cut off."""
    proximal, dual = ElasticNet(0.4), ElasticNetDual(0.4, decay=False)
    first = randn(*SHAPE)
    weight = after(proximal, torch.zeros(SHAPE, dtype=torch.float64), first, decay=one(1.0))
    state = after(dual, torch.zeros(SHAPE, dtype=torch.float64), first)
    assert_same(weight, dual.link(state))
    again = after(proximal, weight, first, decay=one(1.0)) - dual.link(after(dual, state, first))
    assert float(again.abs().max()) > 0.1


@pytest.mark.parametrize("retention", [ElasticNet(0.0), ElasticNetDual(0.0), Lq(2.0), Lq(2.0, exact=True)], ids=str)
def test_without_its_regulariser_it_is_decay(retention: Retention) -> None:
    for objective in (mn.L2(), Lp(3.0)):
        given = {"rate": 0.05 * rand(B, T, H)}
        assert_same(ran(matrix(objective, retention), **given), ran(matrix(objective), **given))
    chunked = mn.Memory(mn.MLP(expansion=2), mn.L2(), retention, mn.GD(anchor=mn.Chunk(4)))
    assert_same(ran(chunked), ran(chunked.replace(retention=mn.Decay())))


DIVERGENCES = {
    "kl": (lambda t: t * t.log(), lambda t: t.log() + 1),
    "reverse_kl": (lambda t: -t.log(), lambda t: -1 / t),
    "hellinger": (lambda t: (t.sqrt() - 1) ** 2, lambda t: 1 - t**-0.5),
    "chi2": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
}


@pytest.mark.parametrize("total", [1.0, 2.5, None])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_f_divergences_satisfy_their_optimality_conditions(name: str, total: float | None) -> None:
    """f'(W / W') - step is the same number wherever W > 0 in a row, and no smaller where W = 0."""
    retention = FDivergence(name, total=total)  # pyright: ignore
    for size in (0.1, 1.0, 8.0):
        before, step = retention.unlink(randn(*SHAPE)), size * randn(*SHAPE)
        found = after(retention, before, step)
        assert_same(found.sum(-1), torch.full(SHAPE[:-1], total or COLUMNS, dtype=torch.float64), 1e-14)
        assert (found > 0).all()
        exact = (found - 1e-8 * (total or COLUMNS) / COLUMNS) / (1 - 1e-8)  # without the share spread evenly
        alive = exact > 1e-6
        multiplier = DIVERGENCES[name][1](exact / before) - step
        for row in range(ROWS):
            here, is_alive = multiplier[0, 0, row], alive[0, 0, row]
            level = here[is_alive].mean()
            assert_same(here[is_alive], level.expand(int(is_alive.sum())), 1e-6)
            if name == "chi2":
                assert (here[~is_alive] >= level - 1e-6).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_f_divergences_beat_every_other_point_of_the_simplex(name: str) -> None:
    retention, f = FDivergence(name), DIVERGENCES[name][0]  # pyright: ignore
    before, step = retention.unlink(randn(*SHAPE)), randn(*SHAPE)
    found = after(retention, before, step)

    def value(weight: Tensor) -> Tensor:
        return (-step * weight + before * f(weight / before)).sum(-1)

    others = torch.distributions.Dirichlet(torch.ones(COLUMNS, dtype=torch.float64)).sample((500, *SHAPE[:-1]))
    near = 0.99 * found + 0.01 * others
    assert (value(found) <= value(others)).all() and (value(found) <= value(near) + 1e-9).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_pass_through_the_root(name: str) -> None:
    retention = FDivergence(name)  # pyright: ignore
    logits, step = (0.5 * randn(2, 3)).requires_grad_(), (0.5 * randn(2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: after(retention, retention.unlink(x), s), (logits, step), atol=1e-6)


def test_a_step_far_beyond_the_simplex_stays_on_it() -> None:
    """Steps of a thousand, in single precision, again and again."""
    for name in DIVERGENCES:
        retention = FDivergence(name)  # pyright: ignore
        state = retention.unlink(torch.zeros(1, 1, 3, 64))
        for _ in range(50):
            state = after(retention, state, 1000 * torch.randn(1, 1, 3, 64))
            assert (state > 0).all() and (state.sum(-1) - 1).abs().max() < 1e-5


def test_kl_is_the_f_divergence_of_t_log_t() -> None:
    one_way, other = matrix(mn.L2(), KL(decay=False)), matrix(mn.L2(), FDivergence("kl"))
    assert_same(ran(one_way), ran(other), 1e-5)  # the f-divergence spreads 1e-8 of each row evenly
    start, step = randn(*SHAPE), randn(*SHAPE)
    kl, divergence = KL(decay=False), FDivergence("kl")
    assert_same(kl.link(after(kl, kl.unlink(start), step)), after(divergence, divergence.unlink(start), step), 1e-7)


class TestKL:
    def test_it_minimises_its_regularised_loss(self) -> None:
        """<W, g> + KL(W | W') / eta + sum W log W / alpha over rows that sum to c, with decay = (1/eta) over the sum of
        both weights and the rate one over it: the gradient is the same number in a whole row."""
        eta, alpha, total = 0.4, 1.7, 2.0
        both = 1 / alpha + 1 / eta
        retention = KL(total=total)
        state, gradient = randn(*SHAPE), randn(*SHAPE)
        before = retention.link(state)
        found = retention.link(after(retention, state, -gradient / both, decay=one(1 / eta / both)))
        derivative = gradient + ((found / before).log() + 1) / eta + (found.log() + 1) / alpha
        assert_same(derivative, derivative.mean(-1, keepdim=True).expand_as(derivative))
        assert_same(found.sum(-1), torch.full(SHAPE[:-1], total, dtype=torch.float64))

    def test_it_is_the_paper_s_form_in_the_weights(self) -> None:
        """W = Softmax(decay log W' - rate g), equation (27), token by token."""
        memory = matrix(mn.L2(), KL())
        q, k, v = tokens(9)
        rate, decay = 3 * rand(B, 9, H), rand(B, 9, H)
        weight = torch.full((B, H, K, K), 1 / K, dtype=torch.float64)
        for t in range(9):
            r = torch.einsum("bhvk,bhk->bhv", weight, k[:, t]) - v[:, t]
            gradient = r[..., None] * k[:, t, :, None, :]
            logits = decay[:, t, :, None, None] * weight.log() - rate[:, t, :, None, None] * gradient
            weight = logits.exp() / logits.exp().sum(-1, keepdim=True)
        out, state = mn.run(memory, q, k, v, {"rate": rate, "decay": decay})
        assert_same(memory.retention.link(state["matrix"]), weight)
        assert_same(out[:, -1], torch.einsum("bhvk,bhk->bhv", weight, q[:, -1]))

    def test_invariants(self) -> None:
        retention, state = KL(), randn(*SHAPE)
        weight = retention.link(state)
        assert (weight > 0).all()
        still = after(retention, state, torch.zeros(SHAPE, dtype=torch.float64), decay=one(1.0))
        assert torch.equal(retention.link(still), weight)
        forgotten = after(retention, state, torch.zeros(SHAPE, dtype=torch.float64), decay=one(0.0))
        assert_same(retention.link(forgotten), torch.full(SHAPE, 1 / COLUMNS, dtype=torch.float64))
        step = randn(*SHAPE)
        moved, shifted = (retention.link(after(retention, state, s, decay=one(1.0))) for s in (step, step + 3.0))
        assert_same(moved, shifted)
        assert_same(
            moved[..., 1:] / moved[..., :1], weight[..., 1:] / weight[..., :1] * (step - step[..., :1]).exp()[..., 1:]
        )


class TestLq:
    def test_the_paper_s_map(self) -> None:
        """Of degree 3 - q: at q = 3 a point of the unit sphere, at q = 4 its own inverse."""
        state = randn(*SHAPE)
        third, fourth = Lq(3.0, epsilon=1e-300).link(state), Lq(4.0, epsilon=1e-300)
        assert_same(third.abs().pow(3).sum(), torch.tensor(1.0).double())
        assert_same(fourth.link(fourth.link(state)), state)
        assert_same(fourth.link(2 * state), fourth.link(state) / 2)
        assert_same(fourth.link(state), state / state.pow(4).sum().sqrt())

    @pytest.mark.parametrize(("q", "exact"), list(itertools.product([2.0, 2.5, 3.0, 3.5, 4.0], [False, True])))
    def test_unlink_undoes_link(self, q: float, exact: bool) -> None:
        retention, weight = Lq(q, exact=exact, epsilon=1e-300), randn(2, *SHAPE[1:])
        again = retention.link(retention.unlink(weight))
        if q == 3 and not exact:
            weight = weight / weight.abs().pow(3).sum((-2, -1), keepdim=True).pow(1 / 3)
        assert_same(again, weight, 1e-9)

    def test_the_exact_map_minimises_its_regularised_loss(self) -> None:
        """-<A, W> + |W|_p^2 / 2 with 1/p + 1/q = 1: no derivative left."""
        for q in (2.5, 4.0):
            p = q / (q - 1)
            state = randn(*SHAPE)
            weight = Lq(q, exact=True, epsilon=1e-300).link(state).requires_grad_()
            regulariser = 0.5 * weight.abs().pow(p).sum().pow(2 / p)
            (derivative,) = torch.autograd.grad(regulariser, weight)
            assert_same(derivative, state, 1e-9)

    @pytest.mark.parametrize("exact", [False, True])
    def test_gradients_and_a_state_of_zero(self, exact: bool) -> None:
        retention = Lq(4.0, exact=exact, epsilon=0.1)
        state = randn(2, 3).requires_grad_()
        assert torch.autograd.gradcheck(retention.link, (state,))
        for function in (retention.link, retention.unlink):
            nothing = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(function(nothing).sum(), nothing)
            assert not function(nothing).any() and torch.isfinite(gradient).all()

    def test_single_precision_far_out(self) -> None:
        for exact, size in itertools.product((False, True), (1e-12, 1e12)):
            state = size * randn(*SHAPE)
            retention = Lq(4.0, exact=exact, epsilon=1e-20)
            assert_same(retention.link(state.float()).double() * size, retention.link(state) * size, 1e-5)


BOXES = {
    "sigmoid": (lambda w: torch.logit(w), lambda w: (w > 0) & (w < 1)),
    "tanh": (lambda w: torch.atanh(w), lambda w: w.abs() < 1),
    "exp": (lambda w: w.log(), lambda w: w > 0),
}


@pytest.mark.parametrize("name", BOXES)
def test_bregman_steps_are_taken_in_the_dual_and_stay_inside(name: str) -> None:
    """F'(W_t) = F'(W_t-1) + step, the optimality condition of <W, g> + D_F(W, W') / rate."""
    retention = Bregman(name, decay=False)  # pyright: ignore
    dual, inside = BOXES[name]
    state, step = randn(*SHAPE), randn(*SHAPE)
    before, found = retention.link(state), retention.link(after(retention, state, step))
    assert_same(dual(found), dual(before) + step, 1e-10)
    assert inside(retention.link(5 * randn(*SHAPE))).all()
    assert torch.isfinite(retention.link(torch.full(SHAPE, 1e4))).all()


# Systems.


def test_the_quadratic_instance_couples_decay_and_rate() -> None:
    """argmin <W, g> + |W - W'|^2 / 2 theta + |W|^2 / beta is decay W' - decay theta g with decay = beta / (beta + 2
    theta): what Yaad's gates are when they are not free."""
    theta, beta = 0.3, 1.9
    decay = beta / (beta + 2 * theta)
    q, k, v = tokens(1)
    start = {"matrix": randn(H, K, K)}
    memory = mn.Memory(mn.Matrix(), mn.Huber(0.5), mn.Decay(), mn.GD(anchor="previous"))
    controls = {
        "rate": torch.full((B, 1, H), decay * theta, dtype=torch.float64),
        "decay": torch.full((B, 1, H), decay, dtype=torch.float64),
    }
    found = mn.run(memory, q, k, v, controls, start)[1]["matrix"]
    before = start["matrix"].expand_as(found)
    r = torch.einsum("bhvk,bhk->bhv", before, k[:, 0]) - v[:, 0]
    gradient = r.clamp(-0.5, 0.5)[..., None] * k[:, 0, :, None, :]
    assert_same(gradient + (found - before) / theta + 2 * found / beta, torch.zeros_like(found))


@pytest.mark.parametrize("chunk", [1, 4])
def test_one_rule_in_several_disguises(chunk: int) -> None:
    """Yaad with an endless threshold, Moneta with p = q = 2 at half the rate, Titans without momentum."""
    network, learner = mn.MLP(expansion=2), mn.GD(anchor=mn.Chunk(chunk))
    titans = mn.Memory(network, mn.L2(), mn.Decay(), learner)
    expected = ran(titans)
    endless = torch.full((B, T, H), math.inf)
    yaad = mn.zoo.yaad(chunk=chunk, expansion=2).memory
    moneta = mn.zoo.moneta(p=2.0, q=2.0, chunk=chunk, expansion=2).memory
    assert isinstance(yaad, mn.Memory) and isinstance(moneta, mn.Memory)
    assert_same(ran(yaad, delta=endless.nan_to_num(posinf=1e9).double()), expected)
    assert_same(ran(moneta, rate=_rate() / 2), expected)


def test_memora_with_a_quadratic_regulariser_is_titans_without_momentum() -> None:
    memory = mn.zoo.memora(chunk=4, expansion=2).memory
    assert isinstance(memory, mn.Memory)
    quadratic = memory.replace(retention=mn.Decay())
    titans = mn.zoo.titans_lmm(chunk=4, expansion=2).memory
    assert isinstance(titans, mn.Memory)
    still = titans.replace(learner=mn.GD(momentum=True, anchor=mn.Chunk(4)))
    assert_same(ran(quadratic), ran(still, momentum=torch.zeros(B, T, H, dtype=torch.float64)))
    assert float((ran(memory) - ran(quadratic)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["moneta", "yaad", "memora"])
def test_chunks_of_one_token_are_the_rules_token_by_token(name: str) -> None:
    memory = getattr(mn.zoo, name)(chunk=1, expansion=2).memory
    assert isinstance(memory, mn.Memory)
    given = {"delta": 1.0 + rand(B, 17, H)}
    sequential = ran(memory.replace(learner=mn.GD(anchor="previous")), 17, **given)
    assert_same(ran(memory, 17, **given), sequential, 1e-9)
    longer = ran(memory.replace(learner=mn.GD(anchor=mn.Chunk(4))), 17, **given)
    assert float((longer - sequential).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("objective", [mn.L2(), mn.Huber(0.1), Lp(3.0), RobustShift(0.4)], ids=str)
def test_gradient_steps_minimise_all_linearised_losses_together(objective: Objective) -> None:
    """W_t = argmin_W sum_i <W - W_i-1, grad l_i(W_i-1)> + |W|^2 / 2 eta, from W_0 = 0: what follows a regularised
    leader is gradient descent."""
    eta, time = 0.2, 9
    memory = mn.Memory(mn.Matrix(), objective, mn.Keep(), mn.GD(rate=eta))
    q, k, v = tokens(time)
    v = 0.3 * v  # the third power's steps grow as the square of the error
    gradients = torch.zeros(B, H, K, K, dtype=torch.float64)
    held = gradients
    for t in range(time):
        leaf = held.clone().requires_grad_()
        predicted = torch.einsum("bhvk,bhk->bhv", leaf, k[:, t])
        (gradient,) = torch.autograd.grad(objective.loss(predicted, v[:, t], {}).sum(), leaf)
        gradients = gradients + gradient
        _, state = mn.run(memory, q[:, : t + 1], k[:, : t + 1], v[:, : t + 1])
        held = state["matrix"]
        assert_same(gradients + held / eta, torch.zeros_like(held), 1e-9)


def published(name: str) -> mn.Memory:
    memory = getattr(mn.zoo, name)(chunk=4, expansion=2).memory
    assert isinstance(memory, mn.Memory)
    return memory


def test_the_published_choices() -> None:
    moneta, yaad, memora = (published(name) for name in ("moneta", "yaad", "memora"))
    assert moneta.objective == Lp(3.0) and moneta.retention == Lq(4.0)
    assert yaad.objective == mn.Huber(None, form="mixture", smooth=0.01) and yaad.retention == mn.Decay(per="head")
    assert memora.objective == mn.L2() and memora.retention == KL(total=None)
    assert {c.name for c in yaad.controls} == {"rate", "decay", "delta"}


@pytest.mark.parametrize("name", ["moneta", "yaad", "memora"])
def test_the_published_rules_written_by_hand(name: str) -> None:
    """A two-layer memory, token by token, its gradients at the chunk's start by autograd."""
    memory, time = published(name), 10
    q, k, v = (x[:1, :, :1] for x in tokens(time))
    rate, decay, delta = 0.3 * rand(time), 0.8 + 0.2 * rand(time), 1.0 + rand(time)
    controls = {n: x[None, :, None] for n, x in (("rate", rate), ("decay", decay), ("delta", delta))}
    controls = {c.name: controls[c.name] for c in memory.controls}
    weights = {n: w.double() for n, w in memory.initial_weights(1, K, K).items()}
    if name == "memora":
        weights = {n: 3 * w for n, w in weights.items()}

    def weights_of(states: list[Tensor]) -> list[Tensor]:
        if name == "yaad":
            return states
        if name == "moneta":
            return [a / (a.pow(4).sum().pow(0.25) + 1e-6).square() for a in states]
        return [a.shape[-1] * a.exp() / a.exp().sum(-1, keepdim=True) for a in states]

    def answer(held: list[Tensor], x: Tensor) -> Tensor:
        z = held[1] @ torch.nn.functional.gelu(held[0] @ x)
        centred = z - z.mean()
        return x + centred / (centred.square().mean() + 1e-4).sqrt() / math.sqrt(K)

    states = [weights["layer1"][0], weights["layer2"][0]]
    if name == "memora":
        states = [w * math.sqrt(w.shape[-1]) for w in states]
    if name == "moneta":
        states = [w / w.pow(4).sum().sqrt() for w in states]
    point = states
    for t in range(time):
        point = states if t % 4 == 0 else point
        leaves = [w.clone().requires_grad_() for w in weights_of(point)]
        r = answer(leaves, k[0, t, 0]) - v[0, t, 0]
        if name == "moneta":
            loss = r.abs().pow(3).sum()
        elif name == "yaad" and r.norm() > delta[t]:
            loss = delta[t] * (r * r + 0.01).sqrt().sum()
        else:
            loss = 0.5 * r.square().sum()
        gradients = torch.autograd.grad(loss, leaves)
        states = [decay[t] * a - rate[t] * g for a, g in zip(states, gradients, strict=True)]
        expected = answer(weights_of(states), q[0, t, 0])
        out, _ = mn.run(
            memory, *(x[:, : t + 1] for x in (q, k, v)), {n: c[:, : t + 1] for n, c in controls.items()}, weights
        )
        assert_same(out[0, -1, 0], expected, 1e-5 if name == "moneta" else 1e-10)


@pytest.mark.parametrize("name", ["moneta", "yaad", "memora"])
def test_they_run_in_parallel(name: str) -> None:
    plan = mn.MemoryLayer(getattr(mn.zoo, name)(), width=16, heads=2).plan(64, training=True)
    assert plan.executor.name == ("anchored dual" if name == "yaad" else "anchored map")


def test_a_linear_yaad_is_exact_in_parallel() -> None:
    layer = mn.MemoryLayer(mn.zoo.yaad(depth=1, chunk=None), width=16, heads=2)
    assert layer.plan(64, training=True).executor.name == "nonlinear triangular"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lp(0.5), "power of at least 1"),
        (lambda: Lp(3.0, smooth=-1.0), "at least 0"),
        (lambda: mn.Huber(0.0), "positive"),
        (lambda: mn.Huber(smooth=0.1), "mixture"),
        (lambda: mn.Huber(form="both"), "one of"),  # pyright: ignore
        (lambda: RobustShift(-0.1), "at least 0"),
        (lambda: RobustShift(smooth=0.0), "positive"),
        (lambda: Lq(1.5), "at least 2"),
        (lambda: Lq(epsilon=0.0), "positive"),
        (lambda: KL(total=0.0), "positive"),
        (lambda: FDivergence("total_variation"), "one of"),  # pyright: ignore
        (lambda: Bregman("relu"), "one of"),  # pyright: ignore
        (lambda: ElasticNet(-1.0), "at least 0"),
        (lambda: ElasticNetDual(math.inf), "at least 0"),
    ],
)
def test_what_has_no_meaning_is_refused(build: object, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        build()  # pyright: ignore
