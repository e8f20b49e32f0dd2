"""Episodes in the models of others: what must hold whatever is found, and what if everything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calling import assert_same, generated, logits, tokens
from conftest import twin
from torch import Tensor

pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, StateError
from mnemos.hf import EpisodicCache, EpisodicLayer, PolicyCache, PolicyLayer, own_surprise
from mnemos.hf.attention import attention
from mnemos.hf.rotary import Rotary
from mnemos.memory import (
    Address,
    EpisodicMemory,
    Every,
    HeavyHitters,
    KeyNorm,
    MeanKey,
    Recall,
    Representatives,
    Surprise,
)

BASE = 10000.0
EVENTS = Surprise(0.2, span=6, shortest=2, longest=5)
MEMORIES = [
    EpisodicMemory(Every(4), MeanKey(), Recall(2), window=6, sinks=2),
    EpisodicMemory(EVENTS, Representatives(2), Recall(6, 4, "tokens"), window=5, sinks=1),
    EpisodicMemory(EVENTS.replace(refine="modularity"), Representatives(2), Recall(1, 1), window=5, rotary=BASE),
    EpisodicMemory(Every(3), MeanKey(), Recall(1), window=4, sinks=1, rotary=BASE, keep=3),
]
BY_SURPRISE = EpisodicMemory(EVENTS.replace(of="control"), MeanKey(), Recall(100), window=5, sinks=1)
each = pytest.mark.parametrize("memory", MEMORIES, ids=range(len(MEMORIES)))


def episodes(cache: EpisodicCache, row: int = 0) -> list[list[int]]:
    """Of each layer the numbers of the episodes of a row's tokens, in the order of time."""
    found = []
    for layer in cache.memory_layers:
        slot, number = layer.state["slot"][row], layer.state["episode"][row]
        found.append([number[place].item() for place in slot.argsort() if slot[place] > 0])
    return found


def assert_same_states(one: EpisodicCache, other: EpisodicCache) -> None:
    """All entries and the notes on them, the surprises too."""
    for mine, theirs in zip(one.memory_layers, other.memory_layers, strict=True):
        for (name, x), (_, y) in zip(mine.state.tensors(), theirs.state.tensors(), strict=True):
            assert x.shape == y.shape and float((x - y).abs().max()) <= 1e-4, name


@each
def test_what_finds_everything_is_full_attention(pair: Any, memory: EpisodicMemory) -> None:
    stock, model = pair
    everything = memory.replace(recall=Recall(1000), rotary=None, keep=None)
    ids = tokens(2, 33)
    expected = logits(stock, ids, DynamicCache(config=stock.config), [24, 1, 1, 7])
    cache = EpisodicCache(model.config, everything)
    assert_same(logits(model, ids, cache, [24, 1, 1, 7]), expected, 1e-6)
    assert max(episodes(cache)[0]) >= 6
    less = EpisodicCache(model.config, everything.replace(recall=Recall(1)))
    assert float((logits(model, ids, less, [24, 1, 1, 7]) - expected).abs().max()) > 0.1
    expected = generated(stock, ids, DynamicCache(config=stock.config))
    assert torch.equal(generated(model, ids, EpisodicCache(model.config, everything)), expected)


def test_what_the_window_holds_is_full_attention(pair: Any) -> None:
    """With positions of its own too: those in the window are the model's."""
    stock, model = pair
    ids = tokens(2, 30)
    memory = EpisodicMemory(Every(4), Representatives(2), Recall(1), window=30, rotary=BASE)
    expected = logits(stock, ids, DynamicCache(config=stock.config), [24, 1, 5])
    assert_same(logits(model, ids, EpisodicCache(model.config, memory), [24, 1, 5]), expected)


@each
@pytest.mark.parametrize("cuts", [[31], [1] * 31, [11, 1, 1, 18]], ids=lambda cuts: f"{len(cuts)}")
def test_what_is_read_is_the_reference(memory: EpisodicMemory, cuts: list[int]) -> None:
    """Queries, keys and values through mnemos' own literal loop, before the model turns them: the same answers. What
    is further away than the window is at the window's distance."""
    q, k, v = (torch.randn(2, heads, 31, 4, dtype=torch.float64) for heads in (6, 2, 2))
    reading = memory.replace(scale=0.7)
    expected, last = mn.run(reading, *(x.transpose(1, 2) for x in (q, k, v)), plan="reference")
    rotary = None if memory.rotary is None else Rotary(BASE)
    if rotary is not None:
        config = LlamaConfig(hidden_size=8, num_attention_heads=2)
        cos, sin = LlamaRotaryEmbedding(config)(v, torch.arange(31)[None])
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
    layer, found, start = EpisodicLayer(memory, rotary), [], 0
    for size in cuts:
        now = slice(start, start + size)
        keys, values = layer.update(k[:, :, now], v[:, :, now])
        with torch.no_grad():
            out, _ = attention(torch.nn.Identity(), q[:, :, now], keys, values, None, scaling=0.7)
        found.append(out)
        start += size
    assert_same(torch.cat(found, 1), expected, 1e-10 if rotary is None else 1e-5)
    assert layer.state is not None
    assert torch.equal(layer.state["episode"].sort(1).values, last["episode"].sort(1).values)


