from __future__ import annotations

import random
from pathlib import Path

import pytest

from mnemos.train import TrainConfig, train


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a text in it, and a cache for tokenised text of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    choose = random.Random(0)
    words = ["memory", "holds", "what", "was", "written", "and", "<reads>", "it", "back", "häufig"]
    Path("text.txt").write_text(" ".join(choose.choice(words) for _ in range(2500)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(here: Path) -> Path:
    """The folder of a tiny finished training run."""
    config = TrainConfig(
        system="titans_mag",
        data="text.txt",
        out=Path("run"),
        steps=2,
        width=16,
        depth=1,
        heads=2,
        length=16,
        batch=2,
        device="cpu",
        threads=1,
        evaluate_every=1,
        evaluate_tokens=64,
    )
    return train(config, progress=False).folder
