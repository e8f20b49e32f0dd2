"""What explicit memories (Memory^3) and the bank that holds them must satisfy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.lowering.watch import watched_by
from mnemos.models import (
    ExplicitMemory,
    KeyIndex,
    LanguageModel,
    MemoryBank,
    read_with_memories,
    received_attention,
    with_memories,
    write_explicit,
)

VOCABULARY, HEADS, KV = 23, 4, 2


def model(depth: int = 4) -> LanguageModel:
    spec = mn.zoo.memory3(kv_heads=KV).replace(width=16, depth=depth, heads=HEADS, vocabulary=VOCABULARY)
    made = LanguageModel(spec).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def tokens(number: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (number,))


def after(of: LanguageModel, read: Tensor) -> mn.State:
    """The state after some tokens."""
    return of(read[None], of.init_state(1))[1]


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def test_received_attention_is_the_sum_over_all_queries_of_a_group() -> None:
    q, k = torch.randn(7, HEADS, 6, dtype=torch.float64), torch.randn(7, KV, 6, dtype=torch.float64)
    expected = torch.zeros(KV, 7, dtype=torch.float64)
    for head in range(HEADS):
        for i in range(7):
            scores = torch.stack([q[i, head] @ k[j, head // 2] / math.sqrt(6) for j in range(7)])
            expected[head // 2] += scores.exp() / scores.exp().sum()
    found = received_attention(q, k)
    assert_same(found, expected)
    assert_same(found.sum(1), torch.full((KV,), 7.0 * HEADS / KV, dtype=torch.float64))


def test_the_tokens_kept_are_those_that_receive_most_and_none_of_the_prefix() -> None:
    """By queries and keys before they are turned; keys are stored turned to their positions."""
    made, prefix, text = model(), tokens(9), tokens(12)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    with watched_by(lambda memory, q, k, v, *others: seen.append((q[0], k[0], v[0]))):
        _, state = made(torch.cat([prefix, text])[None])
    memory = write_explicit(made, text, prefix, kept=5)
    assert memory.keys.shape == (2, KV, 5, 4), "the first half of the layers"
    for layer in range(2):
        q, k, v = seen[layer]
        stored = state.child(str(layer)).child("memory")["keys"][0]
        for head in range(KV):
            weights = received_attention(q[9:], k[9:])[head].tolist()
            best = sorted(sorted(range(12), key=lambda j: -round(weights[j], 6))[:5])
            assert_same(memory.keys[layer, head], stored[[9 + j for j in best], head])
            assert_same(memory.values[layer, head], v[[9 + j for j in best], head])


@pytest.mark.parametrize("prefix", [0, 2])
def test_all_of_a_text_in_all_layers_is_the_text_in_the_context(prefix: int) -> None:
    """Not to be told from having just read it."""
    made, first, text, context = model(), tokens(prefix), tokens(9), tokens(15)
    memory = write_explicit(made, text, first, kept=9, layers=4)
    state = after(made, first) if prefix else made.init_state(1)
    state = with_memories(made, state, [memory], prefix=prefix, length=prefix + 9)
    expected, _ = made(torch.cat([first, text, context])[None])
    assert_same(made(context[None], state)[0], expected[:, prefix + 9 :])


def test_all_of_several_texts_are_parallel_contexts() -> None:
    """All layers written out on one sequence, prefix, texts and context: texts stand at the same positions and see the
    prefix and themselves, the context sees all."""
    made, first, texts, context = model(), tokens(2), [tokens(7), tokens(5)], tokens(6)
    memories = [write_explicit(made, text, first, kept=7, layers=4) for text in texts]
    state = with_memories(made, after(made, first), memories, prefix=2, length=16)
    found = made(context[None], state)[0][0]

    part = torch.tensor([0] * 2 + [1] * 7 + [2] * 5 + [3] * 6)
    position = torch.cat([torch.arange(n) + begin for n, begin in ((2, 0), (7, 2), (5, 2), (6, 16))])
    seen = (part[:, None] == part) | (part == 0) | (part[:, None] == 3)
    seen &= torch.ones(20, 20, dtype=torch.bool).tril()
    turn = torch.polar(
        torch.ones(20, 2, dtype=torch.float64),
        position[:, None] * 10000.0 ** (-torch.arange(2, dtype=torch.float64) / 2),
    )

    def heads(x: Tensor, number: int, turned: bool) -> Tensor:
        x = x.view(20, number, 4).repeat_interleave(HEADS // number, 1)
        whole = torch.complex(x[..., :2], x[..., 2:]) * turn[:, None]
        return torch.cat([whole.real, whole.imag], -1) if turned else x

    x = made.embedding(torch.cat([first, *texts, context]))
    for block in made.blocks:
        layer = block.layer
        q, k, v = layer.project(block.norm(x)).split([16, 8, 8], -1)  # pyright: ignore
        q, k, v = heads(q, HEADS, True), heads(k, KV, True), heads(v, KV, False)
        weights = (torch.einsum("ihk,jhk->hij", q, k) / 2).masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + layer.out(torch.einsum("hij,jhv->ihv", weights, v).flatten(1))  # pyright: ignore
        x = x + block.ffn(block.ffn_norm(x))  # pyright: ignore
    assert_same(found, made.norm(x[-6:]) @ made.embedding.weight.T)


def test_the_more_is_kept_the_nearer_it_comes_to_the_text_in_the_context() -> None:
    made, text, context = model(), tokens(24), tokens(12)
    expected = made(torch.cat([text, context])[None])[0][:, 24:]
    off = []
    for kept in (1, 6, 12, 24):
        state = with_memories(made, made.init_state(1), [write_explicit(made, text, kept=kept, layers=4)], length=24)
        off.append(float((made(context[None], state)[0] - expected).detach().square().mean()))
    assert off[-1] < 1e-20 and off[0] > off[2] > off[3] and off[0] > 1e-4


def test_without_memories_it_is_the_model_after_the_prefix_from_further_away() -> None:
    """The context begins at `length`; with no prefix either, only differences of positions remain."""
    made, context = model(), tokens(15)
    state = with_memories(made, made.init_state(1), [], length=40)
    assert_same(made(context[None], state)[0], made(context[None])[0])
    first = tokens(3)
    state = with_memories(made, after(made, first), [], prefix=3, length=3)
    assert_same(made(context[None], state)[0], made(torch.cat([first, context])[None])[0][:, 3:])


def test_what_is_read_is_one_softmax_over_prefix_memories_and_context() -> None:
    """Written out for one layer: several texts at the same positions, the context behind them."""
    made, first, context = model(depth=1), tokens(2), tokens(5)
    memories = [write_explicit(made, tokens(8), first, kept=3) for _ in range(2)]
    state = with_memories(made, after(made, first), memories, prefix=2, length=16)
    held: list[tuple[Tensor, ...]] = []
    with watched_by(lambda memory, q, k, v, controls, lengths, out, state: held.append((q[0], k[0], v[0], out[0]))):
        made(torch.cat([first])[None])
        made(context[None], state)
    (_, k1, v1, _), (q, k, v, out) = held

    def turned(x: Tensor, position: int) -> Tensor:
        angle = position * 10000.0 ** (-torch.arange(2, dtype=torch.float64) / 2)
        whole = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([whole.real, whole.imag], -1)

    for head in range(HEADS):
        group = head // 2
        for t in range(5):
            keys = [turned(k1[i, group], i) for i in range(2)]
            keys += [key for memory in memories for key in memory.keys[0, group]]
            keys += [turned(k[i, group], 16 + i) for i in range(t + 1)]
            values = [*v1[:, group], *(x for m in memories for x in m.values[0, group]), *v[: t + 1, group]]
            weights = (torch.stack(keys) @ turned(q[t, head], 16 + t) / 2).softmax(0)
            assert_same(out[t, head], weights @ torch.stack(values))


def test_the_order_of_memories_does_not_matter() -> None:
    made, context = model(), tokens(10)
    memories = [write_explicit(made, tokens(12), kept=3) for _ in range(4)]
    one = with_memories(made, made.init_state(1), memories, length=20)
    other = with_memories(made, made.init_state(1), [memories[i] for i in (2, 0, 3, 1)], length=20)
    assert_same(made(context[None], one)[0], made(context[None], other)[0])


def test_memories_are_exchanged_in_the_middle_of_a_context() -> None:
    """What was read with the first ones stays; what comes reads the new ones."""
    made, context = model(depth=1), tokens(20)
    old, new = ([write_explicit(made, tokens(12), kept=n)] for n in (2, 5))
    _, state = made(context[None, :10], with_memories(made, made.init_state(1), old, length=16))
    state = with_memories(made, state, new, length=16)
    one, _ = made(context[None, 10:], state)
    # In a model of one layer, keys and values of the context do not depend on what was read.
    whole, _ = made(context[None], with_memories(made, made.init_state(1), new, length=16))
    assert_same(one, whole[:, 10:])
    back = with_memories(made, with_memories(made, state, [], length=16), new, length=16)
    assert all(torch.equal(x, y) for (_, x), (_, y) in zip(back.tensors(), state.tensors(), strict=True))


def test_bytes_are_those_of_the_formula() -> None:
    shape = (22, 8, 8, 80)
    memory = ExplicitMemory(*(torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2)))
    assert memory.nbytes == 22 * 2 * 8 * 8 * 80 * 2 == 450_560
    assert write_explicit(model(), tokens(12), kept=3).nbytes == 2 * 2 * KV * 3 * 4 * 8


def bank_of(made: LanguageModel, written: list[int] | None = None) -> MemoryBank:
    def write(text: Tensor) -> ExplicitMemory:
        if written is not None:
            written.append(len(text))
        return write_explicit(made, text, kept=3)

    return MemoryBank(16, lambda text: made.embedding(text).mean(0), write)


def test_cold_and_warm_and_loaded_banks_read_the_same(tmp_path: Path) -> None:
    made, texts, context = model(), [tokens(n) for n in (9, 10, 11, 12)], tokens(30)
    results, written = [], []
    cold = bank_of(made, written)
    cold.add(texts)
    assert not written and cold.nbytes == 0
    results.append(read_with_memories(made, context, cold.recall(2), block=8, length=20)[0])
    assert 0 < len(written) == len(set(written)) <= 4, "each text is written once at most"
    warm = bank_of(made)
    warm.add(texts, now=True)
    assert len(warm.memories) == 4
    results.append(read_with_memories(made, context, warm.recall(2), block=8, length=20)[0])
    loaded = bank_of(made, written := []).load(warm.save(tmp_path / "bank.safetensors"))
    results.append(read_with_memories(made, context, loaded.recall(2), block=8, length=20)[0])
    assert not written and len(loaded) == 4
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])


def test_every_block_reads_what_was_found_by_the_block_before_it() -> None:
    made, context = model(), tokens(20)
    bank = bank_of(made)
    bank.add([tokens(10) for _ in range(6)])
    asked: list[Tensor] = []

    def recall(before: Tensor) -> list[ExplicitMemory]:
        asked.append(before)
        return bank.recall(2)(before)

    query = tokens(4)
    logits, _ = read_with_memories(made, context, recall, query=query, block=8, length=20)
    assert [x.tolist() for x in asked] == [x.tolist() for x in (query, context[:8], context[8:16])]
    state, parts = made.init_state(1), []
    for before, piece in ((query, context[:8]), (context[:8], context[8:16]), (context[8:16], context[16:])):
        state = with_memories(made, state, [bank.fetch(i) for i in bank.search(before, 2)], length=20)
        out, state = made(piece[None], state)
        parts.append(out[0])
    assert_same(logits, torch.cat(parts))
    plain, _ = read_with_memories(made, context, recall, block=8, length=20)
    assert_same(plain[:8], made(context[None])[0][0, :8])
    assert float((plain[8:16] - made(context[None])[0][0, 8:16]).detach().abs().max()) > 1e-6


def test_the_nearest_vectors_are_those_of_largest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnemos.models.key_index.PIECE", 7)
    vectors, queries = torch.randn(40, 5), torch.randn(3, 5)
    index = KeyIndex(5)
    assert index.add(vectors[:33]) == range(33) and index.add(vectors[33:]) == range(33, 40)
    numbers, cosines = index.search(queries, 9)
    expected = torch.nn.functional.cosine_similarity(queries[:, None], vectors[None], dim=-1).sort(1, descending=True)
    assert torch.equal(numbers, expected.indices[:, :9])
    assert float((cosines - expected.values[:, :9]).abs().max()) < 1e-6


def test_the_graph_of_neighbours_finds_almost_all() -> None:
    pytest.importorskip("usearch.index")
    vectors, queries = torch.randn(3000, 16), torch.randn(50, 16)
    exact, graph = KeyIndex(16), KeyIndex(16, "usearch")
    for index in (exact, graph):
        index.add(vectors[:2000])
        index.add(vectors[2000:])
    (one, cosines), (other, near) = exact.search(queries, 10), graph.search(queries, 10)
    hits = sum(len(set(a) & set(b)) for a, b in zip(one.tolist(), other.tolist(), strict=True))
    assert hits >= 0.9 * 500
    same = one[:, 0] == other[:, 0]
    assert same.sum() >= 45 and float((cosines - near)[same, 0].abs().max()) < 1e-4


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with pytest.raises(InvalidValue, match=r"install mnemos\[retrieval\], or use method=\"exact\""):
        KeyIndex(4, "usearch")


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    made = model()
    memory = write_explicit(made, tokens(12), kept=6)
    with pytest.raises(InvalidValue, match=r"12 tokens of memories do not fit between position 2 and 8"):
        with_memories(made, after(made, tokens(2)), [memory, memory], prefix=2, length=8)
    with pytest.raises(InvalidValue, match=r"at position 20; this state has read \[5\] tokens"):
        with_memories(made, after(made, tokens(5)), [memory], length=20)
    with pytest.raises(InvalidValue, match="not of this model"):
        with_memories(made, made.init_state(1), [ExplicitMemory(memory.keys[:, :1], memory.values[:, :1])])
    with pytest.raises(InvalidType, match="takes what write_explicit returns; got Tensor"):
        with_memories(made, made.init_state(1), [memory.keys])  # pyright: ignore
    with pytest.raises(InvalidValue, match="layers= lies between 1 and the model's 4; got 5"):
        write_explicit(made, tokens(3), layers=5)
    with pytest.raises(InvalidValue, match="holds no tokens"):
        write_explicit(made, tokens(0))
    with pytest.raises(InvalidType, match="text takes int64 token ids"):
        write_explicit(made, torch.rand(3))
    windowed = LanguageModel(mn.zoo.model("sliding_window", width=16, depth=1, heads=1, vocabulary=5))
    with pytest.raises(InvalidValue, match="read by full softmax attention"):
        write_explicit(windowed, tokens(3) % 5)
    with pytest.raises(InvalidValue, match="lies between 1 and the 0 vectors there are; got 1"):
        KeyIndex(4).search(torch.rand(1, 4), 1)
    with pytest.raises(InvalidValue, match=r"takes vectors \(n, 4\); got shape \(1, 3\)"):
        KeyIndex(4).add(torch.rand(1, 3))
    with pytest.raises(InvalidValue, match="there is no bank at"):
        bank_of(made).load(tmp_path / "none.safetensors")
    with pytest.raises(InvalidType, match="takes a list of int64 token ids"):
        bank_of(made).add([torch.rand(3)])
    with pytest.raises(InvalidValue, match="holds the texts 0 to -1; got 0"):
        bank_of(made).fetch(0)
