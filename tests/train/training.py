from __future__ import annotations

import random
from typing import Any


def some_text(words: int, seed: int = 0) -> str:
    choose = random.Random(seed)
    return " ".join(choose.choice(["memory", "holds", "what", "was", "written", "añil", "雪"]) for _ in range(words))


def measured(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    clock = {"seconds", "tokens_per_second"}
    return [{name: value for name, value in record.items() if name not in clock} for record in records]
