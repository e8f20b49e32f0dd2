"""Titans with a deep memory and several heads, trained with default step sizes: every number stays finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mnemos as mn
from mnemos.train import Optimiser, TrainConfig, load_model, read_metrics, train

Tiny = Callable[..., TrainConfig]


def declared(name: str, folder: Path) -> str:
    """The file of a small model with a memory of depth 4."""
    system: Any = getattr(mn.zoo, name)(depth=4)
    pattern = system.pattern if isinstance(system, mn.ModelSpec) else (system,)
    path = folder / f"{name}.json"
    path.write_text(mn.ModelSpec(pattern, width=32, depth=2, heads=2).to_json())
    return str(path)


@pytest.mark.long
@pytest.mark.parametrize("name", ["titans_lmm", "titans_mac", "titans_mag", "titans_mal"])
def test_a_hundred_steps_of_text_without_nan(name: str, tiny: Tiny, tmp_path: Path) -> None:
    run = train(
        tiny(
            system=declared(name, tmp_path),
            width=None,
            depth=None,
            heads=None,
            data=str(Path(json.__file__).parent.parent / "asyncio"),
            length=64,
            batch=2,
            steps=100,
            evaluate_every=100,
            evaluate_tokens=4096,
            checkpoint_every=100,
            optimiser=Optimiser(),
        ),
        progress=False,
    )
    steps = [record for record in read_metrics(run.folder) if record["kind"] == "train"]
    assert len(steps) == 100
    assert all(math.isfinite(record["loss"]) and record["gradient_norm"] < 100 for record in steps)
    assert sum(r["loss"] for r in steps[-10:]) < 0.8 * sum(r["loss"] for r in steps[:10])
    model = load_model(run.folder)
    tokens = torch.randint(0, 256, (1, 1024))  # no text, and far longer than what it was trained on
    with torch.no_grad():
        logits, _ = model(tokens, checks=True)
    assert torch.isfinite(logits).all()
