"""How likely a model finds texts, and what it writes: each context is read once, and its state branched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import mnemos as mn
from mnemos.errors import Diverged, InvalidValue, expect
from mnemos.evaluate.windows import device_of, measuring
from mnemos.models.generation import choose
from mnemos.state import State
from mnemos.train import Tokenizer, find_checkpoint
from mnemos.train.run import config_of

TOKENS = 8192
"""Tokens read in one call, over all rows: longer texts are read in pieces."""


@dataclass(frozen=True)
class Likelihood:
    """log_p: `log p(continuation | context)`, in nats. greedy: whether each of its tokens is the likeliest there."""

    log_p: float
    greedy: bool


class Scorer:
    """Scores and continues texts with a language model.

    Every text is a document of its own and begins as in training: the model first reads the token that ends the
    document before. With `separate`, for models whose memory started afresh with every document of their training, that
    token decides only what the first token is predicted from, and the memory then starts afresh.

    A context that many continuations share is read once. Texts may be of any length; nothing is cut. Texts of different
    lengths are read together, as many as `batch`; the state of as many is held.
    """

    def __init__(self, model: mn.LanguageModel, tokenizer: Tokenizer, *, separate: bool = False, batch: int = 16):
        """Raises InvalidValue for a batch below 1, or a tokenizer with another vocabulary than the model."""
        expect(isinstance(batch, int) and batch >= 1, f"batch counts texts read together, at least 1; got {batch!r}.")
        expect(
            model.spec.vocabulary == tokenizer.vocabulary,
            f"the model has a vocabulary of {model.spec.vocabulary}, the tokenizer one of {tokenizer.vocabulary}. Give "
            "the tokenizer that the model was trained with.",
        )
        self.model, self.tokenizer, self.separate, self.batch = model, tokenizer, separate, batch

    @classmethod
    def of_checkpoint(
        cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu", batch: int = 16
    ) -> Scorer:
        """Of the trained model in a run's folder or in one of its checkpoints.

        Raises RunError if there is none, or if it lies outside its run.
        """
        found = find_checkpoint(path)
        separate = config_of(found.folder).documents == "separate"
        return cls(found.model().to(device), found.tokenizer(), separate=separate, batch=batch)

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens of both, so that together they are the tokens of the whole text wherever that can be.

        If a token spans the border, blanks at the end of the context count to the continuation. If one still does, each
        part is encoded by itself.
        """
        bare = context.rstrip()
        for before, after in ((context, continuation), (bare, context[len(bare) :] + continuation)):
            head, whole = self._encode(before), self._encode(before + after)
            if whole[: len(head)] == head:
                return head, whole[len(head) :]
        return self._encode(context), self._encode(continuation)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """`log p(continuation | context) = sum over t of log p(token t | context, tokens before t)` of each pair.

        An empty context is the beginning of a document; an empty continuation is certain. Raises Diverged if the model
        gives numbers that are not finite.
        """
        by_context: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
        found = [Likelihood(0.0, True)] * len(pairs)
        for number, pair in enumerate(pairs):
            context, continuation = self.split(*pair)
            if continuation:
                by_context.setdefault(tuple(context), []).append((number, continuation))
        with measuring(self.model):
            for contexts in self._batches(list(by_context)):
                logits, state = self._read(contexts)
                asked = [(row, *one) for row, context in enumerate(contexts) for one in by_context[context]]
                asked.sort(key=lambda one: -len(one[2]))
                for begin in range(0, len(asked), self.batch):
                    now = asked[begin : begin + self.batch]
                    rows = torch.tensor([row for row, _, _ in now])
                    scored = self._score(logits[rows], state.select(rows), [ids for _, _, ids in now])
                    for (_, number, _), likelihood in zip(now, scored, strict=True):
                        found[number] = likelihood
        return found

    def document_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """`log p(text)` of each text as a whole document, in nats, without the token that ends it."""
        return [found.log_p for found in self.likelihoods([("", text) for text in texts])]

    def continuations(
        self,
        contexts: Sequence[str],
        *,
        length: int = 256,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int = 0,
    ) -> list[str]:
        """What the model writes after each context.

        A text ends before the first of `stops` that appears in it, where the model ends the document, or after `length`
        tokens. temperature, top_p: as for `mnemos.models.generation.generate`; 0 takes the likeliest token. seed:
        repeats the draws, and a text's draws do not depend on the texts beside it.

        Raises InvalidValue for settings out of range.
        """
        expect(length >= 0, f"length counts new tokens, at least 0; got {length}.")
        expect(temperature >= 0, f"temperature must be at least 0 (0: always the likeliest); got {temperature}.")
        expect(top_p is None or 0 < top_p <= 1, f"top_p must lie in (0, 1]; got {top_p}.")
        if not all(stops):
            raise InvalidValue("an empty text in stops would stop everything at once. Leave it out.")
        device, ids = device_of(self.model), [tuple(self._encode(text)) for text in contexts]
        draws = [torch.Generator(device).manual_seed(seed + number) for number in range(len(ids))]
        numbers: dict[tuple[int, ...], list[int]] = {}
        for number, context in enumerate(ids):
            numbers.setdefault(context, []).append(number)
        written = [""] * len(ids)
        with measuring(self.model):
            for group in self._batches(list(numbers)):
                logits, state = self._read(group)
                asked = [(row, number) for row, context in enumerate(group) for number in numbers[context]]
                for begin in range(0, len(asked), self.batch):
                    now = asked[begin : begin + self.batch]
                    rows = torch.tensor([row for row, _ in now])
                    writing = _Writing(self, [draws[number] for _, number in now], stops, temperature, top_p)
                    texts = writing.run(logits[rows], state.select(rows), length)
                    for (_, number), text in zip(now, texts, strict=True):
                        written[number] = text
        return written

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).tolist()

    def _batches(self, contexts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Of similar length; the longest first, so that what does not fit into memory fails at once."""
        from tqdm import tqdm

        contexts = sorted(contexts, key=len, reverse=True)
        with tqdm(total=len(contexts), desc="contexts", unit="context", leave=False, disable=None) as bar:
            for begin in range(0, len(contexts), self.batch):
                group = contexts[begin : begin + self.batch]
                yield group
                bar.update(len(group))

    def _read(self, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, State]:
        """Logits (rows, vocabulary) of what follows each context at the beginning of a document, and the states."""
        device, rows = device_of(self.model), len(contexts)
        start = torch.full((1, 1), self.tokenizer.end_of_document, device=device)
        logits, begun = self.model(start)
        state = self.model.init_state(rows) if self.separate else begun.select(torch.zeros(rows, dtype=torch.int64))
        after = logits[:, -1].repeat(rows, 1)
        for begin, tokens, mask in self._pieces(contexts):
            logits, state = self.model(tokens, state, mask=mask)
            for row, context in enumerate(contexts):
                if begin < len(context) <= begin + tokens.shape[1]:
                    after[row] = logits[row, len(context) - 1 - begin]
        return after, state

    def _score(self, logits: Tensor, state: State, continuations: list[list[int]]) -> list[Likelihood]:
        """logits (rows, vocabulary): of the first token of each continuation; none of these is empty."""
        first = torch.tensor([[ids[0]] for ids in continuations], device=logits.device)
        every = torch.ones_like(first, dtype=torch.bool)
        log_p, greedy = _judged(logits[:, None], first, every)
        # A token is predicted from those before it, so the last one is not read; the first is already judged.
        read = [ids[:-1] for ids in continuations]
        targets = self._pieces([ids[1:] for ids in continuations])
        for (_, tokens, mask), (_, target, _) in zip(self._pieces(read), targets, strict=True):
            found, state = self.model(tokens, state, mask=mask)
            more, likeliest = _judged(found, target, mask)
            log_p, greedy = log_p + more, greedy & likeliest
        if not bool(torch.isfinite(log_p).all()):
            raise Diverged("the model's logits are not finite, so they give no probability. Its weights are damaged.")
        return [Likelihood(p, g) for p, g in zip(log_p.tolist(), greedy.tolist(), strict=True)]

    def _pieces(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first position, tokens (rows, time), mask (rows, time)) of texts, padded at their ends."""
        device, size = device_of(self.model), max(1, TOKENS // len(rows))
        for begin in range(0, max(map(len, rows)), size):
            pieces = [torch.tensor(row[begin : begin + size], dtype=torch.int64) for row in rows]
            lengths = torch.tensor([len(piece) for piece in pieces])
            tokens = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)
            mask = torch.arange(tokens.shape[1]) < lengths[:, None]
            yield begin, tokens.to(device), mask.to(device)


class _Writing:
    """Some texts that are written together, each until it ends."""

    def __init__(
        self,
        scorer: Scorer,
        draws: list[torch.Generator],
        stops: Sequence[str],
        temperature: float,
        top_p: float | None,
    ):
        self.model, self.tokenizer = scorer.model, scorer.tokenizer
        self.draws, self.stops, self.temperature, self.top_p = draws, stops, temperature, top_p
        self.ids: list[list[int]] = [[] for _ in draws]
        self.texts = [""] * len(draws)

    def run(self, logits: Tensor, state: State, length: int) -> list[str]:
        """logits (rows, vocabulary): of the first token of each text."""
        going = list(range(len(self.draws)))
        for turn in range(length):
            tokens = [self._choose(logits[row, None], text) for row, text in enumerate(going)]
            left = [row for row, text in enumerate(going) if not self._ends(text, tokens[row])]
            if not left or turn + 1 == length:
                break
            if len(left) < len(going):
                state = state.select(torch.tensor(left))
                going, tokens = [going[row] for row in left], [tokens[row] for row in left]
            found, state = self.model(torch.tensor(tokens, device=logits.device)[:, None], state)
            logits = found[:, -1]
        return self.texts

    def _choose(self, logits: Tensor, text: int) -> int:
        return int(choose(logits.float(), self.temperature, self.top_p, self.draws[text]))

    def _ends(self, text: int, token: int) -> bool:
        """Take the token in; whether the text is complete with it."""
        if token == self.tokenizer.end_of_document:
            return True
        self.ids[text].append(token)
        whole = self.tokenizer.decode(self.ids[text])
        places = [place for stop in self.stops if (place := whole.find(stop)) >= 0]
        self.texts[text] = whole[: min(places)] if places else whole
        return bool(places)


def _judged(logits: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (rows,) of log p of the targets (rows, time) where `mask` is True, and whether all are the likeliest."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    likeliest = (logits.argmax(-1) == targets) | ~mask
    return -(nats * mask).sum(1, dtype=torch.float64), likeliest.all(1)
