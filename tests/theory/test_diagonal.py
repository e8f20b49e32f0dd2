"""Diagonal and complex recurrences: decay by value channel and on both sides, rotation, RG-LRU, GateLoop, FFM."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.execute.scan import diagonal_scan
from mnemos.layers.fast_forgetful import FastForgetfulLayer
from mnemos.layers.gate_loop import GateLoopLayer
from mnemos.layers.gated_recurrence import GatedRecurrenceLayer
from mnemos.lowering import Request, lower

B, T, H, K, V = 2, 37, 2, 4, 6


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    """In [0, 1], exact zeros and ones among them."""
    return (1.4 * torch.rand(*shape, dtype=torch.float64) - 0.2).clamp(0, 1)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def hebbian(retention: mn.Retention) -> mn.Memory:
    return mn.Memory(mn.Matrix(), mn.Dot(), retention, mn.GD(rate=1.0))


def inputs(key_dim: int = K, value_dim: int = V) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, T, H, key_dim), normal(B, T, H, key_dim), normal(B, T, H, value_dim)


def products(a: Tensor) -> Tensor:
    """P[t, s] = a_s+1 ... a_t for a (B, T, ...), 0 where s > t: (T, T, B, ...)."""
    nothing, one = torch.zeros_like(a[:, 0]), torch.ones_like(a[:, 0])
    rows = []
    for t in range(a.shape[1]):
        row = [nothing] * a.shape[1]
        row[t] = one
        for s in range(t - 1, -1, -1):
            row[s] = row[s + 1] * a[:, s + 1]
        rows.append(torch.stack(row))
    return torch.stack(rows)


# The scan


@pytest.mark.parametrize("time", [0, 1, 2, 3, 4, 5, 15, 16, 17, 30])
def test_the_scan_is_the_loop(time: int) -> None:
    a, b, now = uniform(B, time, 3), normal(B, time, 3), normal(B, 3)
    h, last = diagonal_scan(a, b, now)
    for t in range(time):
        now = a[:, t] * now + b[:, t]
        assert_same(h[:, t], now)
    assert h.shape == b.shape
    assert_same(last, now)


@pytest.mark.parametrize("time", [1, 2, 6, 11])
def test_first_and_second_derivatives_of_the_scan(time: int) -> None:
    a, b, h0 = (x.requires_grad_() for x in (uniform(B, time, 2), normal(B, time, 2), normal(B, 2)))
    assert torch.autograd.gradcheck(diagonal_scan, (a, b, h0))
    assert torch.autograd.gradgradcheck(diagonal_scan, (a, b, h0))


def test_the_scan_takes_about_two_steps_for_every_square_root_of_its_length() -> None:
    class Count(torch.overrides.TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.calls += function is torch.addcmul
            return function(*args, **(kwargs or {}))

    with Count() as count, torch.no_grad():
        diagonal_scan(uniform(1, 1024, 1), normal(1, 1024, 1), normal(1, 1))
    assert 32 < count.calls <= 3 * 32


# Decay on the values' side


def test_value_decay_is_a_sum_over_the_past() -> None:
    q, k, v = inputs()
    decay = uniform(B, T, H, V)
    out, _ = mn.run(hebbian(mn.Decay(per="value")), q, k, v, {"decay": decay})
    assert_same(out, torch.einsum("tsbhv,bthk,bshk,bshv->bthv", products(decay), q, k, v))


def test_outer_decay_is_a_sum_over_the_past() -> None:
    q, k, v = inputs()
    decay, value_decay = uniform(B, T, H, K), uniform(B, T, H, V)
    controls = {"decay": decay, "value_decay": value_decay}
    expected = torch.einsum("tsbhv,tsbhk,bthk,bshk,bshv->bthv", products(value_decay), products(decay), q, k, v)
    for plan in ("diagonal scan", "outer decay", "reference"):
        out, _ = mn.run(hebbian(mn.Decay(per="outer")), q, k, v, controls, plan=plan)
        assert_same(out, expected)


def test_value_decay_is_channel_decay_of_the_transposed_memory() -> None:
    q, k, v = inputs()
    decay = uniform(B, T, H, V)
    _, by_value = mn.run(hebbian(mn.Decay(per="value")), q, k, v, {"decay": decay})
    _, by_channel = mn.run(hebbian(mn.Decay(per="channel")), v, v, k, {"decay": decay})
    assert_same(by_value["matrix"], by_channel["matrix"].mT)


@pytest.mark.parametrize("momentum", [False, True])
def test_outer_decay_contains_the_others(momentum: bool) -> None:
    learner = mn.GD(rate=0.7, momentum=momentum)
    q, k, v = inputs()
    keys, values, head = uniform(B, T, H, K), uniform(B, T, H, V), uniform(B, T, H)
    common = {"momentum": uniform(B, T, H)} if momentum else {}

    def out(per: str, **controls: Tensor) -> Tensor:
        memory = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per=per), learner)  # pyright: ignore[reportArgumentType]
        return mn.run(memory, q, k, v, common | controls)[0]

    assert_same(out("outer", decay=keys, value_decay=ones(B, T, H, V)), out("channel", decay=keys))
    assert_same(out("outer", decay=ones(B, T, H, K), value_decay=values), out("value", decay=values))
    by_head = out("outer", decay=head[..., None].expand_as(keys), value_decay=head[..., None].expand_as(values))
    assert_same(by_head, out("head", decay=head.square()))


def test_wide_keys_are_not_scanned() -> None:
    memory = hebbian(mn.Decay(per="value"))
    plans = {n: lower(memory, Request(1, 64, 1, n, 8, torch.float32, "cpu", True)).executor.name for n in (1, 16)}
    assert plans == {1: "diagonal scan", 16: "outer decay"}


# Rotation


def test_rotation_of_keys_is_complex_multiplication() -> None:
    q, k, v = inputs()
    decay, angle = uniform(B, T, H, K // 2), 5 * normal(B, T, H, K // 2)
    out, state = mn.run(hebbian(mn.Decay(per="pair", rotate="key")), q, k, v, {"decay": decay, "angle": angle})
    weight = torch.zeros(B, H, V, K // 2, dtype=torch.complex128)
    for t in range(T):
        factor = decay[:, t] * torch.exp(1j * angle[:, t])
        key = torch.complex(k[:, t, :, : K // 2], k[:, t, :, K // 2 :])
        weight = weight * factor[:, :, None] + v[:, t, :, :, None] * key[:, :, None]
        query = torch.complex(q[:, t, :, : K // 2], q[:, t, :, K // 2 :])
        assert_same(out[:, t], (weight * query.conj()[:, :, None]).real.sum(-1))
    assert_same(state["matrix"], torch.cat([weight.real, weight.imag], -1))


def test_rotation_of_values_is_complex_multiplication() -> None:
    q, k, v = inputs()
    decay, angle = uniform(B, T, H, V // 2), 5 * normal(B, T, H, V // 2)
    out, _ = mn.run(hebbian(mn.Decay(per="pair", rotate="value")), q, k, v, {"decay": decay, "angle": angle})
    weight = torch.zeros(B, H, V // 2, K, dtype=torch.complex128)
    for t in range(T):
        value = torch.complex(v[:, t, :, : V // 2], v[:, t, :, V // 2 :])
        factor = decay[:, t] * torch.exp(1j * angle[:, t])
        weight = weight * factor[..., None] + value[..., None] * k[:, t, :, None]
        read = (weight * q[:, t, :, None]).sum(-1)
        assert_same(out[:, t], torch.cat([read.real, read.imag], -1))


@pytest.mark.parametrize("objective", [mn.Dot(), mn.L2()])
def test_a_constant_angle_is_retnets_rotation_of_queries_and_keys(objective: mn.Objective) -> None:
    q, k, v = (F.normalize(x, dim=-1) for x in inputs())
    frequency = 10000.0 ** -torch.linspace(0, 1, K // 2, dtype=torch.float64)
    plain = mn.Memory(mn.Matrix(), objective, mn.Decay(), mn.GD(rate=1.0))
    turning = plain.replace(retention=mn.Decay(rotate="key"))
    decay = (1 - 2.0 ** (-5 - torch.arange(H, dtype=torch.float64))).expand(B, T, H)

    def turned(x: Tensor) -> Tensor:
        phase = torch.exp(1j * torch.arange(T)[:, None] * frequency)[:, None]
        z = torch.complex(x[..., : K // 2], x[..., K // 2 :]) * phase
        return torch.cat([z.real, z.imag], -1)

    expected, _ = mn.run(plain, turned(q), turned(k), v, {"decay": decay})
    out, _ = mn.run(turning, q, k, v, {"decay": decay, "angle": -frequency.expand(B, T, H, K // 2)})
    assert_same(out, expected)
    shifted, _ = mn.run(
        turning, turned(q), turned(k), v, {"decay": decay, "angle": torch.zeros(B, T, H, K // 2).double()}
    )
    assert_same(shifted, expected)


def test_without_decay_a_constant_angle_is_linear_attention_with_rotary_positions() -> None:
    """o_t = sum_s Re(conj(z(q_t)) e^(i (s - t) frequency) z(k_s)) v_s, z the pairs as complex numbers."""
    q, k, v = inputs()
    frequency = 100.0 ** (-torch.arange(K // 2, dtype=torch.float64) * 2 / K)
    of_q, of_k = (torch.complex(x[..., : K // 2], x[..., K // 2 :]) for x in (q, k))
    lag = torch.arange(T)[:, None] - torch.arange(T)
    turn = torch.exp(-1j * lag[..., None] * frequency)
    scores = torch.einsum("bthi,tsi,bshi->bhts", of_q.conj(), turn, of_k).real.tril()
    controls = {"decay": torch.ones(B, T, H).double(), "angle": -frequency.expand(B, T, H, K // 2)}
    out, _ = mn.run(hebbian(mn.Decay(rotate="key")), q, k, v, controls)
    assert_same(out, torch.einsum("bhts,bshv->bthv", scores, v))


def test_with_any_decays_only_relative_positions_count() -> None:
    """A decay for each token and head commutes with turning: queries and keys may stand anywhere."""
    layer = mn.LayerSpec(hebbian(mn.Decay()), rotation=True).build(2 * K, 2).double()
    with torch.no_grad():
        for parameter in layer.controls.parameters():
            parameter.normal_()
    x = torch.randn(B, T, 2 * K, dtype=torch.float64)
    start = layer.init_state(B)
    decay = layer.controls["decay"](x).detach()
    assert float(decay.max() - decay.min()) > 0.5
    here, _ = layer(x, start)
    there, _ = layer(x, start.successor(**start.entries | {"count": start["count"] + 1000}))
    assert_same(there, here, 1e-9)
    plain = mn.LayerSpec(hebbian(mn.Decay())).build(2 * K, 2).double()
    plain.load_state_dict(layer.state_dict())
    assert float((plain(x)[0] - here).detach().abs().max()) > 1e-3


TURNING = [mn.Decay(per=per, rotate="key") for per in ("head", "pair", "value")] + [
    mn.Decay(per=per, rotate="value") for per in ("head", "pair", "channel")
]


def factors(retention: mn.Decay) -> dict[str, Tensor]:
    sizes = {c.name: c.size(K, V) for c in retention.controls}
    return {name: uniform(B, T, H, *([] if size is None else [size])) for name, size in sizes.items()}


@pytest.mark.parametrize("retention", TURNING, ids=str)
@pytest.mark.parametrize("objective", [mn.Dot(), mn.L2()])
def test_no_turn_and_whole_turns_are_real_decay(retention: mn.Decay, objective: mn.Objective) -> None:
    q, k, v = (F.normalize(x, dim=-1) for x in inputs())
    controls = factors(retention)
    side = "channel" if retention.rotate == "key" else "value"
    plain = mn.Memory(
        mn.Matrix(),
        objective,
        retention.replace(per=side if retention.per == "pair" else retention.per, rotate=None),
        mn.GD(rate=0.5),
    )
    decay = controls["decay"]
    if retention.per == "pair":
        decay = torch.cat([decay, decay], -1)
    expected, last = mn.run(plain, q, k, v, {"decay": decay})
    turning = plain.replace(retention=retention)
    for angle in (0.0, 2 * math.pi):
        controls["angle"] = torch.full_like(controls["angle"], angle)
        out, state = mn.run(turning, q, k, v, controls)
        assert_same(out, expected)
        assert_same(state["matrix"], last["matrix"])
    controls["angle"] = torch.full_like(controls["angle"], 1.0)
    assert float((mn.run(turning, q, k, v, controls)[0] - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("retention", TURNING, ids=str)
def test_turning_alone_keeps_what_was_written(retention: mn.Decay) -> None:
    """|a| = 1: the contribution of the first token keeps its size for ever."""
    q, k, v = inputs()
    v[:, 1:] = 0
    controls = {name: torch.ones_like(x) for name, x in factors(retention).items()}
    controls["angle"] = 3 * normal(*controls["angle"].shape)
    _, state = mn.run(hebbian(retention), q, k, v, controls)
    first = torch.einsum("bhv,bhk->bhvk", v[:, 0], k[:, 0])
    assert_same(torch.linalg.matrix_norm(state["matrix"]), torch.linalg.matrix_norm(first))
    assert float((state["matrix"] - first).abs().max()) > 1e-2


def plan_of(memory: mn.Memory) -> str:
    return lower(memory, Request(1, 64, 1, 8, 8, torch.float32, "cpu", True)).executor.name


def test_rotation_runs_in_a_frame_that_turns_where_the_gradient_turns_with_it() -> None:
    key, value = mn.Decay(rotate="key"), mn.Decay(rotate="value")
    compiled = "rotated frame: compiled recurrence"
    assert plan_of(hebbian(key)) in (compiled, "rotated frame: cumulative decay")
    assert plan_of(hebbian(mn.Decay(per="value", rotate="key"))) == "rotated frame: outer decay"
    delta = mn.Memory(mn.Matrix(), mn.L2(), value, mn.GD())
    assert plan_of(delta) in (compiled, "rotated frame: triangular delta")
    for memory in (
        mn.Memory(mn.Matrix(), mn.L2(), key, mn.GD(anchor="previous")),
        mn.Memory(mn.Matrix(), mn.Dot(), key, mn.GD(momentum=True)),
        mn.Memory(mn.Matrix(), mn.Dot(), key, mn.GD(anchor=mn.Chunk(4))),
        mn.Memory(mn.Matrix(), mn.Huber(0.5), value, mn.GD()),
    ):
        assert plan_of(memory) == "loop"


def test_many_turns_do_not_wear_out() -> None:
    """Angles are summed in float64, so that a long float32 run still tells its turns apart."""
    time = 3000
    q, k, v = (torch.randn(1, time, 1, 2) for _ in range(3))
    controls = {"decay": torch.full((1, time, 1), 0.9), "angle": torch.full((1, time, 1, 1), 3.0)}
    memory = hebbian(mn.Decay(rotate="key"))
    out, _ = mn.run(memory, q, k, v, controls)
    expected, _ = mn.run(memory, *(x.double() for x in (q, k, v)), {n: x.double() for n, x in controls.items()})
    assert_same(out.double(), expected, 1e-5)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: mn.Decay(per="pair"), "rotate"),
        (lambda: mn.Decay(per="channel", rotate="key"), "pair"),
        (lambda: mn.Decay(per="outer", rotate="key"), "pair"),
        (lambda: mn.Decay(per="value", rotate="value"), "pair"),
        (lambda: mn.Decay(rotate="both"), "rotate"),  # pyright: ignore[reportArgumentType]
        (lambda: mn.Memory(mn.MLP(), mn.L2(), mn.Decay(per="value")), "Matrix"),
        (lambda: mn.Memory(mn.MLP(), mn.L2(), mn.Decay(rotate="key")), "Matrix"),
        (lambda: hebbian(mn.Decay(rotate="key")).init(1, 1, 3, 4), "key_dim must be even"),
        (lambda: hebbian(mn.Decay(rotate="value")).init(1, 1, 4, 3), "value_dim must be even"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], hint: str) -> None:
    with pytest.raises(InvalidValue, match=hint):
        make()


# Griffin's RG-LRU


WIDTH = 8


def recurrent_block() -> GatedRecurrenceLayer:
    layer = mn.zoo.hawk().build(WIDTH, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def literal_block(layer: GatedRecurrenceLayer, u: Tensor) -> Tensor:
    """The block of arXiv 2402.19427 on one document u (T, width), token by token."""
    branch = F.gelu(u @ layer.branch.weight.T + layer.branch.bias, approximate="tanh")
    x = u @ layer.recurrent.weight.T + layer.recurrent.bias
    taps, h, outputs = layer.conv.weight, None, []
    big_a, big_c = (torch.block_diag(*blocks) for blocks in layer.gates)
    for t in range(len(u)):
        mixed = layer.conv_bias + sum(taps[-1 - j] * x[t - j] for j in range(min(4, t + 1)))
        r = torch.sigmoid(mixed @ big_a + layer.gate_biases[0].flatten())
        i = torch.sigmoid(mixed @ big_c + layer.gate_biases[1].flatten())
        a = torch.sigmoid(-layer.forgetting.flatten()) ** (8 * r)
        h = i * mixed if h is None else a * h + torch.sqrt(1 - a**2) * (i * mixed)
        outputs.append(layer.out(h * branch[t]))
    return torch.stack(outputs)


def test_the_recurrent_block_is_the_papers() -> None:
    layer, u = recurrent_block(), normal(B, T, WIDTH)
    y, _ = layer(u)
    assert_same(y, torch.stack([literal_block(layer, row) for row in u]))


def test_documents_open_with_their_whole_first_token_however_they_come() -> None:
    """Packed into one row, streamed, or alone: the first token of a document has the multiplier 1."""
    layer, u = recurrent_block(), normal(1, T, WIDTH)
    expected = torch.cat([literal_block(layer, u[0, :9]), literal_block(layer, u[0, 9:])])[None]
    reset = torch.zeros(1, T, dtype=torch.bool)
    reset[:, 9] = True
    assert_same(layer(u, reset=reset)[0], expected)
    pieces, state = [], layer.init_state(1)
    for cut in (u[:, :0], u[:, :5], u[:, 5:9]):
        y, state = layer(cut, state)
        pieces.append(y)
    state = state.reset(torch.tensor([True]))
    for cut in (u[:, 9:10], u[:, 10:]):
        y, state = layer(cut, state)
        pieces.append(y)
    assert_same(torch.cat(pieces, 1), expected)


def gates_held_at(layer: GatedRecurrenceLayer, r: float, i: float) -> None:
    with torch.no_grad():
        layer.gates.zero_()
        layer.gate_biases[0].fill_(r)
        layer.gate_biases[1].fill_(i)


def recurrence(layer: GatedRecurrenceLayer, x: Tensor) -> Tensor:
    """h for inputs x (B, T, D) of the RG-LRU itself, in the middle of a document."""
    decay, written = layer.gated(x.unflatten(-1, (H, -1)), torch.zeros(len(x), dtype=torch.bool))
    state = layer.init_state(len(x))
    start = {**state.entries, "memory": state.child("memory").map(torch.ones_like)}
    return layer.recur(written, {"decay": decay}, state.successor(**start), None)[0].flatten(-2)


def test_a_closed_recurrence_gate_holds_the_state_and_an_open_one_forgets_all() -> None:
    layer = recurrent_block()
    x = normal(B, T, WIDTH)
    gates_held_at(layer, r=-1000.0, i=1000.0)
    assert_same(recurrence(layer, x), ones(B, T, WIDTH))
    gates_held_at(layer, r=1000.0, i=1000.0)
    with torch.no_grad():
        layer.forgetting.fill_(1000.0)
    assert_same(recurrence(layer, x), x)


def test_white_noise_keeps_its_variance() -> None:
    layer = mn.zoo.hawk().build(64, H).double()
    gates_held_at(layer, r=0.0, i=1000.0)
    with torch.no_grad():
        h = recurrence(layer, normal(8, 4000, 64))[:, 2000:]
    assert float((h.var((0, 1)) - 1).abs().mean()) < 0.15
    assert abs(float(h.var()) - 1) < 0.05


def test_with_constant_gates_it_is_a_normalised_linear_recurrence() -> None:
    """h_t = a^t+1 h_-1 + sum_s a^(t-s) sqrt(1 - a^2) i x_s, an LRU with real factors."""
    layer = recurrent_block()
    x = normal(B, T, WIDTH)
    gates_held_at(layer, r=0.4, i=0.3)
    r, i = torch.sigmoid(torch.tensor([0.4, 0.3], dtype=torch.float64))
    a = torch.sigmoid(-layer.forgetting.flatten()) ** (8 * r)
    lag = torch.arange(T)[:, None] - torch.arange(T)
    kernel = torch.where((lag >= 0)[..., None], a ** lag.clamp(min=0)[..., None], 0.0) * torch.sqrt(1 - a**2) * i
    held = a ** torch.arange(1, T + 1)[:, None]
    assert_same(recurrence(layer, x), held + torch.einsum("tsd,bsd->btd", kernel, x))


def test_factors_start_between_nine_tenths_and_nearly_one() -> None:
    layer = mn.zoo.hawk().build(512, H)
    a = torch.sigmoid(-layer.forgetting.detach()) ** 8
    assert 0.9 <= float(a.min()) < 0.92 and 0.99 < float(a.max()) <= 0.999 + 1e-6


def test_the_gradient_stays_finite_where_nothing_is_forgotten() -> None:
    layer = mn.zoo.hawk().build(WIDTH, H)
    for logit in (-1000.0, -25.0, -15.0):  # a = 1 in float32, or all but
        gates_held_at(layer, r=logit, i=1.0)
        y, _ = layer(torch.randn(1, 20, WIDTH))
        for gradient in torch.autograd.grad(y.square().sum(), list(layer.parameters())):
            assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) < 1e5


def test_griffin_has_a_layer_of_attention_in_three_and_streams() -> None:
    spec = mn.zoo.griffin(window=4).replace(width=16, heads=2, depth=5, vocabulary=7)
    kinds = [type(layer).__name__ for layer in spec.layers]
    assert kinds == ["GatedRecurrence", "GatedRecurrence", "LayerSpec", "GatedRecurrence", "GatedRecurrence"]
    model, tokens = mn.LanguageModel(spec).double(), torch.randint(0, 7, (2, 23))
    whole, _ = model(tokens)
    first, state = model(tokens[:, :11])
    assert_same(torch.cat([first, model(tokens[:, 11:], state)[0]], 1), whole)


def test_recurrentgemma_scales_embeddings_and_caps_logits() -> None:
    spec = mn.zoo.recurrentgemma(window=4).replace(width=16, heads=2, depth=3, vocabulary=7)
    torch.manual_seed(0)
    model = mn.LanguageModel(spec).double()
    plain = mn.LanguageModel(spec.replace(scaled_embedding=False, logit_cap=None)).double()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        model.norm.gain.mul_(500)
        plain.norm.gain.mul_(500)
        head = plain.embedding.weight.clone()
        plain.head, plain.embedding.weight = torch.nn.Linear(16, 7, bias=False).double(), torch.nn.Parameter(4 * head)
        plain.head.weight.copy_(head)
    tokens = torch.randint(0, 7, (2, 9))
    logits, raw = model(tokens)[0].detach(), plain(tokens)[0].detach()
    assert float(raw.abs().max()) > 30 > float(logits.abs().max())
    assert_same(logits, 30 * torch.tanh(raw / 30))


# GateLoop


def gate_loop() -> GateLoopLayer:
    layer = mn.zoo.gateloop().build(WIDTH, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def parts(layer: GateLoopLayer, x: Tensor) -> tuple[Tensor, ...]:
    """q, k, v, |a|, phase, gate, as the paper names them."""
    a, phase = torch.sigmoid(layer.magnitude(x)), layer.phase(x)
    return (*layer.project(x).chunk(3, -1), a, phase, F.silu(layer.gate(x)))


def test_gateloop_is_its_complex_recurrence_and_its_surrogate_attention() -> None:
    layer, x = gate_loop(), normal(B, T, WIDTH)
    q, k, v, a, phase, gate = parts(layer, x)
    h, outputs = torch.zeros(B, WIDTH, dtype=torch.complex128), []
    for t in range(T):
        h = a[:, t] * torch.exp(1j * phase[:, t]) * h + k[:, t] * v[:, t]
        outputs.append(q[:, t] * h.real)
    y, _ = layer(x)
    assert_same(y, layer.out(torch.stack(outputs, 1) * gate))
    turns = phase.cumsum(1)
    weights = products(a) * torch.cos(turns[:, :, None] - turns[:, None]).movedim(0, 2)
    assert_same(y, layer.out(torch.einsum("tsbd,btd,bsd,bsd->btd", weights, q, k, v) * gate))


def test_gateloop_is_a_pair_of_real_passes() -> None:
    """cos(A_t - A_s) = cos A_t cos A_s + sin A_t sin A_s."""
    layer, x = gate_loop(), normal(B, T, WIDTH)
    q, k, v, a, phase, gate = parts(layer, x)
    turns, nothing = phase.cumsum(1), torch.zeros(B, WIDTH, dtype=torch.float64)
    real = sum(f(turns) * diagonal_scan(a, f(turns) * k * v, nothing)[0] for f in (torch.cos, torch.sin))
    assert_same(layer(x)[0], layer.out(q * real * gate))


def test_conjugating_every_phase_changes_nothing() -> None:
    layer, x = gate_loop(), normal(B, T, WIDTH)
    y, _ = layer(x)
    with torch.no_grad():
        layer.phase.weight.neg_()
        layer.phase.bias.neg_()
    assert_same(layer(x)[0], y)


def test_gateloop_that_forgets_nothing_is_a_cumulative_sum() -> None:
    layer, x = gate_loop(), normal(B, T, WIDTH)
    with torch.no_grad():
        for linear, bias in ((layer.phase, 0.0), (layer.magnitude, 1000.0)):
            linear.weight.zero_()
            linear.bias.fill_(bias)
    q, k, v, _, _, gate = parts(layer, x)
    assert_same(layer(x)[0], layer.out(q * (k * v).cumsum(1) * gate))


def set_to(linear: torch.nn.Linear, bias: float) -> None:
    """It gives that number, whatever comes in."""
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(bias)


@pytest.mark.parametrize("phase", [0.0, 0.7])
def test_a_constant_factor_is_retention_of_single_channels(phase: float) -> None:
    """A real one, RetNet's with keys and values of one channel; a complex one, the same with a rotation."""
    layer, x = gate_loop(), normal(B, T, WIDTH)
    set_to(layer.magnitude, 2.0)
    set_to(layer.phase, phase)
    q, k, v, a, _, gate = parts(layer, x)
    if phase:
        memory = hebbian(mn.Decay(rotate="key"))
        q, k = (torch.stack([y, torch.zeros_like(y)], -1) for y in (q, k))
        controls = {"decay": a, "angle": torch.full_like(a, phase)[..., None]}
    else:
        memory, q, k = hebbian(mn.Decay()), q[..., None], k[..., None]
        controls = {"decay": a}
    o, _ = mn.run(memory, q, k, v[..., None], controls)
    assert_same(layer(x)[0], layer.out(o[..., 0] * gate))


