"""The training loop: data, model, optimiser, and the folder that remembers it all."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import mnemos as mn
from mnemos.errors import Diverged, InvalidValue, RunError
from mnemos.layers import balanced, followed
from mnemos.state import concatenate
from mnemos.train.bar import Bar
from mnemos.train.beginnings import beginning
from mnemos.train.checkpoint import Position, clean_up, newest_checkpoint, write_checkpoint
from mnemos.train.config import Optimiser, TrainConfig
from mnemos.train.corpus import open_corpus
from mnemos.train.run import Metrics, only_process, read_metrics, refuse_other_run, start_run
from mnemos.train.sampler import Batch, Streams, Windows, held_out_windows, in_batches, step_seed
from mnemos.train.shares import Shares
from mnemos.train.system import model_spec
from mnemos.train.tokenizer import make_tokenizer


@dataclass(frozen=True)
class Run:
    """What became of a training run.

    folder: where it is. step: steps it has behind it. finished: whether that is all; otherwise it was
    interrupted and the same call goes on. loss, bits_per_byte: of the last evaluation on held-out text, None
    if there was none yet.
    """

    folder: Path
    step: int
    finished: bool
    loss: float | None
    bits_per_byte: float | None


def train(config: TrainConfig, *, progress: bool = True) -> Run:
    """Train a language model as `config` says, or go on with the run that its folder holds.

    A run that was interrupted, however that happened, goes on from its last checkpoint with the same data in
    the same order: limited by steps, it gives bit for bit the numbers of an unbroken run on the same machine.
    An interrupt (Ctrl-C) or SIGTERM ends it after the current step with a checkpoint; a second Ctrl-C ends it
    at once.

    progress: whether to show a bar and messages on the standard error.

    Raises DataError for unfit data, RunError if the folder holds something else or the loss is no longer
    finite, and what the declaration of the model raises. Nothing is written into the folder before all that
    is checked.
    """
    refuse_other_run(config)
    say = _say if progress else _silent
    with _threads(config.threads), torch.random.fork_rng():
        trainer = Trainer(config, say, progress)
        with only_process(config.out):
            clean_up(config.out)
            trainer.resume()
            start_run(config)
            if trainer.finished():
                say(f"the run in {config.out} is finished, at step {trainer.step}; a longer one needs another --out")
            else:
                trainer.run()
            return trainer.result()


class Trainer:
    """One run in memory: the text, the model, the optimiser, the state between steps, and how far it is."""

    def __init__(self, config: TrainConfig, say: Callable[[str], None], progress: bool):
        self.config, self.say, self.shown = config, say, progress
        self.device = _device(config.device)
        self.tokenizer = make_tokenizer(config.tokenizer)
        spec = model_spec(config, self.tokenizer.vocabulary)
        if spec.delay:
            raise InvalidValue(
                f"{config.system} answers {spec.delay} tokens late, so that its outputs do not stand beside the tokens "
                "that they would be compared with. Use a system that answers at once, such as zoo.attendre(delay=0)."
            )
        self.corpus = open_corpus(config.data, self.tokenizer, progress=progress)
        if self.corpus.skipped:
            say(f"{self.corpus.skipped} binary or non-UTF-8 files in {config.data} were skipped")
        separate = config.documents == "separate"
        sampler = Streams if config.initial_state == "carried" else Windows
        self.sample = sampler(self.corpus, config.length, config.batch, config.seed, separate)
        windows = held_out_windows(self.corpus, config.length, config.evaluate_tokens, separate)
        self.evaluation = list(in_batches(windows, config.batch))
        torch.manual_seed(config.seed)
        self.model = mn.LanguageModel(spec).to(self.device)
        if config.initial_state == "passed" and self.model.state_bytes(1) > self.model.state_bytes(0):
            raise InvalidValue(
                f"{config.system} keeps every token, so a state passed on from step to step would grow without end. "
                "Use --initial-state fresh, or a memory of fixed size."
            )
        self.optimizer = make_optimizer(self.model, config.optimiser)
        self.shares = Shares(self.model, self.device, config.batch)
        self.state: mn.State | None = None
        self.step, self.tokens, self.seconds = 0, 0, 0.0

    def resume(self) -> None:
        """Go to the newest good checkpoint in the run's folder, if there is one.

        Raises RunError if the text or the model is another one now.
        """
        checkpoint = newest_checkpoint(self.config.out, note=self.say)
        if checkpoint is None:
            return
        position = checkpoint.position
        if (position.corpus_fingerprint, position.tokenizer_fingerprint) != self._text():
            raise RunError(
                f"the text of {self.config.data} (or its tokenizer) is not what the run in {self.config.out} "
                "began with: the files were changed. Restore them, or train into a new folder."
            )
        if checkpoint.declaration() != self.model.spec.to_json():
            raise RunError(
                f"{self.config.system} declares another model than the one that the run in {self.config.out} "
                "began with. Restore the declaration, or train into a new folder."
            )
        state = checkpoint.restore(self.model, self.optimizer)
        self.state = None if state is None else _settled(state.to(self.device))
        self.step, self.tokens, self.seconds = position.step, position.tokens, position.seconds
        if not self.finished():
            self.say(f"going on with {self.config.out} after step {self.step}")

    def progress(self) -> float:
        """The share of the run that is behind it, in [0, 1]."""
        if self.config.steps is not None:
            return self.step / self.config.steps
        assert self.config.minutes is not None
        return min(1.0, self.seconds / (60 * self.config.minutes))

    def finished(self) -> bool:
        """Whether the run has all its steps or minutes behind it."""
        return self.progress() >= 1.0

    def run(self) -> None:
        """Train to the end, or until interrupted."""
        config = self.config
        metrics = Metrics(config.out, self.step)
        saved_at = self.step
        before = perf_counter() - self.seconds
        try:
            with _interrupts() as interrupted, Bar(config, self.step, self.seconds, shown=self.shown) as bar:
                while not self.finished() and not interrupted.is_set():
                    record = self.train_step()
                    self.seconds = perf_counter() - before
                    metrics.write("train", **record, seconds=round(self.seconds, 3))
                    bar.update(self.seconds, record)
                    if self.step % config.evaluate_every == 0 or self.finished():
                        measured = self.evaluate()
                        metrics.write("evaluate", step=self.step, **measured)
                        bar.evaluated(self.step, measured)
                        self.seconds = perf_counter() - before
                    if self.step % config.checkpoint_every == 0 or self.finished():
                        saved_at = self.step
                        self.save(metrics)
                if saved_at != self.step:
                    self.save(metrics)
        finally:
            metrics.close()
        if not self.finished():
            self.say(f"interrupted after step {self.step}; the same command goes on from there")

    def train_step(self) -> dict[str, Any]:
        """One step of the optimiser; returns what was measured.

        Raises RunError if the loss or the gradient is not finite.
        """
        config, began = self.config, perf_counter()
        rate = config.optimiser.rate_at(self.step, self.progress())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(config.seed, self.step))
        batch = self.sample(self.step)
        self.model.train()
        state = None
        if config.initial_state != "fresh":
            last = self.state if config.initial_state != "carried" or not batch.fresh else None
            with self._autocast():
                state = beginning(config.initial_state, last, self.model.init_state(config.batch), config.fresh_rows)
        value, after = self.gradient(batch, state)
        self._refuse_unless_finite("loss", value, lambda: self._origin(batch, state))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip).item()
        self._refuse_unless_finite("norm of the gradient", norm, lambda: self._first_gradient(batch, state))
        self.optimizer.step()
        self.state = None if after is None else _settled(after)
        self.step += 1
        self.tokens += batch.tokens.numel()
        return {
            "step": self.step,
            "loss": value,
            "bits_per_byte": self.corpus.bits_per_byte(value),
            "rate": rate,
            "gradient_norm": norm,
            "tokens": self.tokens,
            "tokens_per_second": round(batch.tokens.numel() / (perf_counter() - began), 1),
        }

    def gradient(self, batch: Batch, state: mn.State | None) -> tuple[float, mn.State | None]:
        """Gives the weights the gradient of what training minimises; returns the mean loss of the batch, in nats per
        token, and the state after it if it began with one."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]

        def work(rows: slice) -> tuple[float, tuple[Tensor | None, ...], mn.State]:
            part = batch.rows(rows)
            begun = None if state is None else state.select(torch.arange(rows.start, rows.stop, device=state.device))
            with balanced(self.model) as balance, followed(self.model) as commitment:
                loss, after = self.loss(part, begun)
            share = len(part.tokens) / len(batch.tokens)
            least = share * (loss + balance() + commitment())
            # Shares that begin with rows of one state have the way to it in common.
            found = torch.autograd.grad(least, weights, allow_unused=True, retain_graph=state is not None)
            return share * loss.item(), found, after

        shares = self.shares.map(work, len(batch.tokens))
        for weight, *each in zip(weights, *(gradients for _, gradients, _ in shares), strict=True):
            known = [gradient for gradient in each if gradient is not None]
            weight.grad = sum(known[1:], known[0]) if known else None
        after = None if state is None else concatenate([after for _, _, after in shares])
        return sum(value for value, _, _ in shares), after

    def loss(self, batch: Batch, state: mn.State | None) -> tuple[Tensor, mn.State]:
        """The mean loss of a batch, in nats per token, and the state after it."""
        logits, after = self._read(batch, state)
        targets = batch.targets.to(self.device)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), after

    def _read(self, batch: Batch, state: mn.State | None, checks: bool = False) -> tuple[Tensor, mn.State]:
        reset = None if batch.reset is None else batch.reset.to(self.device)
        with self._autocast():
            return self.model(batch.tokens.to(self.device), state, reset=reset, checks=checks)

    def evaluate(self) -> dict[str, Any]:
        """The loss on held-out text, each window starting with a fresh memory."""
        self.model.eval()
        total, tokens = 0.0, 0
        for batch in self.evaluation:

            def work(rows: slice, batch: Batch = batch) -> float:
                part = batch.rows(rows)
                with torch.no_grad():
                    return self.loss(part, None)[0].item() * part.tokens.numel()

            total += sum(self.shares.map(work, len(batch.tokens)))
            tokens += batch.tokens.numel()
        loss = total / tokens
        return {"loss": loss, "bits_per_byte": self.corpus.bits_per_byte(loss), "tokens": tokens}

    def save(self, metrics: Metrics) -> None:
        """Write a checkpoint; the measurements up to it are on disk before it is."""
        metrics.sync()
        text, tokenizer = self._text()
        position = Position(self.step, self.tokens, self.seconds, text, tokenizer, self.corpus.bytes_per_token)
        write_checkpoint(
            self.config.out,
            position,
            self.model,
            self.optimizer,
            self.state,
            self.tokenizer,
            keep=self.config.keep,
        )

    def result(self) -> Run:
        """What became of the run."""
        evaluations = [r for r in read_metrics(self.config.out) if r["kind"] == "evaluate"]
        last = evaluations[-1] if evaluations else {"loss": None, "bits_per_byte": None}
        return Run(self.config.out, self.step, self.finished(), last["loss"], last["bits_per_byte"])

    def _autocast(self) -> torch.autocast:
        enabled, alone = self.config.dtype == "bfloat16", self.shares.number == 1  # threads would share the cache
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=alone)

    def _text(self) -> tuple[str, str]:
        return self.corpus.fingerprint, self.tokenizer.fingerprint

    def _origin(self, batch: Batch, state: mn.State | None) -> str:
        """Where in this batch the numbers stopped being finite, and why."""
        try:
            with torch.no_grad():
                self._read(batch, state, checks=True)
        except Diverged as error:
            return f"Where it began: {error}"
        return "The model's outputs are finite: the loss itself overflowed."

    def _first_gradient(self, batch: Batch, state: mn.State | None) -> str:
        """Which weights' gradients are not finite, though the loss is."""
        torch.manual_seed(step_seed(self.config.seed, self.step))
        self.optimizer.zero_grad(set_to_none=True)  # clipping has spoilt them all
        self.loss(batch, None if state is None else state.detach())[0].backward()
        grads = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
        unfit = [name for name, grad in grads if not bool(torch.isfinite(grad).all())]
        if not unfit:
            return "Each weight's gradient is finite, their joint norm is not."
        more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
        return f"The outputs are finite; the gradient is not in {unfit[0]}{more}."

    def _refuse_unless_finite(self, what: str, value: float, cause: Callable[[], str]) -> None:
        if not math.isfinite(value):
            checkpoint = newest_checkpoint(self.config.out, note=self.say)
            kept = f"{checkpoint.folder} is kept" if checkpoint else "there was no checkpoint yet"
            raise RunError(
                f"the {what} became {value} in step {self.step + 1}, so the run was stopped; {kept}. "
                f"{cause()} Train into a new folder with a lower --rate (it was {self.config.optimiser.rate}), a "
                "longer --warmup or a smaller --clip."
            )


def make_optimizer(model: nn.Module, choice: Optimiser) -> torch.optim.AdamW:
    """AdamW over the model's weights; scalars, biases and norms (fewer than two axes) are not decayed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": choice.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=choice.rate, betas=choice.betas)


def _settled(state: mn.State) -> mn.State:
    """The state cut from the gradient's graph, in memory of its own.

    Matrix products round differently with the layout and alignment of their inputs. A state read from disk
    must give the same bits as the one that was never saved, so both go through here.
    """

    def settle(tensor: Tensor) -> Tensor:
        return tensor.detach().clone(memory_format=torch.contiguous_format)

    return state.map(settle)


def _device(choice: str) -> torch.device:
    if choice == "cuda" and not torch.cuda.is_available():
        raise InvalidValue("--device cuda was asked for, but PyTorch finds no CUDA device. Write --device cpu.")
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one has its usual effect."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass
