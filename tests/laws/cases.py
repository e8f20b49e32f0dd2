"""What the laws are held against: every legal combination of the declared choices, and every entry of the zoo.

Both tables are read from the package, so that a new choice or a new system is tested by existing. A choice that has
options worth telling apart lists them in `VARIANTS`; any other stands here with its defaults.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import inspect
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidValue
from mnemos.execute import Request
from mnemos.layers import (
    DPFP,
    ContextualMemory,
    Direction,
    DualAttention,
    FilterAttention,
    FourierInput,
    HeadEmbeddings,
    LowRankDecay,
    Mimetic,
    PersistentMemory,
    Phase,
    Polarised,
    RelationalMemory,
    Shares,
    Sigmoid,
    Softplus,
    Unit,
)
from mnemos.lowering import candidates, run_rows
from mnemos.memory import (
    AdaptiveFilter,
    Address,
    Addressed,
    AnyMemory,
    CircleIntersection,
    Cliques,
    ClusteredWindow,
    CoreContext,
    Declaration,
    Delayed,
    DenseAssociative,
    Dilated,
    DynamicMask,
    EpisodicMemory,
    Every,
    GridNeighborhood,
    GridNeighborhoodAround,
    HeavyHitters,
    HigherOrder,
    Hopfield,
    Hops,
    Implicit,
    KeyDifference,
    KeyNorm,
    Landmark,
    LazyEviction,
    Learner,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    LocalLinear,
    Mask,
    MeanKey,
    MiniBatch,
    MLPScores,
    Neighborhood,
    NeighborhoodAround,
    Newest,
    NormedMLP,
    Objective,
    Omega,
    OrthogonalSlots,
    PowersOfTwo,
    Read,
    Recall,
    Relative,
    Representatives,
    Retain,
    Retention,
    Sampled,
    SoftmaxOne,
    SparseDistributed,
    Sparsey,
    Structure,
    Surprise,
    Willshaw,
)
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.objective import Lp, RobustShift
from mnemos.memory.retention import KL, Bregman, ElasticNet, ElasticNetDual, FDivergence, Lq
from mnemos.models import EndToEndMemorySpec, MemoryTokens, MemoSpec, NetworkDeclaration, PointerNetworkSpec
from mnemos.state import State

CHUNK = 4

VARIANTS: dict[type, list[Any]] = {
    mn.Matrix: [mn.Matrix(), mn.Matrix(learned=True)],
    mn.MLP: [
        mn.MLP(depth=1, norm=False),
        mn.MLP(depth=2, expansion=2, norm=True),
        mn.MLP(depth=3, expansion=2, norm=False),
    ],
    NormedMLP: [NormedMLP(depth=2, expansion=2)],
    MiniBatch: [MiniBatch(CHUNK)],
    mn.Huber: [mn.Huber(0.5), mn.Huber(None, form="norm"), mn.Huber(None, form="mixture")],
    Lp: [Lp(1.0), Lp(1.5, smooth=0.1), Lp(3.0)],
    RobustShift: [RobustShift(None)],
    Bregman: [Bregman("sigmoid"), Bregman("tanh", decay=False), Bregman("exp")],
    ElasticNet: [ElasticNet(0.02), ElasticNet(None)],
    ElasticNetDual: [ElasticNetDual(0.05)],
    FDivergence: [FDivergence("chi2"), FDivergence("reverse_kl", total=None), FDivergence("hellinger")],
    KL: [KL(), KL(total=None, decay=False)],
    Lq: [Lq(3.0, exact=True), Lq(4.0, epsilon=0.5, decay=False)],
    Hopfield: [Hopfield(), Hopfield(3, scale=2.0), Hopfield(2, eps=0.3, mask=PowersOfTwo(1))],
    Hops: [
        Hops(2),
        Hops(3, Relative(4, scale=1.0, mask=PowersOfTwo(1))),
        Hops(2, Delayed(2, around=NeighborhoodAround(3))),
    ],
    LocalLinear: [LocalLinear(0.3)],
    SoftmaxOne: [SoftmaxOne(), SoftmaxOne(scale=0.7, rotary=100.0, positions="original", mask=PowersOfTwo(1))],
    MLPScores: [MLPScores(3), MLPScores(2, activation="gelu", mask=PowersOfTwo(1))],
    AdaptiveFilter: [AdaptiveFilter(), AdaptiveFilter(mask=PowersOfTwo(1))],
    Relative: [Relative(4), Relative(3, beyond="clip", rotary=100.0, mask=PowersOfTwo(1))],
    OrthogonalSlots: [OrthogonalSlots(), OrthogonalSlots(unit=False)],
    mn.Decay: [mn.Decay(per=per) for per in ("head", "channel", "value", "outer")]
    + [mn.Decay(per=per, rotate="key") for per in ("head", "pair", "value")]
    + [mn.Decay(per=per, rotate="value") for per in ("head", "pair", "channel")],
    mn.GD: [mn.GD(momentum=m, anchor=a) for m in (False, True) for a in ("retained", "previous", mn.Chunk(CHUNK))]
    + [
        mn.GD(steps=2),
        mn.GD(rate=0.3, steps=3),
        mn.GD(rate=0.5, momentum=True),
        mn.GD(rate=0.5, anchor=mn.Chunk(CHUNK)),
    ],
    Implicit: [Implicit(), Implicit(diagonal=True)],
    Omega: [
        Omega(),
        Omega(window=1, momentum=True),
        Omega(window=3, momentum=True, muon=5),
        Omega(window=2, rate=0.1, muon=2),
    ],
    HeavyHitters: [
        HeavyHitters(5, recent=1),
        HeavyHitters(6, period=3, sinks=1, recent=2, decay=0.5),
        HeavyHitters(6, recent=2, decay=0.9, mean=True),
        HeavyHitters(64, recent=1),
    ],
    LazyEviction: [
        LazyEviction(5, period=3, recent=2, threshold=0.15, preference=preference)
        for preference in ("printed", "described", None)
    ],
    KeyDifference: [KeyDifference(5), KeyDifference(6, period=3, sinks=1, recent=2)],
    KeyNorm: [KeyNorm(5, recent=2), KeyNorm(6, period=4, recent=2)],
    LeastFrequentlyAttended: [LeastFrequentlyAttended(5, recent=2, threshold=0.15)],
    LeastRecentlyAttended: [LeastRecentlyAttended(6, period=2, threshold=0.3)],
    Newest: [Newest(5, period=2, sinks=2)],
    Sampled: [Sampled(5, recent=1, seed=7), Sampled(7, period=5, sinks=1, recent=2)],
    CircleIntersection: [CircleIntersection(8, 3), CircleIntersection(6, 5)],
    DenseAssociative: [
        DenseAssociative("power", 2),
        DenseAssociative("rectified", 3, sweeps=2),
        DenseAssociative("exp", sweeps=0),
    ],
    Dilated: [Dilated(2, gap=3)],
    Neighborhood: [Neighborhood(4, dilation=2, stride=3)],
    GridNeighborhood: [GridNeighborhood(5, rows=2, columns=2, row_dilation=2, column_dilation=2)],
    Delayed: [
        Delayed(2),
        Delayed(3, top=2, rotary=100.0),
        Delayed(1, rotary=100.0, positions="kept"),
        Delayed(2, rotary=100.0, around=NeighborhoodAround(3)),
        Delayed(7, top=2, around=NeighborhoodAround(4, dilation=2, stride=3)),
        Delayed(11, rotary=100.0, around=GridNeighborhoodAround(4, rows=3, columns=2, column_dilation=2)),
    ],
    Landmark: [
        Landmark(2, rotary=100.0),
        Landmark(3, top=2, positions="original"),
        Landmark(1, top=2, rotary=100.0, positions="stingy"),
    ],
    DynamicMask: [DynamicMask(), DynamicMask(3, rotary=100.0)],
    PowersOfTwo: [PowersOfTwo(1), PowersOfTwo(2, window=2, sinks=1)],
    mn.Window: [mn.Window(1), mn.Window(5), mn.Window(5, sinks=2), mn.Window(64, sinks=3)],
}

Kind = TypeVar("Kind", bound=Declaration)


def choices(base: type[Kind]) -> list[Kind]:
    """Every kind of `base` that the package declares, with its variants."""
    kinds = [kind for kind in Declaration.kinds.values() if issubclass(kind, base) and dataclasses.is_dataclass(kind)]
    return [choice for kind in kinds for choice in VARIANTS.get(kind) or [kind()]]


ANCHORS = ("retained", "previous", mn.Chunk(1), mn.Chunk(CHUNK))
TIMINGS = ("after", "before")
LEARNERS = [mn.GD(momentum=m, anchor=a) for m in (False, True) for a in ANCHORS]


def combinations(*options: Sequence[Any]) -> list[mn.Memory]:
    """The legal ones among all combinations of these choices."""
    found = []
    for made in itertools.product(*options):
        with contextlib.suppress(InvalidValue):
            found.append(mn.Memory(*made))
    return found


ODD: list[mn.Memory] = [
    mn.Memory(structure, mn.L2(), mn.Decay(), mn.GD(momentum=True, anchor=anchor))
    for structure in (
        mn.MLP(depth=2, expansion=2, activation="silu"),
        mn.MLP(depth=2, expansion=2, activation="relu"),
        mn.MLP(depth=3, expansion=1),
        mn.MLP(depth=2, expansion=2, residual=False, norm=False),
        mn.MLP(depth=2, expansion=2, residual=False, norm=True),
        mn.MLP(depth=3, expansion=2, norm=True),
    )
    for anchor in ("retained", mn.Chunk(CHUNK))
]
"""Options beside the variants: other activations, no residual, no norm."""

READS: list[Read] = [
    mn.Softmax(),
    mn.Softmax(rotary=100.0),
    mn.Softmax(scale=0.7, rotary=10000.0),
    mn.Softmax(rotary=100.0, positions="original"),
    *(mn.Softmax(rotary=100.0, mask=mask) for mask in choices(Mask)),
    *(read for read in choices(Read) if not isinstance(read, mn.Softmax)),
]

KEEPING: list[mn.KVMemory] = list(
    dict.fromkeys(
        mn.KVMemory(retain=retain, read=read)
        for retains, reads in (
            (choices(Retain), READS[:4]),
            ([mn.Everything(), mn.Window(5, sinks=2), HeavyHitters(5, recent=1)], READS),
        )
        for retain in retains
        for read in reads
    )
)
"""Every retention with several positions, every read with one retention of each kind."""


HIGHER: list[HigherOrder] = [
    HigherOrder(form, decay=decay) for form in ("second", "asymmetric", "third") for decay in (False, True)
]


LOG_LINEAR: list[LogLinear] = [
    LogLinear(mn.Memory(mn.Matrix(), objective, retention, learner), levels)
    for objective, retention, learner in (
        (mn.Dot(), mn.Decay(), mn.GD(rate=1.0)),
        (mn.Dot(), mn.Keep(), mn.GD()),
        (mn.L2(), mn.Decay(), mn.GD()),
        (mn.L2(), mn.Decay(), mn.GD(anchor="previous")),
        (mn.L2(), mn.Keep(), mn.GD(rate=0.5)),
    )
    for levels in (1, 3, 10)
]
"""Levels that run out at once, within a chunk, and not at all."""

EPISODIC: list[EpisodicMemory] = [
    EpisodicMemory(Every(2), Address(), Recall(2), together=False),
    EpisodicMemory(Every(3), MeanKey(), Recall(1, 1), together=False, scale=0.7, keep=2),
    EpisodicMemory(Every(2), MeanKey(), Recall(2), window=3, rotary=100.0, keep=3),
    EpisodicMemory(Every(1), Address(), Recall(2, 2), sinks=2),
    EpisodicMemory(
        Surprise(0.2, span=5, shortest=2, longest=4),
        Representatives(2),
        Recall(4, 3, "tokens"),
        window=3,
        sinks=1,
        rotary=100.0,
    ),
    EpisodicMemory(
        Surprise(0.0, span=4, shortest=1, longest=3, of="control", refine="modularity"),
        Representatives(1),
        Recall(1, 1),
        window=2,
        rotary=100.0,
    ),
    EpisodicMemory(
        Surprise(-0.5, span=3, shortest=2, longest=5, refine="conductance"), MeanKey(), Recall(1), sinks=1, keep=1
    ),
]
"""Every part, with and without what lies around episodes."""


CORES: list[CoreContext] = [CoreContext(3, 4), CoreContext(4, 0, rotary=100.0), CoreContext(1, 2, scale=0.7)]

CLUSTERS: list[ClusteredWindow] = [
    ClusteredWindow(3, 4),
    ClusteredWindow(1, 5, rotary=100.0),
    ClusteredWindow(4, 2, scale=0.7),
    ClusteredWindow(2, 30),
]


ADDRESSED: list[Addressed] = [
    Addressed(5),
    Addressed(3, shifts=2, read_timing="after"),
    Addressed(4, shifts=0),
]


def facets(memory: AnyMemory) -> tuple[Any, ...]:
    """What a memory consists of."""
    if isinstance(memory, mn.Memory):
        return (memory.structure, memory.objective, memory.retention, memory.learner, memory.read_timing)
    if isinstance(memory, HigherOrder):
        return (memory.form, memory.decay)
    if isinstance(memory, Addressed):
        return (memory.shifts, memory.read_timing)
    if isinstance(memory, LogLinear):
        return (memory.memory, memory.levels)
    if isinstance(
        memory, EpisodicMemory | Willshaw | Cliques | CoreContext | ClusteredWindow | SparseDistributed | Sparsey
    ):
        return (memory,)
    assert isinstance(memory, mn.KVMemory)
    return (memory.retain, memory.read_rule)


def covering(memories: Iterable[Any], together: int) -> list[Any]:
    """Few memories in which every `together` choices that occur in one of `memories` still occur in one."""
    left = {m: set(itertools.combinations(enumerate(facets(m)), together)) for m in memories}
    chosen, done = [], set()
    queue = [(-len(parts), place, m) for place, (m, parts) in enumerate(left.items())]
    heapq.heapify(queue)
    while queue:  # what a memory adds only falls as others are chosen, so an old number is a bound
        bound, place, best = heapq.heappop(queue)
        adds = len(left[best] - done)
        if adds == -bound:
            chosen.append(best)
            done |= left[best]
        elif adds:
            heapq.heappush(queue, (-adds, place, best))
    return chosen


def core() -> list[mn.Memory]:
    """The whole product of the choices that most algorithms are made for."""
    return combinations(
        [*VARIANTS[mn.Matrix], *VARIANTS[mn.MLP]],
        [mn.Dot(), mn.L2(), mn.Huber(0.5)],
        [*VARIANTS[mn.Decay][:2], mn.Keep()],
        LEARNERS,
        TIMINGS,
    )


def every_combination(structure: Structure | None = None, objective: Objective | None = None) -> list[mn.Memory]:
    """All legal combinations of all choices: more than twenty thousand."""
    return combinations(
        choices(Structure) if structure is None else [structure],
        choices(Objective) if objective is None else [objective],
        choices(Retention),
        choices(Learner),
        TIMINGS,
    )


CORE: list[mn.Memory] = covering(core(), 3)
"""So many of the core that any three choices that go together occur."""

LEARNING: list[mn.Memory] = list(dict.fromkeys([*CORE, *covering(every_combination(), 2)]))
"""The core, and so many of all legal combinations of all choices that any two choices that go together occur."""

LINKING: list[AnyMemory] = [
    Willshaw(),
    Willshaw(winners=2),
    Cliques(2, steps=3),
    Cliques(4, steps=1, stay=0.5),
    Sparsey(2, 4),
    Sparsey(3, 3, saturation=1.0, floor=0.0),
]

COUNTING: list[AnyMemory] = [
    SparseDistributed(9, 2),
    SparseDistributed(None, 1, "sum"),
    SparseDistributed(5, 3, "sum", 7),
]

OF_ENTRIES: list[AnyMemory] = [*KEEPING, *EPISODIC, *CORES, *CLUSTERS]

MEMORIES: list[AnyMemory] = [*LEARNING, *ODD, *HIGHER, *LOG_LINEAR, *OF_ENTRIES, *LINKING, *COUNTING, *ADDRESSED]

SOME: list[AnyMemory] = list(dict.fromkeys([*covering(core(), 2), *covering(MEMORIES, 1)]))
"""Few: any two choices of the core, and every choice there is."""

SMOOTH: list[AnyMemory] = [memory for memory in SOME if memory.differentiable]
DISCRETE: list[AnyMemory] = [memory for memory in MEMORIES if not memory.differentiable]


def name_of(value: Declaration) -> str:
    """A short id for a parametrised test: the call that makes it, without defaults."""
    text = Declaration.__str__(value)
    for long, short in (("structure=", ""), ("objective=", ""), ("retention=", ""), ("learner=", ""), ("()", "")):
        text = text.replace(long, short)
    return text.removeprefix("Memory").replace(" ", "")


def each(memories: Iterable[AnyMemory]) -> pytest.MarkDecorator:
    """Parametrise a test by `memory`."""
    return pytest.mark.parametrize("memory", list(memories), ids=name_of)


class Inputs:
    """Random float64 inputs that `memory` can run on, and an initial state in the middle of its life.

    Decays of matrices lie in [0, 1], exact zeros and ones among them; those of networks in [0.8, 1], because their
    normalisation makes tiny weights ill-conditioned. Keys have length 1, unless their length is what counts. Values are
    narrower than keys wherever the structure allows it, so that no transposition passes unseen.
    """

    def __init__(self, memory: AnyMemory, time: int, batch: int = 2, heads: int = 2, group: int = 1, key_dim: int = 4):
        self.memory, self.heads, self.key_dim = memory, heads, key_dim
        self.value_dim = value_dim_for(memory, key_dim)
        self.q = torch.randn(batch, time, heads * group, key_dim, dtype=torch.float64)
        keys = torch.randn(batch, time, heads, memory.pairs, key_dim, dtype=torch.float64)
        by_norm = isinstance(memory, mn.KVMemory) and isinstance(memory.retain, KeyNorm)
        self.k = (keys if by_norm else torch.nn.functional.normalize(keys, dim=-1)).flatten(-2)
        self.v = torch.randn(batch, time, heads, memory.pairs * self.value_dim, dtype=torch.float64)
        self.v = 0.2 * self.v if steep(memory) else self.v
        self.controls = controls_for(memory, batch, time, heads, key_dim, self.value_dim, group)
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.weights = {
            name: weight.double() + 0.1 * torch.randn_like(weight, dtype=torch.float64)
            for name, weight in memory.initial_weights(heads, key_dim, self.value_dim, generator).items()
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """q, k, v, the controls and the initial weights by name."""
        return {"q": self.q, "k": self.k, "v": self.v, **self.controls, **self.weights}

    def require_grad(self) -> Inputs:
        for tensor in self.tensors.values():
            tensor.requires_grad_()
        return self

    def init(self) -> State:
        """A state that has seen nothing."""
        return self.memory.init(self.q.shape[0], self.heads, self.key_dim, self.value_dim, self.weights, torch.float64)

    def lived(self) -> State:
        """A state in which every row has seen another number of tokens."""
        batch = self.q.shape[0]
        before = Inputs(self.memory, CHUNK + 2 * batch, batch, self.heads, 1, self.key_dim)
        lengths = torch.arange(batch) + CHUNK + 1
        weights = self.weights
        state = self.memory.init(batch, self.heads, self.key_dim, self.value_dim, weights, torch.float64)
        mask = torch.arange(before.q.shape[1]) < lengths[:, None]
        _, state = mn.run(
            self.memory, before.q, before.k, before.v, before.controls, state=state, mask=mask, plan="reference"
        )
        return state

    def cut(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """q, k, v and controls of the tokens [start, end)."""
        controls = {name: value[:, start:end] for name, value in self.controls.items()}
        return self.q[:, start:end], self.k[:, start:end], self.v[:, start:end], controls

    def at(self, t: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """q, k, v and controls of one token, without a time axis."""
        return self.q[:, t], self.k[:, t], self.v[:, t], {name: value[:, t] for name, value in self.controls.items()}


def value_dim_for(memory: AnyMemory, key_dim: int) -> int:
    """One less than `key_dim` where the memory allows it."""
    try:
        memory.weight_shapes(key_dim, key_dim - 1)
    except InvalidValue:
        return key_dim
    return key_dim - 1


def steep(memory: AnyMemory) -> bool:
    """Whether a step grows faster than the error, so that large errors make it diverge."""
    if not isinstance(memory, mn.Memory):
        return False
    return (isinstance(memory.objective, Lp) and memory.objective.p > 2) or memory.retention == Bregman("exp")


def controls_for(
    memory: AnyMemory, batch: int, time: int, heads: int, key_dim: int, value_dim: int, group: int
) -> dict[str, Tensor]:
    """Random controls within their range, its ends included where that is well conditioned. Those of queries have
    `group` times the heads."""
    linear = not isinstance(memory, mn.Memory) or memory.structure.linear_in_weights
    made = {}
    for control in memory.controls:
        size, number = control.size(key_dim, value_dim), heads if control in memory.write_controls else heads * group
        shape = (batch, time, number) if size is None else (batch, time, number, size)
        value = torch.rand(shape, dtype=torch.float64)
        if control.name == "decay" and not linear:
            value = 0.8 + 0.2 * value
        elif control.name in ("decay", "value_decay", "momentum"):
            value = (1.2 * value - 0.1).clamp(0, 1)
        if control.name == "rate" and not linear:
            value = 0.3 * value
        if control.name == "rate" and steep(memory):
            value = (0.2 if linear else 0.01) * value
        if control.name == "ridge":  # far enough from a singular system for the tolerances
            value = 0.2 + value
        if control.low > 0:
            value = control.low + value
        if control.name == "waited":  # whole numbers
            value = (value * (control.high + 2)).floor() - 1
        elif control.low < 0:  # a control of either sign
            value = (2 * value - 1) * min(1.0, control.high)
        if control.name in ("removal", "replacement"):  # directions: their product stays well below the decay
            value = (0.5 if linear else 0.2) * value
        made[control.name] = value.clamp(control.low, control.high)
    return made


def executors_for(memory: AnyMemory, inputs: Inputs) -> list[str]:
    """The names of all executors that accept the memory on these inputs."""
    request = Request.of(inputs.q, inputs.k, inputs.v, True)
    return [executor.name for executor in candidates(memory) if executor.declines(memory, request) is None]


def random_cuts(time: int, pieces: int = 5) -> list[int]:
    """Random boundaries 0 = c_0 <= c_1 ... = time, with empty pieces and single tokens among them."""
    inner = torch.randint(0, time + 1, (pieces - 1,)).tolist()
    return sorted([0, 1, *inner, *inner[:1], time])


def assert_close(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` relative to the largest number expected (or to 1)."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if not found.numel():
        return
    assert bool(torch.isfinite(found).all()), f"{what}: not finite"
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((found.detach().double() - expected.detach().double()).abs().max())
    assert error <= tolerance * scale, f"{what}: off by {error:.2e} where numbers reach {scale:.2e}"


ENTRIES = ("keys", "values", "episode", "address", "surprise", "received", "queued")
"""What states hold a number or vector of for every entry, beside a policy's statistics."""