@each
def test_several_tokens_at_once_are_so_many_single_ones(model: Any, memory: EpisodicMemory) -> None:
    ids = tokens(2, 30)
    caches = [EpisodicCache(model.config, memory) for _ in range(3)]
    one, two, three = (
        logits(model, ids, cache, cuts) for cache, cuts in zip(caches, ([30], [1] * 30, [13, 1, 9, 7]), strict=True)
    )
    assert_same(one, two), assert_same(three, two)
    assert episodes(caches[0]) == episodes(caches[1]) == episodes(caches[2])


@each
def test_padding_changes_nothing(model: Any, memory: EpisodicMemory) -> None:
    """Left, right, none: each row is as if it were alone."""
    ids = tokens(3, 26)
    mask = torch.ones(3, 26, dtype=torch.int64)
    mask[0, :7], mask[2, 15:20] = 0, 0
    cache = EpisodicCache(model.config, memory)
    padded = logits(model, ids, cache, [6, 14, 1, 1, 4], mask)  # nothing of the first row in the first piece
    for row in range(3):
        real = mask[row].bool()
        own = EpisodicCache(model.config, memory)
        alone = logits(model, ids[row : row + 1, real], own, [int(real.sum()) - 2, 1, 1])
        assert_same(padded[row, real], alone[0])
        assert episodes(cache, row) == episodes(own)


def test_generation_from_padded_prompts(model: Any) -> None:
    ids = tokens(2, 18)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    ids[0, :6] = 0
    for memory in MEMORIES[1:3]:
        together = generated(model, ids, EpisodicCache(model.config, memory), attention_mask=mask)
        for row, start in ((0, 6), (1, 0)):
            alone = generated(model, ids[row : row + 1, start:], EpisodicCache(model.config, memory))
            assert torch.equal(together[row, start:], alone[0])


@pytest.mark.parametrize("of", ["control", "keys"])
def test_beams(stock: Any, model: Any, of: Any) -> None:
    ids = tokens(2, 14)
    memory = BY_SURPRISE.replace(boundary=EVENTS.replace(of=of))
    expected = generated(stock, ids, DynamicCache(config=stock.config), num_beams=3)
    with own_surprise(model):
        found = generated(model, ids, EpisodicCache(model.config, memory), num_beams=3)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("memory", [*MEMORIES[1:3], BY_SURPRISE.replace(recall=Recall(1))], ids=range(3))