def test_without_a_phase_and_with_tied_keys_it_is_hgrns_cell() -> None:
    """h_t = a_t h_t-1 + k_t v_t with real a_t; with k = 1 - a, h_t = a_t h_t-1 + (1 - a_t) v_t."""

    class Tied(torch.nn.Module):
        def __init__(self, layer: GateLoopLayer):
            super().__init__()
            self.inner, self.magnitude = layer.project, layer.magnitude

        def forward(self, x: Tensor) -> Tensor:
            q, _, v = self.inner(x).chunk(3, -1)
            return torch.cat([q, 1 - torch.sigmoid(self.magnitude(x)), v], -1)

    layer, x = gate_loop(), normal(B, T, WIDTH)
    set_to(layer.phase, 0.0)
    for tied in (False, True):
        if tied:
            layer.project = Tied(layer)  # pyright: ignore[reportAttributeAccessIssue]
        q, k, v, a, _, gate = parts(layer, x)
        h, outputs = torch.zeros(B, WIDTH, dtype=torch.float64), []
        for t in range(T):
            h = a[:, t] * h + ((1 - a[:, t]) if tied else k[:, t]) * v[:, t]
            outputs.append(q[:, t] * h)
        assert_same(layer(x)[0], layer.out(torch.stack(outputs, 1) * gate))


