"""`mnemos demo`: two language models trained alike, measured alike, and a page that shows it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch

import mnemos as mn
from mnemos.evaluate import (
    BitsPerByte,
    Continuation,
    LossByPosition,
    Streaming,
    bits_per_byte,
    held_out_stream,
    loss_by_position,
    save_and_continue,
    streaming,
)
from mnemos.evaluate.demo_plan import BEYOND, MEMORY, PIECE, WINDOW, Asked, Plan, make_plan, refuse_short, training_runs
from mnemos.evaluate.demo_results import Demonstration, Sample, System, Text
from mnemos.evaluate.learning import learning_curve, run_environment, training_speed
from mnemos.evaluate.pictures import size
from mnemos.evaluate.report import write_report
from mnemos.evaluate.result import Result
from mnemos.models.generation import generate
from mnemos.train import ByteTokenizer, Corpus, load_model, open_corpus, train
from mnemos.train.files import replace_text

TITLES = {MEMORY: "Titans (memory as a gate)", WINDOW: "Transformer (sliding window)"}
R = TypeVar("R", bound=Result)


def command(asked: Asked = Asked(), *, out: Path = Path("demo-run")) -> int:  # noqa: B008 (frozen)
    """Train a Titans language model and a transformer of equal size, and show what each can do.

    Both read the same text in the same order, byte by byte, for the same number of steps; the whole takes about
    ten minutes on two CPU cores. Both are then measured on text they have not seen: how well they predict it, how
    far beyond the training length they go on doing so, what a token costs along a stream of 200,000, and whether
    a state that was saved and loaded in a new process goes on exactly. OUT/report.html shows all of it. Stopped at
    any moment, the same command goes on from there.

    For example:

      mnemos demo

      mnemos demo --data my-novel.txt --out runs/novel

      mnemos demo --minutes 20 --width 192 --out runs/longer

    Args:
        asked: what to train, on what, for how long.
        out: Folder of all that the demo makes.
    """
    corpus = open_corpus(asked.data, ByteTokenizer())
    refuse_short(asked, corpus)
    say("planning: a transformer of equal size, and as many steps as the time allows")
    plan = make_plan(asked, corpus, out)
    for run in training_runs(plan.asked, plan.steps, out):
        say(f"training: {TITLES[run.out.name]}, {plan.steps:,} steps")
        if not train(run).finished:
            return 130
    demonstration = compare(plan, corpus, out)
    page = write_report(demonstration, out)
    print("\n".join(summary(demonstration)))
    print(f"\nThe report: {page.resolve()}")
    return 0


def compare(plan: Plan, corpus: Corpus, out: Path) -> Demonstration:
    """Everything measured of both models."""
    asked = plan.asked
    again = "" if len(corpus.held_out) > asked.stream else ", read over and over,"
    return Demonstration(
        systems=tuple(measure(name, plan, corpus, out) for name in TITLES),
        text=Text(
            source="Python's standard library" if asked.data == "stdlib" else Path(asked.data).name,
            training_tokens=len(corpus.training),
            held_out_tokens=len(corpus.held_out),
            tokenizer="bytes",
            streamed=f"the held-out text{again}",
        ),
        steps=plan.steps,
        length=asked.length,
        batch=asked.batch,
        cache_bytes_per_token=2 * asked.depth * asked.width * 4,
        environment={"mnemos": mn.__version__, **run_environment(out / MEMORY)},
        commands=reproduction(plan, out),
    )


def measure(name: str, plan: Plan, corpus: Corpus, out: Path) -> System:
    """Everything measured of one trained model; what was measured before is taken from its file."""
    asked, run = plan.asked, out / name
    model, stream = load_model(run), held_out_stream(corpus, asked.stream + 1)

    def measured(what: str, kind: type[R], work: Callable[[], R]) -> R:
        return kept(out / "measured" / f"{name}-{what.replace(' ', '-')}.json", plan.key, kind, work)

    say(f"measuring: {TITLES[name]}")
    return System(
        name=name,
        title=TITLES[name],
        explanation=model.explain(asked.stream),
        parameters=model.parameters_count(),
        flops_per_token=model.flops_per_token(asked.length),
        training=learning_curve(run),
        training_tokens_per_second=training_speed(run),
        held_out=measured(
            "bits per byte",
            BitsPerByte,
            lambda: bits_per_byte(model, corpus, length=asked.length, tokens=65536),
        ),
        by_position=measured(
            "loss by position",
            LossByPosition,
            lambda: loss_by_position(model, corpus, training_length=asked.length, length=BEYOND * asked.length),
        ),
        streaming=measured(
            "streaming",
            Streaming,
            lambda: streaming(model, stream, piece=PIECE, bytes_per_token=corpus.bytes_per_token),
        ),
        continuation=measured("continuation", Continuation, lambda: save_and_continue(run, stream[: 4 * PIECE + 1])),
        sample=measured("sample", Sample, lambda: sample(model, corpus)),
    )


def kept(path: Path, key: str, kind: type[R], work: Callable[[], R]) -> R:
    """The result in the file `path` if it was kept under `key`; otherwise the one of `work`, now kept there."""
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] == key:
            return kind.from_json(json.dumps(record["result"]))
    result = work()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({"key": key, "result": json.loads(result.to_json())}, indent=2) + "\n")
    return result


def sample(model: mn.LanguageModel, corpus: Corpus) -> Sample:
    """How the model goes on from the beginning of the held-out text."""
    prompt = torch.from_numpy(corpus.held_out[:200].astype("int64"))
    new, _ = generate(model, prompt[None], length=500, temperature=0.7, seed=0)
    decode = ByteTokenizer().decode
    return Sample(decode(prompt.tolist()), decode(new[0].tolist()))


def reproduction(plan: Plan, out: Path) -> tuple[str, ...]:
    """The commands that compute the same again, and those that look further."""
    words = ["mnemos", "demo"]
    for field in fields(plan.asked):
        value = getattr(plan.asked, field.name)
        if field.name not in ("minutes", "steps") and value != field.default:
            words += [f"--{field.name}", str(value)]
    words += ["--steps", str(plan.steps), "--out", str(out)]
    run = shlex.quote(str(out / MEMORY))
    return (shlex.join(words), f"mnemos evaluate {run}", f'mnemos generate {run} --prompt "import " --length 300')


def summary(demonstration: Demonstration) -> list[str]:
    """The table that ends the demo in the terminal."""
    rows = [
        ("", lambda s: s.title),
        ("parameters", lambda s: f"{s.parameters:,}"),
        ("held-out bits per byte", lambda s: str(s.held_out.value)),
        (f"  beyond {demonstration.length:,} tokens", lambda s: str(s.by_position.beyond)),
        ("cost of a token, late over early", lambda s: f"{s.streaming.late_over_early:.3f}"),
        ("state", lambda s: size(s.streaming.state_bytes) + (", constant" if s.streaming.state_constant else "")),
        ("streaming, tokens per second", lambda s: f"{s.streaming.tokens_per_second:,.0f}"),
        ("training, tokens per second", lambda s: f"{s.training_tokens_per_second:,.0f}"),
        ("state saved, loaded in a new process", lambda s: "exact" if s.continuation.exact else "differs"),
    ]
    return [
        "",
        *("  ".join([f"{n:<37}", *(f"{show(s):<26}" for s in demonstration.systems)]).rstrip() for n, show in rows),
    ]


def say(text: str) -> None:
    """A line about what happens now, on the standard error."""
    print(text, file=sys.stderr, flush=True)
