"""The report: one self-contained page, its main picture as PNG, and every number as JSON."""

from __future__ import annotations

from html import escape
from pathlib import Path

from mnemos.evaluate.demo_results import Demonstration, System
from mnemos.evaluate.estimate import Estimate
from mnemos.evaluate.pictures import (
    Draw,
    by_position,
    cost_per_token,
    learning_by_time,
    learning_by_tokens,
    main_picture,
    picture,
    reading_on,
    size,
    state_size,
)
from mnemos.evaluate.style import CSS
from mnemos.train.files import replace_text

PAGE, PICTURE, RESULTS = "report.html", "picture.png", "results.json"
CLASSES = ("first", "second")


def write_report(demonstration: Demonstration, folder: Path) -> Path:
    """Write report.html, picture.png and results.json into `folder`; returns the page's path.

    The page asks nothing of any other file or host, follows the reader's theme, and fits a phone.

    Raises:
        RunError: matplotlib is not installed.
    """
    text = page(demonstration)
    folder.mkdir(parents=True, exist_ok=True)
    main_picture(demonstration, folder / PICTURE)
    replace_text(folder / RESULTS, demonstration.to_json() + "\n")
    replace_text(folder / PAGE, text)
    return folder / PAGE


def page(demonstration: Demonstration) -> str:
    """The whole page as HTML text."""
    parts = (
        opening(demonstration),
        facts(demonstration),
        pictures(demonstration),
        table(demonstration),
        samples(demonstration),
        explanations(demonstration),
        method(demonstration),
        reproduction(demonstration),
    )
    title = escape(heading(demonstration))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(demonstration: Demonstration) -> str:
    """Who stands against whom."""
    return " and ".join(system.title for system in demonstration.systems)


def opening(demonstration: Demonstration) -> str:
    """What was done and what came out, in a paragraph that only says what the numbers say."""
    first, text = demonstration.systems[0], demonstration.text
    read = demonstration.steps * demonstration.length * demonstration.batch
    return (
        '<div class="brand">mnemos</div>\n'
        f"<h1>{escape(heading(demonstration))}</h1>\n"
        f'<p class="lede">{_models(demonstration)}, trained for {demonstration.steps:,} steps on the same '
        "windows of "
        f"{demonstration.length:,} tokens, {read / 1e6:.3g} million tokens of {escape(text.source)} in all. "
        f"{verdict(demonstration)} {endurance(first)}</p>"
    )


def verdict(demonstration: Demonstration) -> str:
    """How the systems compare on held-out text, or how the only one does."""
    first, *others = demonstration.systems
    said = [f"{escape(first.title)} needs {first.held_out.value.mean:.3f} bits per byte of held-out text."]
    for other in others:
        difference = first.held_out.minus(other.held_out)
        amount = f"{abs(difference.mean):.3f} bits ({_interval(_absolute(difference))})"
        if difference.low <= 0 <= difference.high:
            said.append(
                f"{escape(other.title)} needs {other.held_out.value.mean:.3f}: the difference, "
                f"{difference.mean:+.3f} ({_interval(difference)}), is within the noise."
            )
        else:
            than = "fewer" if difference.mean < 0 else "more"
            said.append(f"That is {amount} {than} than the {other.held_out.value.mean:.3f} of {escape(other.title)}.")
    return " ".join(said)


def endurance(system: System) -> str:
    """What a long stream did to cost and state."""
    stream = system.streaming
    state = "its state stayed at" if stream.state_constant else "its state grew to"
    return (
        f"Streamed over {stream.tokens:,} tokens, a token at the end cost "
        f"{stream.late_over_early:.2f} times what "
        f"one at the start did, and {state} {size(stream.state_bytes)}."
    )