def test_phases_alone_are_linear_attention_turned_by_the_content() -> None:
    """|a| = 1: queries and keys of two channels, turned by the sum of all phases so far."""
    layer, x = gate_loop(), normal(B, T, WIDTH)
    set_to(layer.magnitude, 1000.0)
    q, k, v, _, phase, gate = parts(layer, x)
    turns = phase.cumsum(1)
    circle = torch.stack([torch.cos(turns), torch.sin(turns)], -1)
    plain = mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0))
    o, _ = mn.run(plain, q[..., None] * circle, k[..., None] * circle, v[..., None])
    assert_same(layer(x)[0], layer.out(o[..., 0] * gate))


# Fast and forgetful memory


def forgetful(traces: int = 5, contexts: int = 3) -> FastForgetfulLayer:
    layer = mn.zoo.ffm(traces=traces, contexts=contexts).build(WIDTH, H).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return layer


def test_ffm_is_its_closed_form() -> None:
    """S_t = sum_i exp((t - i) (-alpha + i omega)) x'_i, and what is made of it."""
    layer, x = forgetful(), normal(B, 21, WIDTH)
    value, entry, gate, skip = layer.project(x).split(layer.sizes, -1)
    written = value * torch.sigmoid(entry)
    rate = -layer.forgetting[:, None] + 1j * layer.frequency
    apart = torch.arange(21)[:, None] - torch.arange(21)
    kernel = torch.where((apart >= 0)[..., None, None], torch.exp(apart.clamp(min=0)[..., None, None] * rate), 0)
    traces = torch.einsum("tsmc,bsm->btcm", kernel, written.to(kernel.dtype))
    seen = torch.cat([traces.real, traces.imag], -1).flatten(-2)
    z = F.layer_norm(layer.read(seen), (WIDTH,))
    g = torch.sigmoid(gate)
    assert_same(layer(x)[0], z * g + skip * (1 - g), 1e-9)