def content(state: State) -> dict[str, Tensor]:
    """The tensors of a state by name, as far as they mean something: entries of key-value memories in the order of
    time and without empty places, wherever they are stored."""
    found: dict[str, Tensor] = {}
    for name, value in state.entries.items():
        if isinstance(value, State):
            found |= {f"{name}.{inner}": tensor for inner, tensor in content(value).items()}
    tensors = {name: value for name, value in state.entries.items() if isinstance(value, Tensor)}
    if "segment" in tensors:  # an open segment is filled up to its phase
        filled = torch.arange(tensors["segment"].shape[1]) < tensors["phase"][:, None]
        tensors["segment"] = torch.where(filled[:, :, None, None, None], tensors["segment"], 0.0)
    if "slot" not in tensors:
        return found | tensors
    slot = tensors["slot"]
    axis = slot.ndim - 1  # places are the last axis of the slots: (B, N), or (B, H, N) where each head has its own
    order = torch.where(slot > 0, slot, torch.iinfo(torch.int64).max).argsort(axis)
    order = order[..., : int((slot > 0).sum(axis).max()) if slot.numel() else 0]
    filled = slot.gather(axis, order)
    for name in [n for n in tensors if n in ENTRIES or n.startswith("statistic.")]:
        further = [1] * (tensors[name].ndim - slot.ndim)
        index = order.view(*order.shape, *further).expand(*order.shape, *tensors[name].shape[slot.ndim :])
        real = (filled > 0).view(*filled.shape, *further)
        tensors[name] = torch.where(real, tensors[name].gather(axis, index), 0.0)
    return found | tensors | {"slot": filled}


