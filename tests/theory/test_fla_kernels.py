"""The executor on flash-linear-attention's kernels: what it hands them, against the oracle, without a GPU.

The kernels are played by a loop over tokens, written from their documentation: argument names, layouts, logarithms,
scale, and what they refuse. Where there is a GPU and the package, the real ones take the same test.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import PlanError
from mnemos.execute import FLAKernel, Request, fla_kernels
from mnemos.lowering import lower, run_rows
from mnemos.state import State

B, H, K, V = 2, 3, 4, 5
REAL = torch.cuda.is_available() and find_spec("fla") is not None and find_spec("triton") is not None
GPU = Request(B, 40, H, K, V, torch.bfloat16, "cuda", True)


# The kernels' documented meaning.


def play(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor | None, scale: float | None, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = Diag(exp(g_t)) S_t-1 + beta_t k_t (v_t - S_t^T k_t)^T (all of v_t without beta), o_t = scale S_t^T q_t."""
    assert q.ndim == k.ndim == v.ndim == 4 and q.shape == k.shape and v.shape[:3] == q.shape[:3]
    assert q.dtype == k.dtype == v.dtype and q.shape[1] > 0
    batch, time, heads, key_dim = q.shape
    assert key_dim % 2 == 0 and v.shape[-1] % 2 == 0, "chunk_bwd_dv requires even K and V"
    assert initial_state.shape == (batch, heads, key_dim, v.shape[-1])
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    assert initial_state.dtype == work
    dtype, scale = q.dtype, key_dim**-0.5 if scale is None else scale
    q, k, v = q.to(work) * scale, k.to(work), v.to(work)
    state, outputs = initial_state, []
    for t in range(time):
        if g is not None:
            assert g.dtype == work and bool((g <= 0).all())
            assert bool(torch.isfinite(g).all()), "differences of infinite sums are NaN"
            state = state * (g[:, t, :, :, None] if g.ndim == 4 else g[:, t, :, None, None]).exp()
        value = v[:, t]
        if beta is not None:
            assert beta.shape == (batch, time, heads)
            value = beta[:, t, :, None] * (value - torch.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + k[:, t, :, :, None] * value[:, :, None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, 1).to(dtype), state


def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state and g_gamma is None and (g is None or g.shape == q.shape[:3])
    return play(q, k, v, g, None, scale, initial_state)


def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state and g.shape == q.shape
    return play(q, k, v, g, None, scale, initial_state)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state and q.dtype != torch.float32
    return play(q, k, v, None, beta, scale, initial_state)


def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state and g.shape == q.shape[:3] and q.shape[-1] <= 256
    return play(q, k, v, g, beta, scale, initial_state)


def chunk_kda(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state and g.shape == q.shape and q.shape[-1] <= 256
    return play(q, k, v, g, beta, scale, initial_state)


PACKAGE = {
    "fla.ops.simple_gla": chunk_simple_gla,
    "fla.ops.gla": chunk_gla,
    "fla.ops.delta_rule": chunk_delta_rule,
    "fla.ops.gated_delta_rule": chunk_gated_delta_rule,
    "fla.ops.kda": chunk_kda,
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a GPU that is not Hopper, and the package."""

    def load(kernel: fla_kernels.Kernel) -> Any:
        function = PACKAGE[kernel.module]
        assert function.__name__ == kernel.function
        return function

    monkeypatch.setattr(fla_kernels, "load", load)
    monkeypatch.setattr(fla_kernels, "not_installed", lambda: None)
    monkeypatch.setattr(fla_kernels, "wrong_gradients", lambda: None)


@pytest.fixture
def kernels(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """That machine, and every request taken for one in bfloat16 on its GPU."""
    declines = FLAKernel.declines

    def on_gpu(self: FLAKernel, memory: Any, request: Request) -> str | None:
        return declines(self, memory, request._replace(device="cuda", dtype=torch.bfloat16))

    monkeypatch.setattr(FLAKernel, "declines", on_gpu)


# Which memories.

OBJECTIVES = (mn.Dot(), mn.L2())
RETENTIONS = (mn.Keep(), mn.Decay(), mn.Decay(per="channel"))
ANCHORS = ("retained", "previous", mn.Chunk(1))
ALL = [
    mn.Memory(structure, objective, retention, mn.GD(rate=rate, anchor=anchor))
    for structure, objective, retention, rate, anchor in itertools.product(
        (mn.Matrix(), mn.Matrix(learned=True)), OBJECTIVES, RETENTIONS, (None, 0.5, 1.0), ANCHORS
    )
]


def suits(memory: mn.Memory) -> bool:
    """The gradient does not see the difference between the weights before and after forgetting, or takes the latter."""
    return (
        memory.objective == mn.Dot()
        or memory.retention == mn.Keep()
        or memory.learner == replace(memory.learner, anchor="retained")
    )


SUITED = [memory for memory in ALL if suits(memory)]
RUN = [m for m in SUITED if not m.structure.learned and (m.learner.rate != 1.0 or m.learner.anchor == "retained")]


def name_of(memory: mn.Memory) -> str:
    learner = memory.learner
    return f"{memory.objective}-{memory.retention}-rate={learner.rate}-{learner.anchor}-{learner.steps}".replace(
        " ", ""
    )


DISGUISED = [
    mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(rotate="key"), mn.GD()),
    mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="pair", rotate="key"), mn.GD()),
    mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(), mn.GD(steps=3)),
    mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="channel"), mn.GD(rate=0.4, steps=2)),
]


def test_which_memories_it_accepts(machine: None) -> None:
    for memory in ALL:
        reason = FLAKernel().declines(memory, GPU)
        assert (reason is None) == suits(memory), f"{memory}: {reason}"


@pytest.mark.parametrize(
    ("memory", "request_", "words"),
    [
        (mn.Memory(), GPU._replace(device="cpu"), "it is for GPUs; the inputs are on cpu"),
        (mn.Memory(), GPU._replace(dtype=torch.float64), "less precise than float64"),
        (mn.Memory(), GPU._replace(dtype=torch.float32), "less precise than float32"),
        (mn.Memory(), GPU._replace(key_dim=257), "at most 256 wide"),
        (mn.Memory(mn.Matrix(), mn.Huber(0.5)), GPU, "neither constant nor the residual"),
        (mn.Memory(mn.MLP(depth=2)), GPU, "not a single matrix"),
        (mn.Memory(learner=mn.GD(momentum=True)), GPU, "no momentum"),
        (mn.Memory(learner=mn.GD(anchor=mn.Chunk(4))), GPU, "at the start of a chunk"),
        (mn.Memory(learner=mn.GD(steps=2)), GPU, "several pairs"),
        (mn.Memory(read_timing="before"), GPU, "reads after the write"),
        (mn.Memory(retention=mn.Decay(), learner=mn.GD(anchor="previous")), GPU, "after forgetting"),
        (mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(per="value")), GPU, "scale them by head or key channel"),
        (mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(rotate="key")), GPU, "scale them by head or key channel"),
        (mn.KVMemory(), GPU, "a KVMemory"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_why_it_declines(machine: None, memory: Any, request_: Request, words: str) -> None:
    assert words in str(FLAKernel().declines(memory, request_))


def test_wide_keys_without_a_gradient_that_depends_on_the_state(machine: None) -> None:
    assert FLAKernel().declines(mn.Memory(mn.Matrix(), mn.Dot()), GPU._replace(key_dim=512)) is None


def test_it_does_not_cut_a_compiled_graph(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert "torch.compile" in str(FLAKernel().declines(mn.Memory(), GPU))


# What the machine has.


@pytest.fixture
def forgetful() -> Iterator[None]:
    for cached in (fla_kernels.not_installed, fla_kernels.wrong_gradients):
        cached.cache_clear()
    yield
    for cached in (fla_kernels.not_installed, fla_kernels.wrong_gradients):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("found", "core", "words"),
    [
        ((), None, "not installed"),
        (("fla",), "0.6.0", "not installed"),
        (("triton",), None, "not installed"),
        (("fla", "triton"), None, "before 0.4"),
        (("fla", "triton"), "0.4.2", "0.4.2"),
        (("fla", "triton"), "0.6.0", None),
        (("fla", "triton"), "1.0rc1", None),
    ],
)
def test_without_the_package_or_with_an_old_one(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, found: tuple[str, ...], core: str | None, words: str | None
) -> None:
    def version(name: str) -> str:
        assert name == "fla-core"
        if core is None:
            raise fla_kernels.PackageNotFoundError(name)
        return core

    monkeypatch.setattr(fla_kernels, "find_spec", lambda name: object() if name in found else None)
    monkeypatch.setattr(fla_kernels, "version", version)
    monkeypatch.setattr(fla_kernels, "wrong_gradients", lambda: None)
    reason = FLAKernel().declines(mn.Memory(), GPU)
    assert reason is None if words is None else words in str(reason)


@pytest.mark.parametrize(
    ("generation", "triton", "right"),
    [(9, "3.6.0", False), (9, "3.4.0", False), (9, "3.7.1", True), (9, "3.3.1", True), (8, "3.6.0", True)],
)
def test_gradients_that_triton_gets_wrong(
    forgetful: None, monkeypatch: pytest.MonkeyPatch, generation: int, triton: str, right: bool
) -> None:
    monkeypatch.setattr(fla_kernels, "not_installed", lambda: None)
    monkeypatch.setattr(fla_kernels, "version", lambda name: {"triton": triton}[name])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (generation, 0))
    gated = mn.Memory(retention=mn.Decay())
    assert (FLAKernel().declines(gated, GPU) is None) == right
    assert FLAKernel().declines(gated, GPU._replace(training=False)) is None
    assert FLAKernel().declines(mn.Memory(), GPU) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_on_a_cpu_nothing_is_looked_for(forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> None:
        raise AssertionError(f"looked for {name}")

    monkeypatch.setattr(fla_kernels, "find_spec", found)
    monkeypatch.setattr(fla_kernels, "version", found)
    layer = mn.MemoryLayer(mn.zoo.gated_deltanet(), width=16, heads=2)
    assert "not by     fla kernel: it is for GPUs; the inputs are on cpu\n" in layer.explain(length=64)
    layer(torch.randn(1, 8, 16))
    assert "fla" not in sys.modules
    with pytest.raises(PlanError, match="it is for GPUs"):
        lower(mn.Memory(), GPU._replace(device="cpu"), "fla kernel")


def test_it_is_taken_where_it_can(machine: None) -> None:
    for name, plan in (
        ("gated_deltanet", "fla kernel"),
        ("deltanet", "fla kernel"),
        ("gla", "fla kernel"),
        ("kda", "fla kernel"),
        ("gated_deltaproduct", "steps as tokens: fla kernel"),
        ("titans_lmm", None),
    ):
        memory = getattr(mn.zoo, name)().memory
        taken = lower(memory, GPU).executor.name
        assert taken == plan if plan else "fla" not in taken
    assert lower(mn.Memory(), GPU).flops > 0


# What it computes.


class Case:
    """Random float64 inputs of a memory, all of them leaves, and a state in the middle of its life. `zeros`: decays
    are 0 here and there; 1 they are here and there anyhow."""

    def __init__(
        self,
        memory: mn.Memory,
        time: int,
        zeros: bool = False,
        dtype: torch.dtype = torch.float64,
        sizes: tuple[int, int] = (K, V),
    ):
        def random(*shape: int) -> Tensor:
            return torch.randn(B, time, H, *shape, dtype=torch.float64)

        self.memory, self.time, self.sizes, pairs = memory, time, sizes, memory.pairs
        key_dim, value_dim = sizes
        keys = torch.nn.functional.normalize(random(pairs, key_dim), dim=-1).flatten(-2)
        self.q, self.k, self.v = random(key_dim), keys, random(pairs * value_dim)
        self.controls: dict[str, Tensor] = {}
        for control in memory.controls:
            size = control.size(key_dim, value_dim)
            value = random(*([] if size is None else [size]))
            if control.name != "angle":
                value = value.sigmoid()
            if control.name == "decay":
                value = ((1.8 * value - 0.4) if zeros else 1.2 * value).clamp(0, 1)
                assert bool((value == 0).any()) == zeros and (time < 9 or bool((value == 1).any()))
            self.controls[control.name] = value
        self.start = torch.randn(B, H, value_dim, key_dim, dtype=torch.float64)
        self.q, self.k, self.v = (x.to(dtype).requires_grad_() for x in (self.q, self.k, self.v))
        self.start = self.start.to(memory.state_dtype(dtype)).requires_grad_()
        for name, value in self.controls.items():
            self.controls[name] = value.to(self.start.dtype).requires_grad_()

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {"q": self.q, "k": self.k, "v": self.v, "start": self.start, **self.controls}

    def state(self) -> State:
        return self.memory.init(B, H, *self.sizes, dtype=self.start.dtype).successor(matrix=self.start)

    def run(self, plan: str, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, after = run_rows(self.memory, self.q, self.k, self.v, self.controls, self.state(), lengths, plan)
        if lengths is not None:
            live = torch.arange(self.time) < lengths[:, None]
            out = torch.where(live[..., None, None], out, 0.0)
        return out, after["matrix"]

    def gradients(self, out: Tensor, last: Tensor) -> dict[str, Tensor]:
        weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        loss = (out.double() * weigh).sum() + last.double().sin().sum()
        return dict(zip(self.leaves, torch.autograd.grad(loss, list(self.leaves.values())), strict=True))


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9) -> None:
    assert found.shape == expected.shape, what
    error = float((found.detach().double() - expected.detach().double()).abs().max())
    assert error <= tolerance * max(1.0, float(expected.detach().abs().max())), f"{what}: off by {error:.2e}"


def plan_for(memory: mn.Memory) -> str:
    return lower(memory, GPU).executor.name


LENGTHS = (None, torch.tensor([0, 13]))


@pytest.mark.parametrize("memory", [*RUN, *DISGUISED], ids=name_of)
@pytest.mark.parametrize("lengths", LENGTHS, ids=("whole", "lengths"))
def test_outputs_state_and_gradients_are_the_oracles(kernels: None, memory: mn.Memory, lengths: Tensor | None) -> None:
    case = Case(memory, 19)
    assert_the_oracles(case, plan_for(memory), lengths)


def assert_the_oracles(case: Case, plan: str, lengths: Tensor | None = None) -> None:
    assert "fla kernel" in plan
    (expected, last), (out, after) = case.run("reference", lengths), case.run(plan, lengths)
    close(out, expected, "outputs")
    close(after, last, "state")
    wanted, found = case.gradients(expected, last), case.gradients(out, after)
    for name, gradient in wanted.items():
        close(found[name], gradient, f"gradient by {name}")


@pytest.mark.parametrize("memory", [m for m in RUN if m.learner == mn.GD()], ids=name_of)
@pytest.mark.parametrize("sizes", [(3, 4), (5, 1), (6, 2)], ids=str)
def test_odd_sizes(kernels: None, memory: mn.Memory, sizes: tuple[int, int]) -> None:
    """Rows of odd width are more than the kernels' compiler can do."""
    assert_the_oracles(Case(memory, 11, sizes=sizes), "fla kernel")


@pytest.mark.parametrize("memory", [m for m in RUN if m.retention != mn.Keep()], ids=name_of)
def test_decays_of_zero(kernels: None, memory: mn.Memory) -> None:
    """All is the oracle's but the gradient by such a decay itself, which is 0."""
    case = Case(memory, 19, zeros=True)
    (expected, last), (out, after) = case.run("reference"), case.run("fla kernel")
    close(out, expected, "outputs")
    close(after, last, "state")
    wanted, found = case.gradients(expected, last), case.gradients(out, after)
    dead = case.controls["decay"] == 0
    assert bool(wanted["decay"][dead].any())
    wanted["decay"] = wanted["decay"].masked_fill(dead, 0.0)
    for name, gradient in wanted.items():
        close(found[name], gradient, f"gradient by {name}")


def test_a_smooth_gate_that_is_zero_gets_the_oracles_gradient(kernels: None) -> None:
    case = Case(mn.Memory(retention=mn.Decay()), 19)
    gate = torch.randn(B, 19, H, dtype=torch.float64).clamp(-0.5, 1).relu().requires_grad_()
    assert bool((gate == 0).any())
    found = []
    for plan in ("reference", "fla kernel"):
        case.controls["decay"] = gate.square()
        out, last = case.run(plan)
        found += torch.autograd.grad(out.square().sum() + last.sum(), gate)
    close(found[1], found[0], "gradient by the gate")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logarithm_of_a_decay(dtype: torch.dtype) -> None:
    """0 alone is changed, and is still 0 in float32; no gradient is NaN or infinite, down to the smallest number."""
    tiny = torch.finfo(torch.float32).smallest_normal
    decay = torch.tensor([0.0, 1e-45, tiny, 1e-6, 0.3, 1.0], dtype=dtype).requires_grad_()
    log = fla_kernels.log_decay(decay)
    values = log.detach()
    assert torch.equal(values[1:], decay.detach()[1:].log()) and values[0] == fla_kernels.LEAST_LOG < values[1]
    assert float(torch.tensor(fla_kernels.LEAST_LOG, dtype=torch.float32).exp()) == 0.0
    (gradient,) = torch.autograd.grad(log.exp().sum(), decay)  # the kernels' gradient by g is a multiple of exp(g)
    assert bool(torch.isfinite(gradient).all())
    assert gradient[0] == 0
    close(gradient[3:], torch.ones(3, dtype=dtype), "gradient", 1e-5)


@pytest.mark.parametrize("memory", [m for m in RUN if m.learner.anchor == "retained"], ids=name_of)
@pytest.mark.parametrize("first", ["fla kernel", "ours"])
def test_states_go_from_and_to_our_executors(kernels: None, memory: mn.Memory, first: str) -> None:
    case = Case(memory, 24)
    ours = "triangular delta" if memory.objective == mn.L2() else "cumulative decay"
    expected, last = case.run("reference")
    state, outputs = case.state(), []
    for here, plan in zip((slice(0, 11), slice(11, 24)), ("fla kernel", ours), strict=True):
        plan = plan if first == "fla kernel" else {"fla kernel": ours, ours: "fla kernel"}[plan]
        controls = {name: value[:, here] for name, value in case.controls.items()}
        out, state = run_rows(memory, case.q[:, here], case.k[:, here], case.v[:, here], controls, state, None, plan)
        outputs.append(out)
    close(torch.cat(outputs, 1), expected, "outputs")
    close(state["matrix"], last, "state")
    assert state["matrix"].is_contiguous() and state.owner == case.state().owner


def test_the_state_given_is_left_alone(kernels: None) -> None:
    case = Case(mn.Memory(), 24)
    given = case.start.detach().clone()
    token = (case.memory, case.q[:, :1], case.k[:, :1], case.v[:, :1], {"rate": torch.ones(B, 1, H).double()})
    with torch.no_grad():
        state = case.state()
        _, after = run_rows(case.memory, case.q, case.k, case.v, case.controls, state, None, "fla kernel")
        kept = after["matrix"].clone()
        assert torch.equal(case.start, given)
        run_rows(*token, state, None, "matrix step")
    assert not torch.equal(case.start, given)  # the step works in place,
    assert torch.equal(after["matrix"], kept)  # but not in what the kernel gave


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "memory", [m for m in RUN if m.learner.rate != 0.5 and m.learner.anchor == "retained"], ids=name_of
)
def test_half_precision(kernels: None, memory: mn.Memory, dtype: torch.dtype) -> None:
    """Inputs and outputs in their dtype, decays, rates and the state in float32."""
    case = Case(memory, 19, dtype=dtype)
    (expected, last), (out, after) = case.run("reference"), case.run("fla kernel")
    assert out.dtype == dtype and after.dtype == torch.float32
    close(out, expected, "outputs", 0.02)
    close(after, last, "state", 0.02)
    wanted, found = case.gradients(expected, last), case.gradients(out, after)
    for name, gradient in wanted.items():
        assert found[name].dtype == gradient.dtype
        close(found[name], gradient, f"gradient by {name}", 0.05)


def test_a_state_of_more_precision_than_the_inputs_want(kernels: None) -> None:
    case = Case(mn.Memory(retention=mn.Decay()), 19, dtype=torch.bfloat16)
    _, expected = case.run("fla kernel")
    case.start = case.start.detach().double()
    _, last = case.run("fla kernel")
    assert last.dtype == torch.float64 and torch.equal(last.float(), expected)


def test_queries_in_another_dtype_than_values(kernels: None) -> None:
    """Under autocast some layers normalise queries and keys in float32."""
    case = Case(mn.Memory(), 19, dtype=torch.bfloat16)
    expected, _ = case.run("fla kernel")
    case.q, case.k = case.q.detach().float(), case.k.detach().float()
    out, _ = case.run("fla kernel")
    assert torch.equal(out, expected)


def test_nothing_in_nothing_out(kernels: None) -> None:
    case = Case(mn.Memory(), 0)
    out, last = case.run("fla kernel")
    assert out.shape == (B, 0, H, V) and torch.equal(last, case.start)


def test_there_is_no_second_derivative(kernels: None) -> None:
    """The kernels' own backward is a constant to autograd; what is missing must not pass for zero."""
    case = Case(mn.Memory(), 5)
    out, _ = case.run("fla kernel")
    with pytest.raises(RuntimeError, match='once; run the memory with plan="loop" for second derivatives'):
        torch.autograd.grad(out.square().sum(), case.q, create_graph=True)


@pytest.mark.skipif(not REAL, reason="needs a GPU and flash-linear-attention")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("time", [64, 200])
@pytest.mark.parametrize(
    "memory", [m for m in RUN if m.learner.rate != 0.5 and m.learner.anchor == "retained"], ids=name_of
)
def test_the_real_kernels(memory: mn.Memory, time: int, zeros: bool) -> None:
    """Errors in the root of the mean square, as those of half precision scatter."""
    if zeros and memory.retention == mn.Keep():
        pytest.skip("nothing decays")
    torch.use_deterministic_algorithms(False)
    case = Case(memory, time, zeros=zeros, dtype=torch.bfloat16, sizes=(64, 33))
    reason = FLAKernel().declines(memory, GPU._replace(length=time))
    if reason is not None:
        pytest.skip(reason)
    lengths = torch.tensor([time - 7, time])
    expected, last = case.run("reference", lengths)
    wanted = {"outputs": expected, "state": last} | case.gradients(expected, last)
    device = {name: value.detach().cuda().requires_grad_() for name, value in case.leaves.items()}
    state = memory.init(B, H, *case.sizes, device="cuda").successor(matrix=device["start"])
    controls = {name: device[name] for name in case.controls}
    out, after = run_rows(memory, device["q"], device["k"], device["v"], controls, state, lengths.cuda(), "fla kernel")
    out = torch.where((torch.arange(time) < lengths[:, None])[..., None, None], out.cpu(), 0.0)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    loss = (out.double() * weigh).sum() + after["matrix"].cpu().double().sin().sum()
    gradients = torch.autograd.grad(loss, list(device.values()))
    found = {"outputs": out, "state": after["matrix"], **dict(zip(device, gradients, strict=True))}
    for name, value in wanted.items():
        mine, theirs = found[name].detach().double().cpu(), value.detach().double()
        assert bool(torch.isfinite(mine).all()), name
        if name == "decay":  # far below 1 its gradient is a quotient of small numbers
            kept = case.controls["decay"] > 0.05
            mine, theirs = mine[kept], theirs[kept]
        error = float((mine - theirs).square().mean().sqrt() / theirs.square().mean().sqrt().clamp_min(1e-3))
        assert error < 0.03, f"{name}: off by {error:.3f} of its size"
