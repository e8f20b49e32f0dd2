"""The outcome of lowering: which algorithm, why not the others, what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from mnemos.execute import Executor, OtherKind, Request, state_bytes
from mnemos.memory import AnyMemory


@dataclass(frozen=True)
class Plan:
    """An algorithm chosen for a memory and a request."""

    memory: AnyMemory
    request: Request
    executor: Executor
    declined: tuple[tuple[str, str], ...]
    """The other executors, each with why it was not taken."""

    @property
    def flops(self) -> float:
        """Floating point operations of the forward pass, to leading order."""
        return self.executor.flops(self.memory, self.request)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state after the last token."""
        return state_bytes(self.memory, self.request)

    def explain(self) -> str:
        """The plan in words; what was not taken for the same reason stands in one line."""
        r = self.request
        tokens = max(r.batch * r.length, 1)
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.declined:
            shown = "made for other kinds of memory" if isinstance(reason, OtherKind) else reason
            by_reason.setdefault(shown, []).append(name)
        lines = [
            f"{self.memory}",
            f"on {r.batch} x {r.length} tokens, {r.heads} heads, key {r.key_dim}, value {r.value_dim}, "
            f"{str(r.dtype).removeprefix('torch.')} on {r.device}, {'training' if r.training else 'inference'}",
            f"  runs by    {self.executor.name}: {self.executor.summary}",
            *[f"  not by     {', '.join(names)}: {reason}" for reason, names in by_reason.items()],
            f"  costs      {readable(self.flops, 1000, 'FLOP')} forward, "
            f"{readable(self.flops / tokens, 1000, 'FLOP')} a token",
            f"  state      {readable(self.state_bytes / max(r.batch, 1), 1024, 'B')} a row",
        ]
        return "\n".join(lines)


def readable(amount: float, step: int, unit: str) -> str:
    """12345678, 1000, "FLOP" -> "12.3 MFLOP"."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"] if step == 1000 else ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
    power = 0
    while amount >= step and power < len(prefixes) - 1:
        amount, power = amount / step, power + 1
    return f"{amount:.3g} {prefixes[power]}{unit}" if power else f"{amount:.0f} {unit}"
