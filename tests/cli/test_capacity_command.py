"""`mnemos capacity`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnemos.cli import main
from mnemos.inspect import Capacity


def test_it_measures_words_and_systems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    written, drawn = tmp_path / "measured.json", tmp_path / "capacity.png"
    words = ["capacity", "hebb", "gated_deltanet", "--key-dim", "4", "8", "--seeds", "2"]
    assert main([*words, "--json", str(written), "--picture", str(drawn)]) == 0
    found = Capacity.from_json(written.read_text())
    assert [(curve.name, curve.key_dim) for curve in found.curves] == [
        ("hebb", 4),
        ("hebb", 8),
        ("gated_deltanet", 4),
        ("gated_deltanet", 8),
    ]
    assert str(found) in capsys.readouterr().out and drawn.stat().st_size > 1000
    assert main([*words, "--json", str(written)]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name at least one memory"),
        (["titans_mac"], "titans_mac is not a single memory in a layer"),
        (["hebbb"], "no system is called 'hebbb'"),
        (["hebb", "--seeds", "1"], "seeds=) is at least 2"),
    ],
)
def test_what_it_refuses(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *words]) == 2
    assert message in capsys.readouterr().err