def assert_states_close(found: State, expected: State, what: str = "state", tolerance: float = 1e-9) -> None:
    """The same content, whole numbers exactly, and the same owner."""
    assert found.owner == expected.owner
    one, other = content(found), content(expected)
    assert set(one) == set(other)
    for name, tensor in one.items():
        if tensor.is_floating_point():
            assert_close(tensor, other[name], f"{what} {name}", tolerance)
        else:
            assert torch.equal(tensor, other[name]), f"{what} {name}"


def floating(state: State) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors() if tensor.is_floating_point()}


def leaves_of(state: State) -> State:
    """The same state; its floating point tensors are leaves that want gradients."""
    return state._map_rows(lambda x: x.detach().clone().requires_grad_(x.is_floating_point()))


def outcome(
    inputs: Inputs, state: State, lengths: Tensor | None, plan: str
) -> tuple[Tensor, State, dict[str, Tensor | None]]:
    """Outputs, final state, and gradients of a random-looking loss by every input and entry of the first state."""
    out, after = run_rows(inputs.memory, inputs.q, inputs.k, inputs.v, inputs.controls, state, lengths, plan)
    if lengths is not None:  # outputs beyond a row's length mean nothing
        real = torch.arange(inputs.q.shape[1]) < lengths[:, None]
        out = torch.where(real[:, :, None, None], out, 0.0)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    loss = loss + sum(x.sin().sum() for x in content(after).values() if x.is_floating_point())
    wanted = {name: x for name, x in inputs.tensors.items() if x.requires_grad} | floating(state)
    wanted = {name: x for name, x in wanted.items() if x.is_leaf and x.requires_grad and x.numel()}
    if not loss.requires_grad:  # answers and state are discrete
        return out, after, dict.fromkeys(wanted)
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return out, after, dict(zip(wanted, found, strict=True))


