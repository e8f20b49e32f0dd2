from pathlib import Path

import pytest

from mnemos.cli import main
from mnemos.tasks import entries

SIZE = ["--width=32", "--depth=1", "--batch=2"]
SMALL = [*SIZE, "--steps=2", "--seeds=2", "--rates", "1e-3", "--questions=8", "--workers=1"]


def test_compare_writes_tables_pictures_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = "mqar:pairs=2,tokens=8,length=8"
    words = ["compare", "linear_attention", "deltanet", "--tasks", task, "--out", str(tmp_path / "c"), *SMALL]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "| linear_attention |" in printed and "| deltanet |" in printed
    names = {p.name for p in (tmp_path / "c").iterdir()}
    assert {"table.md", "table.csv", "results.json", "trials", "sweep.json"} < names
    assert any(name.endswith(".png") for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "name at least one system"),
        (["compare", "gated_deltanett"], "no system is called 'gated_deltanett'; did you mean gated_deltanet"),
        (["compare", "deltanet", "--tasks", "mqarr"], "no task is called 'mqarr'"),
        (["compare", "deltanet", "--tasks", "mqar:pairs=200"], "more than twice pairs=200"),
    ],
)
def test_what_cannot_be_compared(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*words, "--out", str(tmp_path / "c")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_tasks_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}\n" in printed for name in entries())


def test_tasks_as_markdown_is_the_table_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--markdown"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split("`")[1]: line for line in printed.splitlines() if line.startswith("| `")}
    assert list(rows) == list(entries())
    for name, line in rows.items():
        made = entries()[name].make()
        assert f"| {made.chance:.3g} {made.measure} |" in line and entries()[name].summary in line
    assert "[arXiv 1511.06464](https://arxiv.org/abs/1511.06464)" in rows["adding"]
