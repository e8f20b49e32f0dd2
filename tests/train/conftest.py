from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import some_text

from mnemos.train import Optimiser, TrainConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tokenised text goes to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnemos" / "corpora"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(some_text(1500), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tmp_path: Path, text_file: Path) -> Callable[..., TrainConfig]:
    """A configuration of a model so small that a step takes milliseconds."""
    base = TrainConfig(
        system="linear_attention",
        data=str(text_file),
        out=tmp_path / "run",
        steps=12,
        width=16,
        depth=1,
        heads=2,
        length=16,
        batch=2,
        optimiser=Optimiser(warmup=4),
        device="cpu",
        threads=1,
        evaluate_every=5,
        evaluate_tokens=64,
        checkpoint_every=4,
    )

    def make(**changes: Any) -> TrainConfig:
        return dataclasses.replace(base, **changes)

    return make


@pytest.fixture(scope="session")
def subword_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE learned from a little text, with the habits that a corpus must not inherit."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the memory holds the memory of the snow " * 20], trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    bpe.enable_truncation(5)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    bpe.save(str(path))
    return path