def assert_equals_reference(inputs: Inputs, state: State, lengths: Tensor | None = None) -> None:
    expected, last, gradients = outcome(inputs, state, lengths, "reference")
    for plan in executors_for(inputs.memory, inputs):
        out, after, found = outcome(inputs, state, lengths, plan)
        assert_close(out, expected, f"{plan}: outputs")
        assert_states_close(after, last, f"{plan}: state")
        assert set(found) == set(gradients)
        for name, gradient in gradients.items():
            by_plan = found[name]
            if gradient is None or by_plan is None:
                present = gradient if by_plan is None else by_plan
                assert present is None or not present.any(), f"{plan}: one of two gradients by {name} is missing"
                continue
            assert_close(by_plan, gradient, f"{plan}: gradient by {name}", 1e-7)


# Models: every entry of the zoo, small, and variants that take other paths.

WIDTH, HEADS, VOCABULARY = 32, 2, 11
SMALL: dict[str, Any] = {
    "window": 8,
    "chunk": 4,
    "segment": 8,
    "sinks": 2,
    "state_dim": 6,
    "gate_rank": 3,
    "rank": 3,
    "entries": 5,
    "lags": 5,
    "block": 3,
    "agents": 3,
    "hidden": 9,
    "budget": 6,
    "period": 3,
    "memory": 11,
    "tokens": 3,
    "working": 3,
    "short": 4,
    "long": 5,
    "reminded": 2,
    "chosen": 2,
    "similar": 4,
    "contiguous": 3,
    "slots": 3,
    "group": 3,
    "clusters": 3,
}