def facts(demonstration: Demonstration) -> str:
    """The headline numbers of the first system."""
    first = demonstration.systems[0]
    stream, position, again = first.streaming, first.by_position, first.continuation
    cache = demonstration.cache_bytes_per_token * stream.tokens
    cards = (
        (
            "Held-out text",
            f"{first.held_out.value.mean:.3f}",
            f"bits per byte, {_interval(first.held_out.value)}",
        ),
        (
            f"Beyond the training length, to {position.length:,} tokens",
            f"{position.beyond.mean:.3f}",
            f"bits per byte; {position.within.mean:.3f} just before it",
        ),
        (
            f"Cost of a token after {stream.tokens:,}",
            f"{stream.late_over_early:.2f}×",
            f"of what it was at the start; {stream.tokens_per_second:,.0f} tokens per second",
        ),
        (
            "State, whatever the length" if stream.state_constant else "State at the end",
            size(stream.state_bytes),
            f"full attention would hold {size(cache)} by then",
        ),
        (
            "Saved, loaded in a new process",
            "exact" if again.exact else f"{again.largest_difference:.1e}",
            f"same logits for {again.tokens_after:,} further tokens"
            if again.exact
            else f"largest difference of a logit over {again.tokens_after:,} further tokens",
        ),
    )
    return (
        '<dl class="facts">\n'
        + "\n".join(f'<div class="fact"><dt>{a}</dt><dd>{b}</dd><dd class="note">{c}</dd></div>' for a, b, c in cards)
        + "\n</dl>"
    )


def pictures(demonstration: Demonstration) -> str:
    """The five pictures with a legend above them."""
    first = demonstration.systems[0]
    stream = first.streaming
    shown: tuple[tuple[Draw, str, str], ...] = (
        (
            by_position,
            "Reading beyond the training length",
            f"Bits per byte by position in {first.by_position.windows} held-out windows of "
            f"{first.by_position.length:,} tokens; the bands are 95 % intervals over windows.",
        ),
        (
            reading_on,
            "Reading on and on",
            f"Bits per byte along one stream of {stream.tokens:,} tokens with the state carried on: "
            "each piece "
            f"of {stream.piece:,} thin, a running median thick. It rises and falls with the text.",
        ),
        (
            cost_per_token,
            "Cost of one more token",
            "Along the same stream: each piece thin, a running median thick. Single slow pieces, "
            "the machine's "
            "other work, may leave the frame.",
        ),
        (
            state_size,
            "Size of the memory",
            "Bytes carried from piece to piece. Dashed: the keys and values that full attention of "
            "the same width "
            "and depth would keep, in float32.",
        ),
        (
            learning_by_tokens,
            "Learning, token for token",
            "Held-out bits per byte during training. The first evaluation may lie above the frame.",
        ),
        (
            learning_by_time,
            "Learning, minute for minute",
            "The same against the time spent in training, on this machine.",
        ),
    )
    items = "".join(
        f'<li class="{name}"><span>{escape(system.title)}</span></li>'
        for name, system in zip(CLASSES, demonstration.systems, strict=False)
    )
    drawn = "\n".join(
        f"<figure>\n<h3>{title}</h3>\n{picture(draw, demonstration)}\n<figcaption>{caption}</figcaption>\n</figure>"
        for draw, title, caption in shown
    )
    legend = f'<ul class="legend">{items}</ul>'
    return f'<h2>What was measured</h2>\n{legend}\n<div class="pictures">\n{drawn}\n</div>'