def test_rows_can_be_taken_in_another_order(model: Any, memory: EpisodicMemory, tmp_path: Path) -> None:
    ids = tokens(3, 24)

    def after(cache: EpisodicCache, ids: Tensor, *cuts: int) -> Tensor:
        with own_surprise(model):
            return logits(model, ids, cache, list(cuts))

    for change, rows in (
        (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    ):
        cache = EpisodicCache(model.config, memory)
        after(cache, ids[:, :20], 19, 1)
        change(cache)
        other = EpisodicCache(model.config, memory)
        expected = after(other, ids[rows], 19, 1, 1, 3)[:, 20:]
        assert_same(after(cache, ids[rows, 20:], 1, 3), expected)
        assert_same_states(cache, other)
    cache = EpisodicCache(model.config, memory)
    after(cache, ids[:, :20], 19, 1)
    again = EpisodicCache.load(cache.save(tmp_path / "cache"), model.config)
    assert again.get_seq_length() == 20 and again.nbytes == cache.nbytes > 0 and again.memory == memory
    assert torch.equal(after(again, ids[:, 20:], 1, 3), after(cache, ids[:, 20:], 1, 3))
    assert_same_states(again, cache)
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0
    assert_same(after(cache, ids, 20, 4), after(EpisodicCache(model.config, memory), ids, 20, 4), 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(stock: Any, dtype: torch.dtype) -> None:
    """Entries have the model's precision, notes on them float32; where everything is read, the error is that of the
    stock cache in that precision (up to a fifth), and of keys turned back and again up to a half more."""
    ids, cuts = tokens(4, 40), [30] + [1] * 10
    truth = logits(stock, ids, DynamicCache(config=stock.config), cuts)
    halved = stock.to(dtype)
    model = twin(halved).to(dtype)

    def error(model: Any, cache: Any) -> float:
        return float((logits(model, ids, cache, cuts).double() - truth).square().mean().sqrt())

    stocks = error(halved, DynamicCache(config=stock.config))
    for memory, bound in (
        (MEMORIES[1].replace(recall=Recall(100)), 1.2),
        (EpisodicMemory(Every(4), MeanKey(), Recall(1), window=40, rotary=BASE), 1.5),
    ):
        cache = EpisodicCache(model.config, memory)
        assert 0 < error(model, cache) < bound * stocks
    cache = EpisodicCache(model.config, MEMORIES[1])
    assert logits(model, ids, cache, cuts).dtype == dtype
    kinds = {name: x.dtype for name, x in cache.memory_layers[0].state.tensors()}
    assert kinds["keys"] == kinds["values"] == dtype
    assert kinds["received"] == kinds["surprise"] == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        PolicyLayer(HeavyHitters(64)),
        PolicyLayer(KeyNorm(64)),
        EpisodicLayer(EpisodicMemory(Every(4), MeanKey(), Recall(100), window=6)),
        EpisodicLayer(EpisodicMemory(Every(4), MeanKey(), Recall(100), window=6), device="cpu"),
    ],
    ids=range(4),
)
def test_large_scores_in_half_precision(layer: Any, dtype: torch.dtype) -> None:
    """Scores of 25 and more, of which half precision would round away what decides: only the answers are rounded."""
    layer.reset()
    q, k, v = (torch.randn(2, heads, 40, 8).to(dtype) for heads in (4, 2, 2))
    q = 8 * q
    scores = (q.double() @ k.double().repeat_interleave(2, 1).mT) / 8**0.5
    assert float(scores.abs().max()) > 25
    weights = scores.masked_fill(~torch.ones(40, 40).tril().bool(), -torch.inf).softmax(-1)
    expected = (weights @ v.double().repeat_interleave(2, 1)).transpose(1, 2)
    for t in [slice(0, 30), *(slice(t, t + 1) for t in range(30, 40))]:
        keys, values = layer.update(k[:, :, t], v[:, :, t])
        with torch.no_grad():
            out, _ = attention(torch.nn.Identity(), q[:, :, t], keys, values, None)
        assert out.dtype == dtype
        assert_same(out.double(), expected[:, t], 2 * torch.finfo(dtype).eps)


def test_a_device_of_its_own(model: Any) -> None:
    ids, memory = tokens(2, 25), MEMORIES[1]
    expected = logits(model, ids, EpisodicCache(model.config, memory), [20, 5])
    places = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for place in places:
        cache = EpisodicCache(model.config, memory, device=place)
        assert_same(logits(model, ids, cache, [20, 5]), expected)
        assert {layer.state.device.type for layer in cache.memory_layers} == {place}


