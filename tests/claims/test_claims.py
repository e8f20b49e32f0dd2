"""What holds for every claim, and for what was found of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnemos.claims import Bench, Findings, Statement, claims, difference, find, kept, over_seeds, run
from mnemos.claims.registry import RESULTS
from mnemos.claims.text import page
from mnemos.cli import main
from mnemos.errors import InvalidValue
from mnemos.evaluate.estimate import Estimate

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(params=claims())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_claim_says_what_would_refute_it(name: str) -> None:
    claim = find(name)
    for text in (claim.title, claim.where, claim.sentence, claim.setting, claim.refuted_if, claim.shrinks):
        assert len(text) > 8
    assert claim.arxiv and all(number[:4].isdigit() and number[4] == "." for number in claim.arxiv)
    assert 0 < claim.minutes <= 20


@pytest.mark.long
def test_a_claim_is_measured_and_drawn(name: str, tmp_path: Path) -> None:
    report = run(name, tmp_path, seeds=2, workers=1, shortest=True, progress=False)
    assert report.findings.statements and report.findings.panels
    assert all(s.value.count == 2 for s in report.findings.statements)
    assert report == kept(name, tmp_path)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_found_belongs_to_a_claim_and_is_on_the_page() -> None:
    files = {path.stem for path in RESULTS.glob("*.json")}
    assert files <= set(claims())
    assert files == {path.stem for path in RESULTS.glob("*.png")}
    for known in files:
        report = kept(known)
        assert report is not None and report.findings.statements != ()
        assert report.seeds >= 3 and all(s.value.count >= 3 for s in report.findings.statements)
    assert (DOCS / "claims.md").read_text() == page()


def statement(low: float, high: float, border: float = 0.0, side: str = "above") -> Statement:
    return Statement("x", Estimate((low + high) / 2, low, high, 3), border, side)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("low", "high", "border", "side", "verdict"),
    [
        (0.1, 0.3, 0.0, "above", "holds"),
        (-0.3, -0.1, 0.0, "above", "fails"),
        (-0.1, 0.3, 0.0, "above", "undecided"),
        (0.1, 0.3, 0.2, "above", "undecided"),
        (0.1, 0.3, 0.5, "above", "fails"),
        (0.1, 0.3, 0.5, "below", "holds"),
        (0.6, 0.7, 0.5, "below", "fails"),
        (0.4, 0.7, 0.5, "below", "undecided"),
        (float("nan"), float("nan"), 0.5, "below", "undecided"),
    ],
)
def test_a_statement_is_judged_by_its_interval(low: float, high: float, border: float, side: str, verdict: str) -> None:
    assert statement(low, high, border, side).verdict == verdict


def test_a_claim_holds_where_all_its_statements_do() -> None:
    holds, fails, open_ = statement(1, 2), statement(-2, -1), statement(-1, 1)
    for statements, verdict in (
        ((holds, holds), "holds"),
        ((holds, open_), "holds in part"),
        ((holds, fails), "holds in part"),
        ((fails, open_), "fails"),
        ((open_, open_), "undecided"),
    ):
        assert Findings(statements, ()).verdict == verdict


def test_differences_are_paired_by_seed() -> None:
    found = difference([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert found.low == found.mean == found.high == 0.5
    assert over_seeds([1.0, 3.0]).mean == 2.0
    with pytest.raises(InvalidValue, match="as many seeds on both sides; got 1 and 2"):
        difference([1.0], [1.0, 2.0])


def test_one_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="at least 2 seeds"):
        Bench(tmp_path, seeds=1)


def test_claims_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}\n" in listed for name in claims())
    assert main(["claims", "report", "rank_collapse"]) == 0
    assert "Pure attention collapses in rank" in capsys.readouterr().out
    assert main(["claims", "report", "--page", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == page()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "name at least one claim"),
        (["run", "rank_colapse"], "no claim is called 'rank_colapse'; did you mean rank_collapse"),
        (["run", "rank_collapse", "--seeds", "1"], "at least 2 seeds"),
    ],
)
def test_claims_that_cannot_be(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["claims", *words, "--out", str(tmp_path / "c")]) == 2
    assert message in capsys.readouterr().err
