"""Law: the algorithms are sound in single and half precision, and at the ends of their ranges."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import (
    MEMORIES,
    MODELS,
    NETWORKS,
    VOCABULARY,
    Inputs,
    assert_close,
    assert_states_close,
    each_model,
    executors_for,
    make_model,
    name_of,
    some_tokens,
)
from torch import Tensor

import mnemos as mn
from mnemos.execute import Request
from mnemos.execute.coefficients import PairProducts
from mnemos.execute.conjugate_gradients import solve_all
from mnemos.execute.nonlinear import substitute
from mnemos.execute.triangular import unit_lower_inverse
from mnemos.lowering import EXECUTORS, candidates
from mnemos.memory import AnyMemory, HigherOrder, LogLinear


def pair_products(a: Tensor) -> Tensor:
    """P[t, s] = product of a_i over s < i <= t, literally."""
    size = a.shape[-1] + 1
    rows = [
        torch.stack([a[..., s:t].prod(-1) if s <= t else torch.zeros_like(a[..., 0]) for s in range(size)], -1)
        for t in range(size)
    ]
    return torch.stack(rows, -2)


@pytest.mark.parametrize("zeros", [(), (0,), (2,), (4,), (1, 3), (0, 1, 2, 3, 4)])
def test_pair_products(zeros: tuple[int, ...]) -> None:
    a = torch.rand(2, 5, dtype=torch.float64)
    a[1, list(zeros)] = 0.0
    a.requires_grad_()
    product = PairProducts.apply(a)
    assert_close(product, pair_products(a), "products", 1e-15)
    assert torch.autograd.gradcheck(PairProducts.apply, (a,))
    weight = torch.randn_like(product)
    (found,) = torch.autograd.grad((product * weight).sum(), a)
    (expected,) = torch.autograd.grad((pair_products(a) * weight).sum(), a)
    assert_close(found, expected, "gradient", 1e-13)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("kind", ["random", "identical keys", "zero"])
def test_unit_lower_inverse(size: int, kind: str) -> None:
    lower = {
        "random": torch.randn(3, size, size, dtype=torch.float64),
        "identical keys": torch.ones(3, size, size, dtype=torch.float64),
        "zero": torch.zeros(3, size, size, dtype=torch.float64),
    }[kind].tril(-1)
    if kind == "random":
        lower = lower / size**0.5
    eye = torch.eye(size, dtype=torch.float64)
    expected = torch.linalg.solve_triangular(eye + lower, eye.expand(3, -1, -1), upper=False, unitriangular=True)
    assert_close(unit_lower_inverse(lower), expected, "inverse", 1e-12)
    assert not unit_lower_inverse(lower).triu(1).any(), "later tokens would reach earlier ones"
    assert_close(unit_lower_inverse(lower.float()), expected, "inverse in single precision", 1e-4)
    if size == 16:
        lower = lower[:1].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: unit_lower_inverse(x.tril(-1)), (lower,))


MATRICES = [
    mn.Memory(mn.Matrix(), objective, retention, mn.GD(momentum=momentum, anchor=anchor))
    for objective in (mn.Dot(), mn.L2())
    for retention in (mn.Keep(), mn.Decay(per="head"), mn.Decay(per="channel"))
    for momentum in (False, True)
    for anchor in ("retained", "previous")
    if objective == mn.L2() or anchor == "retained"
]


def in_parallel(memory: AnyMemory, inputs: Inputs) -> list[str]:
    """The executors that run this memory, but for the loop."""
    return [plan for plan in executors_for(memory, inputs) if plan != "loop"]


@pytest.mark.parametrize(
    ("memory", "decay"),
    [
        (m, d)
        for m in MATRICES
        for d in ("1", "0", "1e-30", "0 or 1", "tiny to 1", "0.03 to 1")
        if d == "1" or m.retention != mn.Keep()
    ],
    ids=str,
)
def test_chunk_forms_in_single_precision(memory: mn.Memory, decay: str) -> None:
    """2,000 tokens with identical keys, full steps and decays at the ends of the range: single precision stays at
    double precision, up to one part in a thousand of the largest number."""
    time = 2000
    inputs = Inputs(memory, time, batch=1, heads=1, key_dim=8)
    inputs.k = inputs.k[:, :1].expand(-1, time, -1, -1).clone()
    shape = inputs.controls.get("decay", torch.empty(1, time, 1)).shape
    controls = inputs.controls
    if "rate" in controls and memory.objective == mn.L2():
        controls["rate"] = torch.ones_like(controls["rate"])
    if memory.retention != mn.Keep():
        controls["decay"] = {
            "0": torch.zeros(shape),
            "1": torch.ones(shape),
            "1e-30": torch.full(shape, 1e-30),
            "0 or 1": (torch.rand(shape) < 0.9).float(),
            "tiny to 1": 10 ** (-30 * torch.rand(shape)),
            "0.03 to 1": 10 ** (-1.5 * torch.rand(shape)),
        }[decay].double()
    if "momentum" in controls:
        controls["momentum"] = 0.9 * controls["momentum"]
    for plan in in_parallel(memory, inputs):
        expected, last = mn.run(memory, *inputs.cut(0, time), plan=plan)
        q, k, v, c = inputs.cut(0, time)
        single = {name: value.float() for name, value in c.items()}
        leaf = v.float().requires_grad_()
        out, after = mn.run(memory, q.float(), k.float(), leaf, single, plan=plan)
        assert out.dtype == torch.float32 and after["matrix"].dtype == torch.float32
        assert_close(out, expected, plan, 1e-3)
        assert_close(after["matrix"], last["matrix"], f"{plan}: state", 1e-3)
        (gradient,) = torch.autograd.grad(out.square().mean(), leaf)
        assert torch.isfinite(gradient).all()
        # The algorithm in double precision is the plain loop (over fewer tokens, which is slow).
        early, _ = mn.run(memory, *inputs.cut(0, 150), plan="loop")
        assert_close(expected[:, :150], early, f"{plan} and the loop", 1e-9)


@pytest.mark.parametrize("objective", [mn.Dot(), mn.L2()], ids=str)
@pytest.mark.parametrize("least", [1e-3, 0.1, 0.9])
def test_gradients_by_decays_per_channel_in_single_precision(objective: mn.Objective, least: float) -> None:
    """Down to decays of a thousandth they are right to one part in a thousand of the largest."""
    memory = mn.Memory(mn.Matrix(), objective, mn.Decay(per="channel"))
    inputs = Inputs(memory, 300)
    decay = inputs.controls["decay"]
    decay.copy_(torch.where(torch.rand_like(decay) < 0.05, least, 0.9 + 0.1 * torch.rand_like(decay)))
    for plan in in_parallel(memory, inputs):
        found = []
        for dtype in (torch.float64, torch.float32):
            q, k, v = (x.to(dtype) for x in (inputs.q, inputs.k, inputs.v))
            controls = {name: x.to(dtype).requires_grad_() for name, x in inputs.controls.items()}
            out, _ = mn.run(memory, q, k, v, controls, plan=plan)
            found.append(torch.autograd.grad(out.square().mean(), controls["decay"])[0])
        assert_close(found[1] / found[0].abs().max(), found[0] / found[0].abs().max(), f"{plan}: by the decay", 1e-3)


@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0])
def test_the_delta_rule_at_the_ends_of_its_rate(rate: float) -> None:
    """0 writes nothing, 1 replaces, 2 reflects (the erasure I - 2 k k^T keeps norms): none of them diverges."""
    memory = mn.Memory()
    inputs = Inputs(memory, 500)
    inputs.controls["rate"].fill_(rate)
    expected, last = mn.run(memory, *inputs.cut(0, 500), plan="reference")
    for plan in in_parallel(memory, inputs):
        out, state = mn.run(memory, *inputs.cut(0, 500), plan=plan)
        assert_close(out, expected, f"{plan}: outputs")
        assert_close(state["matrix"], last["matrix"], f"{plan}: state")


LONG: list[AnyMemory] = [
    mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="channel")),
    mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="pair", rotate="value")),
    mn.Memory(mn.Matrix(), mn.L2(), mn.Decay()),
    mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(momentum=True, anchor="previous")),
    mn.Memory(mn.Matrix(), mn.Huber(0.5), mn.Decay()),
    mn.Memory(mn.MLP(depth=2), mn.L2(), mn.Decay(), mn.GD(momentum=True, anchor=mn.Chunk(64))),
    HigherOrder("second", decay=True),
    LogLinear(mn.Memory(mn.Matrix(), mn.L2(), mn.Decay()), 18),
    mn.KVMemory(retain=mn.Window(64, sinks=2), read=mn.Softmax(rotary=10000.0)),
]


@pytest.mark.long
@pytest.mark.parametrize("memory", LONG, ids=name_of)
def test_65536_tokens_in_single_precision(memory: AnyMemory) -> None:
    """Half of them with one and the same key: finite in both directions, and in pieces what it is as a whole."""
    time = 65536
    inputs = Inputs(memory, time, batch=1, heads=1, key_dim=8)
    inputs.k[:, time // 4 : 3 * time // 4] = inputs.k[:, :1]
    if isinstance(memory, mn.Memory) and memory.structure.learned:
        inputs.controls["rate"].mul_(0.002)  # a network whose gradient does not grow along the way
    if "decay" in inputs.controls:
        inputs.controls["decay"].mul_(0.1).add_(0.899)
    q, k, v, controls = inputs.cut(0, time)
    q, k, v = q.float(), k.float(), v.float().requires_grad_()
    controls = {name: x.float() for name, x in controls.items()}
    weights = {name: x.float() for name, x in inputs.weights.items()}
    matrix = isinstance(memory, mn.Memory) and memory.structure.linear_in_weights
    for plan in in_parallel(memory, inputs) if matrix else [None]:
        out, last = mn.run(memory, q, k, v, controls, weights, plan=plan)
        assert torch.isfinite(out).all(), plan
        (gradient,) = torch.autograd.grad(out.square().mean(), v)
        assert torch.isfinite(gradient).all() and gradient.any(), plan
        state, pieces = memory.init(1, 1, 8, inputs.value_dim, weights), []
        with torch.no_grad():
            for start, end in ((0, 10_001), (10_001, 50_000), (50_000, time)):
                part = {name: x[:, start:end] for name, x in controls.items()}
                given = (x[:, start:end] for x in (q, k, v))
                piece, state = mn.run(memory, *given, part, state=state, plan=plan)
                pieces.append(piece)
        assert_close(torch.cat(pieces, 1), out, f"{plan}: in pieces", 1e-3)
        assert_states_close(state, last, tolerance=1e-3)


@each_model()
def test_single_precision_models(spec: mn.ModelSpec) -> None:
    """A fresh float32 model computes what its float64 copy computes, up to one part in ten thousand."""
    model, tokens = mn.LanguageModel(spec), some_tokens(2, 40)
    logits, _ = model(tokens)
    assert logits.dtype == torch.float32
    expected, _ = model.double()(tokens)
    error = float((logits - expected).detach().norm() / expected.detach().norm())
    assert error <= 1e-4, f"off by {error:.1e} of the logits' norm"


@each_model()
def test_bfloat16_autocast(spec: mn.ModelSpec) -> None:
    """Under autocast a fresh model's logits are off by less than a quarter of their norm (typically by a fiftieth;
    a head norm behind a first token that answers next to nothing blows rounding up), fast weights are float32,
    gradients finite."""
    model, tokens = mn.LanguageModel(spec), some_tokens(2, 40)
    expected, _ = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(tokens)
        _, state = model(tokens[:, :3], state)
    error = float((logits.float() - expected).detach().norm() / expected.detach().norm())
    assert 0 < error <= 0.25, f"off by {error:.1e} of the logits' norm"
    for name, tensor in state.tensors():
        if any(part in name for part in ("matrix", "layer1", "layer2", "layer3")):
            assert tensor.dtype == torch.float32, name
    loss = logits.float().square().mean()
    outside = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    for (name, parameter), gradient in zip(model.named_parameters(), outside, strict=True):
        for found in (parameter.grad, gradient):
            assert found is not None and torch.isfinite(found).all() and found.dtype == torch.float32, name


def one_of_each() -> dict[str, tuple[AnyMemory, int]]:
    """For every executor that trains here, a memory that it runs and the width of its keys."""
    found: dict[str, tuple[AnyMemory, int]] = {}
    of_layers = [p.memory for spec in MODELS.values() for p in spec.pattern if isinstance(p, mn.LayerSpec)]
    for memory, key_dim in itertools.product([*MEMORIES, *of_layers], (4, 1)):
        if memory.differentiable:
            request = Request(1, 37, 1, key_dim, key_dim, torch.float32, "cpu", True)
            for executor in candidates(memory):
                if executor.name not in found and executor.declines(memory, request) is None:
                    found[executor.name] = memory, key_dim
    return found


ONE_OF_EACH = one_of_each()


def test_every_executor_that_trains_here_is_held_against_autocast() -> None:
    assert {e.name for e in EXECUTORS} - set(ONE_OF_EACH) == {"matrix step", "chain step", "fla kernel"}


@pytest.mark.parametrize("plan", ONE_OF_EACH)
@pytest.mark.parametrize("kept", [2**14, 0])
def test_autocast_leaves_memories_alone(plan: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside an autocast block, forwards and backwards, outputs are the same to the bit and gradients up to the
    rounding of single products, whether intermediates are kept or made again."""
    monkeypatch.setattr("mnemos.execute.recompute.KEPT", kept)
    memory, key_dim = ONE_OF_EACH[plan]
    inputs = Inputs(memory, 37, key_dim=key_dim)
    found: dict[bool, tuple[Tensor, dict[str, Tensor]]] = {}
    for inside in (False, True):
        given = {name: x.detach().float().requires_grad_() for name, x in inputs.tensors.items()}
        controls, weights = ({name: given[name] for name in named} for named in (inputs.controls, inputs.weights))
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            out, _ = mn.run(memory, given["q"], given["k"], given["v"], controls, weights or None, plan=plan)
            (out.square().sum() + out.sum()).backward()
        found[inside] = out.detach(), {name: x.grad for name, x in given.items() if x.grad is not None}
    (out, gradients), (same, rounded) = found[False], found[True]
    assert same.dtype == torch.float32 and torch.equal(out, same) and gradients.keys() == rounded.keys()
    for name, gradient in gradients.items():
        error = float((rounded[name] - gradient).norm())
        assert error <= 0.05 * float(gradient.norm()) + 1e-6, f"{name}: off by {error:.1e} of {gradient.norm():.1e}"


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def anchored(q: Tensor, v: Tensor) -> Tensor:
    memory = mn.Memory(mn.MLP(depth=2, expansion=2), mn.L2(), mn.Keep(), mn.GD(rate=0.1, anchor=mn.Chunk(4)))
    weights = memory.initial_weights(2, 4, 4, torch.Generator().manual_seed(0))
    return mn.run(memory, q, q.detach(), v, weights=weights, plan="anchored dual")[0]


