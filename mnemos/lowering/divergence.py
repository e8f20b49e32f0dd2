"""Where a number that is not finite first appears."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnemos.errors import Diverged
from mnemos.lowering.watch import watched_by
from mnemos.memory import L2, AnyMemory, Controls, Memory
from mnemos.state import State, over_documents
from mnemos.state.documents import RowsFunction


@dataclass
class Failures:
    """Watches the runs of memories and keeps the first whose outputs or state are not finite.

    layer: of a model; whoever runs the layers one after another says which one is under way.
    """

    layer: int | None = None
    first: Failure | None = None

    def __call__(
        self,
        memory: AnyMemory,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        controls: Controls,
        lengths: Tensor | None,
        outputs: Tensor,
        after: State,
    ) -> None:
        if self.first is None and not (_finite(outputs) and _finite_state(after)):
            fit = all(_finite(x) for x in (q, k, v, *controls.values()))
            self.first = Failure(self.layer, memory if fit else None, k, controls, lengths, outputs, after)

    def output(self, x: Tensor) -> None:
        """Takes note of what the layer under way gave."""
        if self.first is None and not _finite(x):
            self.first = Failure(self.layer)


@dataclass
class Failure:
    """A run of a memory that gave something not finite. memory: None where its inputs were not finite already."""

    layer: int | None
    memory: AnyMemory | None = None
    k: Tensor | None = None
    controls: Controls = field(default_factory=dict)
    lengths: Tensor | None = None
    outputs: Tensor | None = None
    after: State | None = None

    def heads(self) -> tuple[int, ...]:
        """The heads that are not finite after the last token of the only row."""
        assert self.outputs is not None and self.after is not None
        bad = ~torch.isfinite(self.outputs[0]).all(-1).all(0)  # (heads,)
        for name, entry in self.after.entries.items():
            if isinstance(entry, Tensor) and entry.ndim > 1 and entry.shape[1] == len(bad):
                bad = bad | _unfit(entry, self.after.fresh.get(name))[0].flatten(1).any(1)
        return tuple(bad.nonzero().flatten().tolist())

    def cause(self, head: int) -> str:
        """What the memory was given at that token, and what would keep it finite."""
        assert self.memory is not None and self.k is not None
        last = self.k.shape[1] - 1 if self.lengths is None else int(self.lengths[0]) - 1
        keys = self.k[0, : last + 1, min(head, self.k.shape[2] - 1)].detach().double()
        lengths = keys.unflatten(-1, (self.memory.pairs, -1)).norm(dim=-1).amax(-1)
        given = [f"a key of length {lengths[-1]:.3g} (the longest so far: {lengths.max():.3g})"]
        values = {n: c[0, : last + 1, head].detach().float() for n, c in self.controls.items()}
        learner = getattr(self.memory, "learner", None)
        constant = getattr(learner, "rate", None)
        if constant is not None:
            values["rate"] = torch.full((last + 1,), constant)
        for name, value in values.items():
            now = value[-1]
            if now.ndim:
                given.append(f"{name} from {now.min():.3g} to {now.max():.3g}")
            else:
                given.append(f"{name} {now:.3g} (the highest so far: {value.max():.3g})")
        return f"It was given {', '.join(given)}. " + _remedy(self.memory, float(lengths.max()), values.get("rate"))


def _remedy(memory: AnyMemory, longest: float, rates: Tensor | None) -> str:
    learner = getattr(memory, "learner", None)
    structure = getattr(memory, "structure", None)
    chunk = getattr(learner, "chunk", 1)
    highest = 0.0 if rates is None else float(rates.max())
    remedies = []
    if longest > 1.01:
        remedies.append("keys of length 1, LayerSpec(keys=Unit())")
    if highest * chunk > 1:
        remedies.append(f"a smaller rate, such as Sigmoid(high={1 / chunk:.3g})")
    if getattr(structure, "norm", True) is False:
        remedies.append(f"{type(structure).__name__}(norm=True)")
    text = f"Use {'; or '.join(remedies)}." if remedies else "Use smaller rates, or a retention that forgets faster."
    if isinstance(memory, Memory) and memory.structure.linear_in_weights and isinstance(memory.objective, L2):
        text = (
            "Each step multiplies the error at its key by 1 - rate |k|^2, which is stable while rate |k|^2 <= 2; the "
            f"highest rate times the longest key's square is {highest * longest**2:.3g}. {text}"
        )
    return text


def checked_over_documents(
    rows: RowsFunction,
    inputs: list[Tensor],
    state: State,
    reset: Tensor | None,
    mask: Tensor | None,
    failures: Failures | None = None,
) -> tuple[Tensor, State]:
    """`over_documents`, but raises Diverged, naming place and cause, where the results are not finite.

    failures: is told by `rows` which layer is under way, if there are several. The search runs ever closer beginnings
    of the rows concerned; the token named is the last of the shortest beginning that gives a number that is not finite.
    """
    outputs, after = over_documents(rows, inputs, state.clone(), reset, mask)
    if _finite(outputs) and _finite_state(after):
        return outputs, after
    found = _search(rows, failures or Failures(), inputs, state, reset, mask)
    if found is None:
        raise Diverged("the results are not finite, though no row gives such numbers when it is run by itself.")
    row, token, failure = found
    layer = "" if failure.layer is None else f"layer {failure.layer}, "
    if failure.memory is None:
        raise Diverged(
            f"{layer}token {token} of row {row}: the numbers are no longer finite, and it was no memory that made them "
            "so. Look at the weights of this layer, and at what it was given, for values that are too large.",
            row=row,
            token=token,
            layer=failure.layer,
        )
    heads = failure.heads()
    which = f"head{'s' if len(heads) > 1 else ''} {', '.join(map(str, heads))}, " if heads else ""
    raise Diverged(
        f"{layer}{which}token {token} of row {row}: the memory ({failure.memory.kept}) is no longer finite. "
        + failure.cause(next(iter(heads), 0)),
        row=row,
        token=token,
        layer=failure.layer,
        heads=heads,
    )


def _search(
    rows: RowsFunction,
    failures: Failures,
    inputs: list[Tensor],
    before: State,
    reset: Tensor | None,
    mask: Tensor | None,
) -> tuple[int, int, Failure] | None:
    """Row, token and failure: the earliest token of all rows, in its lowest layer."""
    batch, time = inputs[0].shape[:2]
    place = torch.arange(batch * time, device=inputs[0].device).view(batch, time)
    found: list[tuple[int, int, Failure]] = []

    def documents(given: list[Tensor], state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Each row is one document: search those that are not finite."""
        outputs, after = rows(given[:-1], state.clone(), lengths)
        for i in range(len(outputs)):
            whole = outputs.shape[1] if lengths is None else int(lengths[i])
            one = torch.tensor([i], device=outputs.device)
            if whole and not (_finite(outputs[i]) and _finite_state(after.select(one))):
                failure, length = _shortest(
                    rows, failures, [x[i : i + 1] for x in given[:-1]], state.select(one), whole
                )
                if failure is not None:
                    row, token = divmod(int(given[-1][i, length - 1]), time)
                    found.append((row, token, failure))
        return outputs, after

    over_documents(documents, [*inputs, place], before.clone(), reset, mask)
    return min(found, key=lambda item: (item[1], item[2].layer or 0, item[0])) if found else None