def test_the_surprise_is_the_models_own(stock: Any, model: Any) -> None:
    """Where everything is found the model is the stock model, whose -log p(token | before) is known; episodes begin
    where that lies far above the last ones."""
    ids = tokens(2, 40)
    with torch.no_grad():
        known = F.cross_entropy(stock(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    for cuts in ([40], [1] * 40, [17, 1, 1, 21]):
        cache = EpisodicCache(model.config, BY_SURPRISE)
        with own_surprise(model):
            logits(model, ids, cache, cuts)
        for layer in cache.memory_layers:
            assert_same(layer.state["surprise"][:, 1:].double(), known, 1e-4)
        for row in range(2):
            number, size, expected = 1, 0, [0]  # one sink
            for t in range(1, 40):
                before = known[row, max(t - 7, 0) : t - 1]
                far = len(before) > 0 and known[row, t - 1] > before.mean() + 0.2 * before.std(correction=0)
                if size == 5 or (far and size >= 2):
                    number, size = number + 1, 0
                size += 1
                expected.append(number)
            assert episodes(cache, row) == [expected] * 2


def test_surprise_of_padded_rows(stock: Any, model: Any) -> None:
    ids = tokens(2, 30)
    mask = torch.ones_like(ids)
    mask[0, :7], mask[1, 12:20] = 0, 0
    cache = EpisodicCache(model.config, BY_SURPRISE)
    with own_surprise(model):
        logits(model, ids, cache, [5, 15, 1, 9], mask)
    for row in range(2):
        real = ids[row : row + 1, mask[row].bool()]
        with torch.no_grad():
            known = F.cross_entropy(stock(real).logits[0, :-1], real[0, 1:], reduction="none")
        for layer in cache.memory_layers:
            slot, surprise = layer.state["slot"][row], layer.state["surprise"][row]
            found = surprise[slot.argsort()][-real.shape[1] :]
            assert_same(found[1:].double(), known, 1e-4)


def test_generation_by_surprise(model: Any) -> None:
    """A prompt in pieces and answers one by one; what is generated is what the pieces have read."""
    ids, memory = tokens(2, 20), BY_SURPRISE.replace(recall=Recall(1))
    cache = EpisodicCache(model.config, memory)
    with own_surprise(model):
        found = generated(model, ids, cache, 10, prefill_chunk_size=8)
        again = EpisodicCache(model.config, memory)
        expected = logits(model, found[:, :-1], again, [8, 8, 4, *[1] * 9]).argmax(-1)[:, 19:]
    assert torch.equal(found[:, 20:], expected)
    assert episodes(cache) == episodes(again)
    assert not model._forward_hooks and not model._forward_pre_hooks


def test_what_cannot_be_asked(stock: Any, model: Any, tmp_path: Path) -> None:
    memory, config = MEMORIES[0], model.config
    scaled = LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": BASE})
    other = config.__class__.from_dict(config.to_dict() | {"model_type": "llama"})
    other.model_type = "phi"
    for make, error, message in (
        (lambda: EpisodicCache(model, memory), InvalidType, r"model\.config; got LlamaForCausalLM"),
        (lambda: EpisodicCache(config, HeavyHitters(64)), InvalidType, "takes a EpisodicMemory"),
        (lambda: EpisodicCache(config, EpisodicMemory()), InvalidValue, "got together=True, window=0"),
        (lambda: EpisodicCache(config, EpisodicMemory(together=False)), InvalidValue, "got together=False"),
        (lambda: EpisodicCache(config, memory.replace(scale=2.0)), InvalidValue, "leave scale=None, got 2.0"),
        (lambda: EpisodicCache(config, memory.replace(summary=Address())), InvalidValue, "give as 'address', 'asking'"),
        (lambda: EpisodicCache(config, memory.replace(rotary=500.0)), InvalidValue, "positions, 10000.0; got 500.0"),
        (lambda: EpisodicCache(scaled, memory.replace(rotary=BASE)), InvalidValue, "rope_type='linear'"),
        (lambda: EpisodicCache(other, memory.replace(rotary=BASE)), InvalidValue, "qwen3, not for 'phi'"),
        (lambda: EpisodicCache(config, memory).crop(-1), InvalidValue, "cannot be cropped"),
        (lambda: EpisodicCache(config, memory).save(tmp_path / "x"), StateError, "seen nothing yet"),
        (lambda: own_surprise(memory).__enter__(), InvalidType, "takes the model that reads"),
        (lambda: model(tokens(1, 3), past_key_values=EpisodicCache(config, BY_SURPRISE)), StateError, "own_surprise"),
        (lambda: stock(tokens(1, 3), past_key_values=EpisodicCache(stock.config, memory)), StateError, "is 'sdpa'"),
    ):
        with pytest.raises(error, match=message):
            make()
    EpisodicCache(scaled, memory), EpisodicCache(other, memory)  # with the model's own positions
    with own_surprise(model), pytest.raises(InvalidValue, match="covers 2 tokens, but 0 were seen and 3 are new"):
        model(tokens(1, 3), past_key_values=EpisodicCache(config, BY_SURPRISE), attention_mask=torch.ones(1, 2))
    with own_surprise(model), pytest.raises(InvalidValue, match="not with embeddings"):
        model(inputs_embeds=torch.randn(1, 2, 32).double(), past_key_values=EpisodicCache(config, BY_SURPRISE))
    cache = EpisodicCache(config, memory)
    logits(model, tokens(2, 5), cache, [5])
    with pytest.raises(StateError, match="holds 2 rows and the input has 3"):
        model(tokens(3, 1), past_key_values=cache)
    saved = cache.save(tmp_path / "cache")
    with pytest.raises(StateError, match="not of a PolicyCache"):
        PolicyCache.load(saved, config)
