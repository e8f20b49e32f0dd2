"""The report page: it asks nothing of anyone else, and every number of the results is on it."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluate_standins import made_up_comparison

from mnemos.evaluate.demo_results import Demonstration
from mnemos.evaluate.estimate import Estimate
from mnemos.evaluate.report import page, verdict, write_report


@pytest.fixture(scope="module")
def demonstration() -> Demonstration:
    return made_up_comparison()


@pytest.fixture(scope="module")
def text(demonstration: Demonstration) -> str:
    return page(demonstration)


class Reader(HTMLParser):
    """Collects what a browser would fetch, and checks that tags are closed in order."""

    void = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and not value.startswith("#"):
                self.fetched.append(value)
            if name == "id":
                self.ids.append(value)
        if tag in ("script", "link", "iframe", "img"):
            self.fetched.append(tag)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_page_is_self_contained_and_well_formed(text: str):
    reader = read(text)
    assert reader.fetched == [] and reader.open == []
    assert len(reader.ids) == len(set(reader.ids)), "two pictures share an id"
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?:|//[a-z]", without_namespaces)
    assert "@import" not in text and "@font-face" not in text
    assert not re.search(r"url\((?!#)", text)


def test_pictures_refer_only_to_what_they_hold(text: str):
    ids = set(read(text).ids)
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert referred and referred <= ids


def test_pictures_take_their_colours_from_the_theme(text: str):
    body = text[text.index("</style>") :]
    drawn = set(re.findall(r"#[0-9a-f]{6}\b", body))
    assert drawn <= {"#000000", "#ffffff"}, "a colour that does not follow the theme"
    assert body.count("var(--first)") > 5 and body.count("var(--second)") > 5


def test_every_number_of_the_results_is_on_the_page(text: str, demonstration: Demonstration):
    shown = " ".join(read(text).words)
    for system in demonstration.systems:
        stream = system.streaming
        for value in (
            f"{system.parameters:,}",
            f"{system.held_out.value.mean:.4f}",
            f"{system.held_out.value.low:.4f} to {system.held_out.value.high:.4f}",
            f"{system.by_position.beyond.mean:.4f}",
            f"{stream.late_over_early:.3f}",
            f"{stream.tokens_per_second:,.0f}",
            f"{system.training_tokens_per_second:,.0f}",
            f"{system.flops_per_token / 1e6:,.2f} million",
            system.title,
            system.sample.prompt,
            system.sample.text.strip(),
            system.explanation.splitlines()[1],
        ):
            assert value in shown, value
    assert "131 kB" in shown and "66.6 kB" in shown and "1.64 GB" in shown
    assert "8,123,456" in shown and "412,345" in shown and "640 steps of 16" in shown
    assert "A Made-up Processor" in shown and "mnemos demo --out demo-run" in shown


def test_the_verdict_says_only_what_the_interval_allows(demonstration: Demonstration):
    first, second = demonstration.systems
    assert "0.120 bits (0.118 to 0.122) fewer than the 2.221 of The &lt;Second&gt; System" in verdict(demonstration)
    swapped = dataclasses.replace(demonstration, systems=(second, first))
    assert "0.120 bits (0.118 to 0.122) more than the 2.101 of The First System" in verdict(swapped)
    noisy = tuple(v + (-1) ** k for k, v in enumerate(first.held_out.by_window))
    equal = dataclasses.replace(
        second,
        held_out=dataclasses.replace(second.held_out, by_window=noisy, value=Estimate(2.1, 2, 2.2, 64)),
    )
    assert "is within the noise" in verdict(dataclasses.replace(demonstration, systems=(first, equal)))


def test_what_did_not_hold_is_not_claimed(demonstration: Demonstration):
    first, second = demonstration.systems
    grown = dataclasses.replace(
        first,
        streaming=dataclasses.replace(first.streaming, state_constant=False, state_bytes=5_000_000),
        continuation=dataclasses.replace(first.continuation, exact=False, largest_difference=2.5e-4),
    )
    text = page(dataclasses.replace(demonstration, systems=(grown, second)))
    assert "its state grew to 5 MB" in text and "State, whatever the length" not in text
    assert "differs by 2.5e-04" in text and "exact" not in text


def test_page_picture_and_results_are_written(tmp_path: Path, demonstration: Demonstration):
    path = write_report(demonstration, tmp_path / "new")
    assert sorted(p.name for p in path.parent.iterdir()) == ["picture.png", "report.html", "results.json"]
    assert path == tmp_path / "new" / "report.html"
    assert Demonstration.from_json((path.parent / "results.json").read_text()) == demonstration
    assert (path.parent / "picture.png").read_bytes().startswith(b"\x89PNG")