def table(demonstration: Demonstration) -> str:
    """All systems side by side, one row per number."""
    rows = (
        ("Parameters", [f"{s.parameters:,}" for s in demonstration.systems]),
        (
            "Held-out bits per byte",
            [
                f"{s.held_out.value.mean:.4f}<small>{_interval(s.held_out.value, 4)}</small>"
                for s in demonstration.systems
            ],
        ),
        (
            f"Bits per byte beyond {demonstration.length:,} tokens",
            [
                f"{s.by_position.beyond.mean:.4f}<small>{_interval(s.by_position.beyond, 4)}</small>"
                for s in demonstration.systems
            ],
        ),
        ("State of one stream", [f"{size(s.streaming.state_bytes)}" for s in demonstration.systems]),
        (
            "State constant over the stream",
            ["yes" if s.streaming.state_constant else "no" for s in demonstration.systems],
        ),
        (
            "Late over early cost of a token",
            [f"{s.streaming.late_over_early:.3f}" for s in demonstration.systems],
        ),
        (
            "Streaming, tokens per second",
            [f"{s.streaming.tokens_per_second:,.0f}" for s in demonstration.systems],
        ),
        ("Training, tokens per second", [f"{s.training_tokens_per_second:,.0f}" for s in demonstration.systems]),
        ("FLOPs per token, forward", [f"{s.flops_per_token / 1e6:,.2f} million" for s in demonstration.systems]),
        (
            "Saved state in a new process",
            [
                "equal to the last bit"
                if s.continuation.exact
                else f"differs by {s.continuation.largest_difference:.1e}"
                for s in demonstration.systems
            ],
        ),
    )
    head = "".join(
        f'<th class="{name}">{escape(s.title)}</th>' for name, s in zip(CLASSES, demonstration.systems, strict=False)
    )
    body = "\n".join(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows)
    return (
        '<h2>Side by side</h2>\n<div class="wide"><table>\n'
        f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def samples(demonstration: Demonstration) -> str:
    """What each system wrote."""
    shown = "\n".join(
        f'<h3 class="{name}">{escape(s.title)}</h3>\n'
        '<pre class="text"><span '
        f'class="prompt">{escape(s.sample.prompt)}</span>{escape(s.sample.text)}</pre>'
        for name, s in zip(CLASSES, demonstration.systems, strict=False)
    )
    return (
        "<h2>What they write</h2>\n<p class='soft'>The grey beginning was given. These are small "
        "models after a short "
        f"training; the text shows what they picked up, not what they know.</p>\n{shown}"
    )


def explanations(demonstration: Demonstration) -> str:
    """What each system is, in its own words."""
    shown = "\n".join(
        f"<details><summary>{escape(s.title)} <span class='soft'>({escape(s.name)})</span></summary>"
        f"<pre>{escape(s.explanation)}</pre></details>"
        for s in demonstration.systems
    )
    return f"<h2>What they are</h2>\n{shown}"


def method(demonstration: Demonstration) -> str:
    """How the numbers came about."""
    text, first = demonstration.text, demonstration.systems[0]
    held_out, stream, again = first.held_out, first.streaming, first.continuation
    return (
        "<h2>How it was measured</h2>\n"
        f"<p>Text: {escape(text.source)}; {text.training_tokens:,} tokens to learn from and "
        f"{text.held_out_tokens:,} held out, tokens are {escape(text.tokenizer)}. Every system saw "
        "the same windows in the same order: "
        f"{demonstration.steps:,} steps of {demonstration.batch} windows of {demonstration.length:,} tokens.</p>\n"
        f"<p>Held-out bits per byte: {len(held_out.by_window)} windows of {held_out.length:,} "
        "tokens spread over the "
        "held-out text, each begun with an empty memory; Student's 95 % interval over windows. "
        "Differences between "
        "systems are taken window by window. The intervals speak of the text, not of another "
        "training run.</p>\n"
        f"<p>Streaming: {escape(text.streamed)} as one stream in pieces of {stream.piece:,} tokens; early and "
        "late are the "
        "medians over the "
        f"first and the last quarter of its {len(stream.pieces)} pieces. Saved state: after "
        f"{again.tokens_before:,} "
        f"tokens the state was written to disk, a new Python process loaded it, and its logits for the next "
        f"{again.tokens_after:,} tokens were compared with the unbroken stream's.</p>"
    )


def reproduction(demonstration: Demonstration) -> str:
    """Where it ran, and what to type to have it again."""
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in demonstration.environment.items()
    )
    commands = escape("\n".join(demonstration.commands))
    return (
        f"<h2>Run it again</h2>\n<pre>{commands}</pre>\n"
        f'<div class="wide"><table class="plain">\n{rows}\n</table></div>\n'
        f"<footer>All numbers on this page are in {RESULTS}, beside it.</footer>"
    )


def _models(demonstration: Demonstration) -> str:
    counts = [system.parameters for system in demonstration.systems]
    words = {1: "One language model", 2: "Two language models"}.get(len(counts), f"{len(counts)} language models")
    millions = dict.fromkeys(f"{count / 1e6:.2f}" for count in counts)
    return f"{words} of {' and '.join(millions)} million parameters"


def _interval(value: Estimate, digits: int = 3) -> str:
    return f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _absolute(value: Estimate) -> Estimate:
    low, high = sorted((abs(value.low), abs(value.high)))
    return Estimate(abs(value.mean), low, high, value.count)