BY_HAND = {
    "pairs of factors": (PairProducts.apply, (3, 6)),
    "forward substitution": (
        lambda a, v: substitute(mn.Huber(0.5), a, 0.1 * v @ v.mT, v, {}),
        (1, 2, 5, 4),
        (1, 2, 5, 4),
    ),
    "conjugate gradients": (
        lambda q, k: solve_all(q, torch.eye(4), k, torch.ones(5), torch.ones(5, 5).tril(), torch.ones(5, 4)),
        (5, 4),
        (5, 4),
    ),
    "chains": (anchored, (1, 9, 2, 4), (1, 9, 2, 4)),
}
"""Backward passes that stand in no other executor's way, with the shapes of their arguments."""


@pytest.mark.parametrize("name", BY_HAND)
def test_autocast_does_not_round_in_backward_passes_by_hand(name: str) -> None:
    """Those of the gradients that come out of them as they are are the same to the bit."""
    function, *shapes = BY_HAND[name]
    given = [randn(*shape) for shape in shapes]
    out = function(*given)
    push = torch.randn_like(out)
    outside = torch.autograd.grad(out, given[:1], push, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(out, given[:1], push)
    assert torch.equal(outside[0], inside[0]) and outside[0].any()


@each_model()
def test_every_parameter_learns(spec: mn.ModelSpec) -> None:
    model, tokens = make_model(spec), some_tokens(2, 30)
    logits, _ = model(tokens)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (parameter.grad.any() or not parameter.numel()), name


@each_model()
def test_rows_of_a_batch_are_what_they_are_alone(spec: mn.ModelSpec) -> None:
    model, tokens = make_model(spec), some_tokens(3, 19)
    together, state = model(tokens)
    for row in range(3):
        alone, end = model(tokens[row : row + 1])
        assert_close(together[row : row + 1], alone, f"row {row}")
        assert state.select(torch.tensor([row])).nbytes == end.nbytes
    assert together.shape[-1] == VOCABULARY


def test_the_table_has_every_entry() -> None:
    assert set(mn.zoo.entries()) <= {*MODELS, *NETWORKS}