def impulse(layer: FastForgetfulLayer, time: int) -> Tensor:
    """Traces (T, contexts, 2 m) after a 1 at the first token."""
    decay, angle = (x.detach() for x in layer.factors(torch.float64))
    shape = (1, time, layer.groups, layer.traces)
    value = torch.zeros(1, time, layer.groups, layer.channels, dtype=torch.float64)
    value[:, 0, :, : layer.traces] = 1
    controls = {"decay": decay.expand(shape), "angle": angle.expand(shape)}
    return layer.recur(value, controls, layer.init_state(1), None)[0][0]


def test_an_impulse_fades_and_oscillates() -> None:
    layer = forgetful()
    h = impulse(layer, 30)
    t = torch.arange(30, dtype=torch.float64)[:, None, None]
    size, turn = torch.exp(-t * layer.forgetting), t * layer.frequency[:, None]
    assert_same(h, torch.cat([size * torch.cos(turn), size * torch.sin(turn)], -1))


def test_the_slowest_trace_forgets_to_one_percent_after_its_span() -> None:
    layer = mn.zoo.ffm().build(WIDTH, H)
    decay, angle = (x.detach() for x in layer.factors(torch.float64))
    assert float(decay.max()) ** 1024 == pytest.approx(0.01, rel=1e-3)
    assert float(angle.min()) * 1024 == pytest.approx(2 * math.pi, rel=1e-5)
    assert len(decay) == 32 and len(angle) == 4


def test_without_decay_and_frequency_traces_are_sums() -> None:
    layer = forgetful()
    with torch.no_grad():
        layer.forgetting.zero_()
        layer.frequency.zero_()
        layer.project.bias[-2 * WIDTH : -WIDTH] = 1000.0  # memory only
    x = normal(B, T, WIDTH)
    value, entry, _, skip = layer.project(x).split(layer.sizes, -1)
    sums = (value * torch.sigmoid(entry)).cumsum(1)
    seen = torch.cat([sums, torch.zeros_like(sums)], -1).repeat(1, 1, layer.groups)
    assert_same(layer(x)[0], F.layer_norm(layer.read(seen), (WIDTH,)), 1e-6)  # alpha is at least 1e-8
    with torch.no_grad():
        layer.project.bias[-2 * WIDTH : -WIDTH] = -1000.0  # the skip only
    assert_same(layer(x)[0], skip)