def small_options(build: Any) -> dict[str, Any]:
    """Options that let short sequences cross boundaries, as far as `build` takes them."""
    return {name: SMALL[name] for name in inspect.signature(build).parameters if name in SMALL}


def model_spec(layers: Any) -> mn.ModelSpec:
    """A small model of a model spec, a layer spec, or a list of layers."""
    spec = layers if isinstance(layers, mn.ModelSpec) else mn.ModelSpec(pattern=layers)
    return spec.replace(width=WIDTH, depth=2, heads=HEADS, vocabulary=VOCABULARY, ffn=1.0)


NOBODYS = mn.Memory(
    structure=mn.MLP(depth=2, expansion=2),
    objective=mn.Huber(0.5),
    retention=mn.Decay(per="channel"),
    learner=mn.GD(momentum=True, anchor=mn.Chunk(CHUNK)),
)


def zoo_models() -> dict[str, mn.ModelSpec]:
    """Every entry of the zoo that is a layer or a language model."""
    found = {n: e for n, e in mn.zoo.entries().items() if e.kind != "network"}
    return {name: model_spec(e.build(**small_options(e.build))) for name, e in found.items()}


def networks() -> dict[str, NetworkDeclaration]:
    """Every network of the zoo, and variants that take other paths than the defaults."""
    found = {n: e for n, e in mn.zoo.entries().items() if e.kind == "network"}
    return {
        **{name: e.build(**small_options(e.build)) for name, e in found.items()},
        "pointer_network-each": PointerNetworkSpec(3, 8, encoder="each", end=False, score="dot", clip=10.0),
        "end_to_end_memory-layerwise": EndToEndMemorySpec(
            9, 6, 2, 4, tying="layerwise", encoding="bag", temporal=False, masked=False, noise=0.2
        ),
        "memo-small": MemoSpec(3, 1, 2, 5, width=6, embedding=4, heads=3, hops=2, halting=4, dropout=0.1),
    }


