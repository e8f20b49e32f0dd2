"""Texts scored and written by a language model, against one token at a time in float64."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import mnemos as mn
from mnemos.errors import Diverged, InvalidValue, RunError
from mnemos.evaluate import scoring
from mnemos.evaluate.scoring import Scorer
from mnemos.models.generation import generate
from mnemos.train.tokenizer import ByteTokenizer, FileTokenizer

PAIRS = [
    ("the snow is", " white"),
    ("the snow is", " black as a very long night"),
    ("a memory", "."),
    ("", "begins"),
    ("ends", ""),
    ("schö", "ne Grüße, 雪"),
    ("the snow is", " w"),
    ("one two three four five six seven", " eight"),
]


def scorer(system: str = "gated_deltanet", seed: int = 0, **settings: object) -> Scorer:
    torch.manual_seed(seed)
    spec = mn.zoo.model(system, width=16, depth=1, heads=2, vocabulary=257)
    model = mn.LanguageModel(spec).double()
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # far from even odds
    return Scorer(model, ByteTokenizer(), **settings)  # pyright: ignore[reportArgumentType]


def literally(one: Scorer, context: str, continuation: str) -> tuple[float, bool]:
    """Token by token from the beginning, for this pair alone."""
    before, after = list(context.encode()), list(continuation.encode())
    with torch.no_grad():
        logits, state = one.model(torch.tensor([[256]]))
        if one.separate:
            state = one.model.init_state(1)
        total, greedy = 0.0, True
        for place, token in enumerate([*before, *after]):
            if place >= len(before):
                total += float(logits[0, -1].log_softmax(-1)[token])
                greedy &= int(logits[0, -1].argmax()) == token
            logits, state = one.model(torch.tensor([[token]]), state)
    return total, greedy


@pytest.mark.parametrize(
    ("system", "batch", "separate"),
    [
        *[("gated_deltanet", batch, False) for batch in (1, 3, 16)],
        ("gated_deltanet", 3, True),
        ("transformer", 3, False),
        ("titans_mac", 3, False),
    ],
)
def test_likelihoods_are_those_of_one_token_at_a_time(system: str, batch: int, separate: bool) -> None:
    one = scorer(system, batch=batch, separate=separate)
    found = one.likelihoods(PAIRS)
    for pair, likelihood in zip(PAIRS, found, strict=True):
        log_p, greedy = literally(one, *pair)
        assert likelihood.log_p == pytest.approx(log_p, abs=1e-9, rel=0), pair
        assert likelihood.greedy == greedy
    assert found[4].log_p == 0.0 and found[4].greedy


def test_where_a_document_begins_counts() -> None:
    joined, separate = scorer(), scorer(separate=True)
    assert joined.likelihoods([("", "a")]) == separate.likelihoods([("", "a")])
    assert abs(joined.likelihoods([("a", "b")])[0].log_p - separate.likelihoods([("a", "b")])[0].log_p) > 1e-3


def test_a_shared_context_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, read = scorer(), []
    real = Scorer._read

    def counted(self: Scorer, contexts: list[tuple[int, ...]]) -> object:
        read.extend(contexts)
        return real(self, contexts)

    monkeypatch.setattr(Scorer, "_read", counted)
    one.likelihoods(PAIRS)
    assert len(read) == len(set(read)) == len({context for context, continuation in PAIRS if continuation})
    read.clear()
    one.continuations(["same", "same", "other"], length=2)
    assert len(read) == 2


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_long_texts_are_read_in_pieces_and_not_cut(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = scorer("transformer", batch=2)
    texts = ["snow falls on the memory " * 5, "short", "ж" * 30]
    whole = one.document_likelihoods(texts)
    monkeypatch.setattr(scoring, "TOKENS", tokens)
    assert one.document_likelihoods(texts) == pytest.approx(whole, abs=1e-9, rel=0)
    assert whole == pytest.approx([literally(one, "", text)[0] for text in texts], abs=1e-9, rel=0)
    split = one.likelihoods([(texts[0][:80], texts[0][80:]), ("", texts[0][:80])])
    assert split[0].log_p + split[1].log_p == pytest.approx(whole[0], abs=1e-9, rel=0)


def test_greedy_is_what_the_model_writes_itself() -> None:
    for seed in range(3):
        one = scorer(seed=seed)
        ids = torch.tensor([[256, *b"the "]])
        new, _ = generate(one.model, ids, length=6, temperature=0)
        if int(new.max()) < 128:
            text = bytes(new[0].tolist()).decode()
            assert one.continuations(["the "], length=6) == [text]
            assert one.likelihoods([("the ", text)])[0].greedy
            assert not one.likelihoods([("the ", text[:-1] + ("a" if text[-1] != "a" else "b"))])[0].greedy
            return
    pytest.fail("none of these models writes a text")


class Says(torch.nn.Module):
    """Writes `text` and ends the document, whatever it read; its state counts the tokens written in each row."""

    def __init__(self, *texts: str, prompt: int):
        super().__init__()
        self.spec = mn.ModelSpec((mn.zoo.linear_attention(),), 8, 1, 1, 257)
        self.answers, self.prompt = [[*text.encode(), 256] for text in texts], prompt

    def init_state(self, batch: int) -> mn.State:
        return mn.State((), {"seen": torch.zeros(batch, 1, dtype=torch.int64), "row": torch.arange(batch)[:, None]})

    def forward(
        self, tokens: torch.Tensor, state: mn.State | None = None, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, mn.State]:
        state = self.init_state(len(tokens)) if state is None else state
        logits = torch.zeros(*tokens.shape, 257)
        seen = state["seen"].clone()
        for row, answer in enumerate(state["row"].flatten().tolist()):
            for place in range(tokens.shape[1]):
                if mask is None or bool(mask[row, place]):
                    seen[row] += 1
                    now = max(int(seen[row]) - self.prompt, 0)
                    logits[row, place, self.answers[answer][min(now, len(self.answers[answer]) - 1)]] = 9.0
        return logits, mn.State((), {"seen": seen, "row": state["row"]})


def saying(*texts: str, prompt: int) -> Scorer:
    return Scorer(Says(*texts, prompt=prompt), ByteTokenizer(), separate=True)  # pyright: ignore


def test_writing_ends_at_a_stop_at_the_documents_end_and_at_its_length() -> None:
    one = saying("yes\nno", "täglich; immer", "ja", prompt=2)  # three prompts of two bytes each
    prompts = ["q1", "q2", "q3"]
    assert one.continuations(prompts, length=50) == ["yes\nno", "täglich; immer", "ja"]
    assert one.continuations(prompts, length=50, stops=["\n", "glich", "ch;"]) == ["yes", "tä", "ja"]
    assert one.continuations(prompts, length=50, stops=["no", "s\nn", "imm"]) == ["ye", "täglich; ", "ja"]
    assert one.continuations(prompts, length=50, stops=["n", "s\nn"]) == ["ye", "täglich; immer", "ja"]
    assert one.continuations(prompts, length=2) == ["ye", "t\ufffd", "ja"]
    assert one.continuations(prompts, length=0) == ["", "", ""]


def test_draws_repeat_and_do_not_depend_on_the_texts_beside() -> None:
    one = scorer(batch=2)
    prompts = ["a", "bb", "a", "dddd"]
    found = one.continuations(prompts, length=8, temperature=1.0, seed=3)
    assert found == one.continuations(prompts, length=8, temperature=1.0, seed=3)
    assert found[0] != found[2]
    assert found[:2] == one.continuations(prompts[:2], length=8, temperature=1.0, seed=3)
    assert found != one.continuations(prompts, length=8, temperature=1.0, seed=4)
    calm = one.continuations(prompts, length=8, temperature=1.0, top_p=1e-9, seed=3)
    assert calm == one.continuations(prompts, length=8)


def test_continuations_are_those_of_generate_for_each_alone() -> None:
    one = scorer(batch=3)
    prompts = ["memory", "", "the long and winding", "x"]
    found = one.continuations(prompts, length=9)
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([[256, *prompt.encode()]])
        new, _ = generate(one.model, ids, length=9, temperature=0, stop=256)
        assert text == ByteTokenizer().decode(new[0].tolist())


@pytest.fixture
def words() -> FileTokenizer:
    """Splits at blanks, which go with the word after them; ' snow man' has a token of its own."""
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["the snowman holds the snowman of the snowman " * 20], trainer)
    return FileTokenizer(bpe.to_str())


def test_context_and_continuation_are_split_where_the_tokens_are(words: FileTokenizer) -> None:
    spec = mn.zoo.model("gated_deltanet", width=16, depth=1, heads=2, vocabulary=words.vocabulary)
    one = Scorer(mn.LanguageModel(spec), words)

    def text(ids: list[int]) -> str:
        return words.decode(ids)

    context, continuation = one.split("the", " snowman")
    assert (text(context), text(continuation)) == ("the", " snowman")
    assert context + continuation == words.encode("the snowman").tolist()
    context, continuation = one.split("the ", "snowman")  # the blank belongs to the word's token
    assert (text(context), text(continuation)) == ("the", " snowman")
    assert context + continuation == words.encode("the snowman").tolist()
    context, continuation = one.split("the snow", "man")  # a token spans the border
    assert (text(context), text(continuation)) == ("the snow", "man")
    assert context + continuation != words.encode("the snowman").tolist()


def test_bytes_are_split_exactly() -> None:
    one = scorer()
    for whole in ("ab  cd", "schöne 雪"):
        for place in range(len(whole) + 1):
            context, continuation = one.split(whole[:place], whole[place:])
            assert (bytes(context), bytes(continuation)) == (whole[:place].encode(), whole[place:].encode())


def test_a_run_is_scored_as_it_was_trained(run: Path) -> None:
    one = Scorer.of_checkpoint(run)
    assert not one.separate and one.likelihoods([("memory ", "holds")])[0].log_p < 0
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert Scorer.of_checkpoint(checkpoint).likelihoods(PAIRS) == one.likelihoods(PAIRS)
    config = run / "config.json"
    config.write_text(config.read_text().replace('"joined"', '"separate"'))
    assert Scorer.of_checkpoint(run).separate
    checkpoint.rename("alone")
    with pytest.raises(RunError, match="lies outside its run"):
        Scorer.of_checkpoint("alone")


def test_what_cannot_be_scored() -> None:
    one = scorer()
    with pytest.raises(InvalidValue, match="batch counts texts read together, at least 1; got 0"):
        Scorer(one.model, one.tokenizer, batch=0)
    other = mn.LanguageModel(mn.zoo.model("gated_deltanet", width=16, depth=1, heads=2, vocabulary=64))
    with pytest.raises(InvalidValue, match="vocabulary of 64, the tokenizer one of 257"):
        Scorer(other, ByteTokenizer())
    bad = [({"length": -1}, "at least 0"), ({"temperature": -1.0}, "temperature must"), ({"top_p": 0.0}, "top_p must")]
    for settings, message in itertools.chain(bad, [({"stops": [""]}, "empty text in stops")]):
        with pytest.raises(InvalidValue, match=message):
            one.continuations(["a"], **settings)
    with torch.no_grad():
        one.model.embedding.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        one.likelihoods([("a", "b")])