def _shortest(
    rows: RowsFunction, failures: Failures, inputs: list[Tensor], state: State, whole: int
) -> tuple[Failure | None, int]:
    """The failure at the end of the shortest beginning of this row that fails, and how long that is."""

    def failing(length: int) -> Failure | None:
        failures.first, failures.layer = None, None
        with watched_by(failures):
            outputs, after = rows([x[:, :length] for x in inputs], state.clone(), None)
        if not _finite_state(after):
            failures.first = failures.first or Failure(failures.layer)
        failures.output(outputs)
        return failures.first

    shortest, good, failure = whole, 0, failing(whole)
    while failure is not None and shortest - good > 1:
        middle = (good + shortest) // 2
        earlier = failing(middle)
        if earlier is None:
            good = middle
        else:
            shortest, failure = middle, earlier
    return failure, shortest


def _finite(x: Tensor) -> bool:
    return not x.is_floating_point() or bool(torch.isfinite(x).all())


def _finite_state(state: State) -> bool:
    for name, value in state.entries.items():
        if isinstance(value, State):
            if not _finite_state(value):
                return False
        elif _unfit(value, state.fresh.get(name)).any():
            return False
    return True


def _unfit(x: Tensor, fresh: Tensor | None) -> Tensor:
    """Where an entry of a state is not finite. One that starts from infinity (a logarithm of zero) may hold it."""
    if not x.is_floating_point():
        return torch.zeros_like(x, dtype=torch.bool)
    return ~torch.isfinite(x) if fresh is None or _finite(fresh) else torch.isnan(x)