def variant_models() -> dict[str, mn.ModelSpec]:
    """Variants that take other paths than the entries' defaults."""
    zoo = mn.zoo
    layers: dict[str, Any] = {
        **{f"titans_lmm-depth{d}": zoo.titans_lmm(depth=d, chunk=4, expansion=2) for d in (1, 3, 4)},
        "titans_lmm-exact": zoo.titans_lmm(depth=1, chunk=None),
        "titans_lmm-token-by-token": zoo.titans_lmm(depth=2, chunk=None, expansion=1),
        "moneta-exact": zoo.moneta(exact=True, chunk=4, expansion=2),
        "yaad-linear": zoo.yaad(depth=1, chunk=None).replace(
            controls=(("rate", Sigmoid()), ("decay", Sigmoid(bias=4.0)), ("delta", Softplus(bias=-2.0)))
        ),
        "titans_lmm-gates-per-chunk": zoo.titans_lmm(chunk=4, persistent=3, hold=4),
        "gla-held": zoo.gla().replace(hold=3),
        "titans_lmm-persistent": zoo.titans_lmm(chunk=4, persistent=3),
        "titans_mag-matrix": zoo.titans_mag(window=8, depth=1, chunk=None),
        "titans_mac-no-persistent": zoo.titans_mac(segment=4, persistent=0),
        "transformer-grouped": zoo.transformer(kv_heads=1),
        "sliding_window-grouped": zoo.sliding_window(8, sinks=2, kv_heads=1),
        "sliding_window-no-sinks": zoo.sliding_window(5, sinks=0),
        "gated_deltanet-no-conv": zoo.gated_deltanet(conv=None, value_expand=2.0),
        "nobodys": mn.LayerSpec(NOBODYS, keys=Unit(), controls=(("rate", Sigmoid(bias=-3.0)),)),
        "turning": mn.LayerSpec(
            mn.Memory(mn.Matrix(), mn.L2(), mn.Decay(per="pair", rotate="key")),
            keys=Unit(),
            controls=(("angle", Phase()),),
        ),
        "removing": mn.LayerSpec(
            mn.Memory(mn.Matrix(), mn.Dot(), mn.memory.DPLR(), mn.GD(rate=1.0)),
            controls=(("removal", Direction()), ("replacement", Direction(0.5))),
        ),
        "gla-mimetic": Mimetic(zoo.gla(key_expand=1.0)),
        "longhorn-full": zoo.longhorn(diagonal=False),
        "attendre-lfa": zoo.attendre(5, policy="lfa"),
        "attendre-waiting": zoo.attendre(5, delay=3, top=2),
        "attendre-waiting-fifo": [zoo.attendre(6, policy="fifo", delay=2, kv_heads=1), zoo.sliding_window(8)],
        "mixed": [zoo.gated_deltanet(), zoo.sliding_window(8)],
        "lightnet-grid": zoo.lightnet(gate_rank=3, axes=(3, 5)),
        "lightnet-positions": zoo.lightnet(gate_rank=3, axes=()),
        "gla-polarised": zoo.gla().replace(controls=(("decay", Polarised(LowRankDecay(4), zeros=2)),)),
        "mamba2-groups": zoo.mamba2(state_dim=3, groups=2),
        "power_attention-grouped": zoo.power_attention(block=2, near=1, sinks=0, kv_heads=1),
        "neighborhood_attention-grid": zoo.neighborhood_attention(2, dilation=2, grid=5),
        "neighborhood_attention-around": zoo.neighborhood_attention(3, dilation=2, stride=2, causal=False),
        "neighborhood_attention-grid-around": zoo.neighborhood_attention(2, grid=5, causal=False),
        "landmark_attention-top": zoo.landmark_attention(block=3, top=1),
        "landmark_attention-stingy": zoo.landmark_attention(block=2, top=2, stingy=True, kv_heads=1),
        "dynamic_mask_attention-grouped": zoo.dynamic_mask_attention(kv_heads=1),
        "rat-short": zoo.rat(chunk=3, groups=1),
        "hard-locations": mn.LayerSpec(SparseDistributed(64, 6, "sum"), norm="sum"),
        "hopfield_pooling-steps": zoo.hopfield_pooling(quantity=3, steps=2),
        "hopfield_lookup-steps": zoo.hopfield_lookup(entries=5, steps=2),
        "memory_mosaics-window": ContextualMemory(mn.KVMemory(retain=mn.Window(5), read=mn.Softmax(scale=1.0))),
        "memory_mosaics-lines": [
            PersistentMemory(5),
            ContextualMemory(mn.KVMemory(read=LocalLinear(0.3, scale=1.0))),
        ],
        "dual_attention-relative": zoo.dual_attention(symbols="relative").replace(relations=2, symmetric=True),
        "dual_attention-relational": DualAttention(2, library=5, rotary=None),
        "dual_attention-sensory": DualAttention(0),
        "multi_head_embeddings-add": zoo.multi_head_embeddings(combine="add"),
        "multi_head_embeddings-window": HeadEmbeddings(retain=mn.Window(5)),
        "adaptive_filter_attention-window": FilterAttention(coupling=0.05, retain=mn.Window(5, sinks=2)),
        "neural_attention-per-head": zoo.neural_attention(per_head=True),
        "agent_attention-no-conv": zoo.agent_attention(agents=2, conv=None),
        "fanformer-delta": FourierInput(zoo.deltanet()),
        "transformer_xl-short": zoo.transformer_xl(segment=5, memory=3),
        "transformer_xl-segments": zoo.transformer_xl(segment=7, memory=0),
        "lamemo-short": zoo.lamemo(segment=5, memory=3),
        "armt-delta": zoo.armt(segment=6, tokens=2, key_dim=4, normalise=False),
        "memoria-short": zoo.memoria(segment=3, working=2, short=3, long=4, reminded=2, depth=1, lifespan=3.0),
        "rmt-none": zoo.rmt(segment=6, tokens=0),
        "rmt-gated_deltanet": mn.ModelSpec(pattern=(zoo.gated_deltanet(),), segments=MemoryTokens(6, 2)),
        "deltanet-dpfp": zoo.deltanet().replace(keys=DPFP(2, unit=True)),
        "hcam-grouped": zoo.hcam(chunk=3, chosen=2, kv_heads=1),
        "em_llm-grouped": zoo.em_llm(8, sinks=2, similar=4, contiguous=3, refine="modularity", kv_heads=1),
        "cca_attention-grouped": zoo.cca_attention(6, group=3, kv_heads=1),
        "hcam-forgetting": zoo.hcam(chunk=3, chosen=2, keep=3),
        "em_llm-small-events": mn.LayerSpec(EPISODIC[4]),
        "relational_memory_core-blocks": RelationalMemory(slots=3, blocks=2, gate="memory"),
        "relational_memory_core-open": RelationalMemory(slots=2, mlp_layers=1, gate=None),
        "ntm-feedforward": zoo.ntm(slots=4, hidden=7, controller="feedforward").replace(read_timing="after"),
        "pmi-top": zoo.pmi(slots=4, segments=1, chunk=5).replace(top=2, mix=0.5),
        "addressed": mn.LayerSpec(Addressed(5), controls=(("read_shift", Shares()),)),
        "untied": mn.ModelSpec(pattern=(zoo.deltanet(),), tied=False),
    }
    return {name: model_spec(spec) for name, spec in layers.items()}


MODELS: dict[str, mn.ModelSpec] = zoo_models() | variant_models()
NETWORKS = networks()


def each_model(names: Sequence[str] | None = None) -> pytest.MarkDecorator:
    """Parametrise a test by `spec`."""
    chosen = list(MODELS) if names is None else list(names)
    return pytest.mark.parametrize("spec", [MODELS[n] for n in chosen], ids=chosen)


def make_model(spec: mn.ModelSpec) -> mn.LanguageModel:
    """The model in float64, its parameters moved off their symmetric starting values."""
    model = mn.LanguageModel(spec).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def some_tokens(batch: int, time: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, time))
