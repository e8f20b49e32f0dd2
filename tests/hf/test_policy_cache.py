"""Retention policies in the models of others: what must hold whatever is dropped, and what if nothing is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import assert_same, generated, logits, tokens
from conftest import twin
from torch import Tensor

pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig, MistralConfig, PhiConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue, StateError
from mnemos.hf import PolicyCache, PolicyLayer
from mnemos.hf.attention import attention
from mnemos.hf.rotary import Rotary
from mnemos.memory import (
    HeavyHitters,
    KeyDifference,
    KeyNorm,
    LazyEviction,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    Newest,
    Policy,
    Sampled,
)
from mnemos.state import State

BUDGET = 9
POLICIES: list[Policy] = [
    HeavyHitters(BUDGET, recent=3),
    HeavyHitters(BUDGET, period=4, sinks=1, recent=2, decay=0.5),
    HeavyHitters(BUDGET, recent=3, mean=True),
    KeyDifference(BUDGET),
    KeyNorm(BUDGET, recent=3),
    LazyEviction(BUDGET, period=3, recent=3, threshold=0.1),
    LeastFrequentlyAttended(BUDGET, recent=3, threshold=0.1),
    LeastRecentlyAttended(BUDGET, threshold=0.1),
    Newest(BUDGET, sinks=2),
    Sampled(BUDGET, recent=3),
]
each = pytest.mark.parametrize("policy", POLICIES, ids=str)
prefills = pytest.mark.parametrize("prefill", ["stream", "whole"])


def positions(cache: PolicyCache) -> list[list[list[list[int]]]]:
    """The kept positions by layer, row and head."""
    return [
        [[sorted(s - 1 for s in head if s) for head in row] for row in layer.state["slot"].tolist()]
        for layer in cache.layers
        if isinstance(layer, PolicyLayer) and layer.state is not None
    ]


@prefills
def test_a_budget_that_is_never_full_is_the_stock_cache(pair: Any, prefill: Any) -> None:
    stock, model = pair
    ids = tokens(2, 21)
    for policy in (HeavyHitters(10_000), LazyEviction(40), KeyDifference(33)):
        expected = logits(stock, ids, DynamicCache(config=stock.config), [14, 1, 1, 5])
        assert_same(logits(model, ids, PolicyCache(model.config, policy, prefill), [14, 1, 1, 5]), expected)
        expected = generated(stock, ids, DynamicCache(config=stock.config))
        assert torch.equal(generated(model, ids, PolicyCache(model.config, policy, prefill)), expected)


def test_without_our_cache_it_is_plain_attention(stock: Any, model: Any) -> None:
    ids = tokens(2, 17)
    with torch.no_grad():
        assert_same(model(ids, use_cache=False).logits, stock(ids, use_cache=False).logits)
    mask = torch.tensor([[0] * 5 + [1] * 12, [1] * 17])
    ours, theirs = (
        logits(m, ids, DynamicCache(config=stock.config), [9, 1, 7], mask)[mask.bool()] for m in (model, stock)
    )
    assert_same(ours, theirs)


@each
@pytest.mark.parametrize("cuts", [[31], [1] * 31, [11, 1, 1, 18]], ids=lambda cuts: f"{len(cuts)}")
def test_what_is_read_is_the_reference(policy: Policy, cuts: list[int]) -> None:
    """The same queries, keys and values through mnemos' own literal loop: the same answers, the same entries."""
    q, k, v = (torch.randn(2, heads, 31, 4, dtype=torch.float64) for heads in (6, 2, 2))
    memory = mn.KVMemory(retain=policy, read=mn.Softmax(scale=0.7))
    expected, last = mn.run(memory, *(x.transpose(1, 2) for x in (q, k, v)), plan="reference")
    layer, found, start = PolicyLayer(policy), [], 0
    for size in cuts:
        now = slice(start, start + size)
        keys, values = layer.update(k[:, :, now], v[:, :, now])
        with torch.no_grad():
            out, _ = attention(torch.nn.Identity(), q[:, :, now], keys, values, None, scaling=0.7)
        found.append(out)
        start += size
    assert_same(torch.cat(found, 1), expected, 1e-10)
    assert layer.state is not None
    kept = [[sorted(s for s in head if s) for head in row] for row in layer.state["slot"].tolist()]
    assert kept == [[sorted(s for s in head if s) for head in row] for row in last["slot"].tolist()]


@each
def test_several_tokens_at_once_are_so_many_single_ones(model: Any, policy: Policy) -> None:
    ids = tokens(2, 30)
    caches = [PolicyCache(model.config, policy) for _ in range(3)]
    one, two, three = (
        logits(model, ids, cache, cuts) for cache, cuts in zip(caches, ([30], [1] * 30, [13, 1, 9, 7]), strict=True)
    )
    assert_same(one, two), assert_same(three, two)
    assert positions(caches[0]) == positions(caches[1]) == positions(caches[2])


@each
@prefills
def test_padding_changes_nothing(model: Any, policy: Policy, prefill: Any) -> None:
    """Left, right, none: each row is as if it were alone."""
    ids = tokens(3, 24)
    mask = torch.ones(3, 24, dtype=torch.int64)
    mask[0, :7], mask[2, 15:20] = 0, 0
    cuts = [20, 1, 1, 1, 1]
    cache = PolicyCache(model.config, policy, prefill)
    padded = logits(model, ids, cache, cuts, mask)
    for row in range(3):
        real = mask[row].bool()
        own = PolicyCache(model.config, policy, prefill)
        alone = logits(model, ids[row : row + 1, real], own, [int(real.sum()) - 4, 1, 1, 1, 1])
        assert_same(padded[row, real], alone[0])
        assert [layer[row] for layer in positions(cache)] == [layer[0] for layer in positions(own)]


@prefills
def test_generation_from_padded_prompts(model: Any, prefill: Any) -> None:
    ids, policy = tokens(2, 18), HeavyHitters(BUDGET, recent=3)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    ids[0, :6] = 0
    together = generated(model, ids, PolicyCache(model.config, policy, prefill), attention_mask=mask)
    for row, start in ((0, 6), (1, 0)):
        alone = generated(model, ids[row : row + 1, start:], PolicyCache(model.config, policy, prefill))
        assert torch.equal(together[row, start:], alone[0])


def test_read_whole_then_cut() -> None:
    """The prompt is plain causal attention; what is left of it are the recent tokens and those with the largest
    column sums of the weights, and the next token sees those and itself."""
    q, k, v = (torch.randn(1, heads, 21, 4, dtype=torch.float64) for heads in (4, 2, 2))
    layer = PolicyLayer(HeavyHitters(BUDGET, recent=3), "whole")
    with torch.no_grad():
        keys, values = layer.update(k[:, :, :20], v[:, :, :20])
        out, _ = attention(torch.nn.Identity(), q[:, :, :20], keys, values, None)
    for h in range(2):
        seen = torch.ones(20, 20).tril().bool()
        weights = torch.stack(
            [(q[0, g, :20] @ k[0, h, :20].T / 2).masked_fill(~seen, -math.inf).softmax(-1) for g in (2 * h, 2 * h + 1)]
        )
        assert_same(out[0, :, 2 * h : 2 * h + 2], (weights @ v[0, h, :20]).transpose(0, 1), 1e-10)
        sums = weights.mean(0).sum(0)
        kept = sorted([*sums[:17].topk(6).indices.tolist(), 17, 18, 19])
        assert layer.state is not None
        assert (layer.state["slot"][0, h] - 1).tolist() == kept
        gone = min(kept[:-2], key=lambda p: sums[p])
        left = [p for p in kept if p != gone] + [20]
        for g in (2 * h, 2 * h + 1):
            again = torch.softmax(k[0, h, left] @ q[0, g, 20] / 2, 0) @ v[0, h, left]
            copy = PolicyLayer(layer.policy, "whole")
            copy.state, copy.memory, copy.seen = layer.state.clone(), layer.memory, layer.seen
            with torch.no_grad():
                keys, values = copy.update(k[:, :, 20:], v[:, :, 20:])
                step, _ = attention(torch.nn.Identity(), q[:, :, 20:], keys, values, None)
            assert_same(step[0, 0, g], again, 1e-10)


@each
def test_reading_whole_is_the_stock_prompt(stock: Any, model: Any, policy: Policy) -> None:
    ids = tokens(2, 25)
    cache = PolicyCache(model.config, policy, "whole")
    whole = logits(model, ids, cache, [25])
    assert_same(whole, logits(stock, ids, DynamicCache(config=stock.config), [25]))
    assert all(len(kept) == BUDGET for layer in positions(cache) for row in layer for kept in row)
    assert float((logits(model, ids, PolicyCache(model.config, policy), [25]) - whole).abs().max()) > 0.1


def test_a_share_of_the_prompt(model: Any) -> None:
    ids = tokens(2, 40)
    for ratio, budget in ((1.0, 40), (0.5, 20), (0.25, 10), (0.01, 3)):
        cache = PolicyCache(model.config, KeyNorm(5, recent=3), "whole", ratio)
        generated(model, ids, cache, 6)
        assert all(len(kept) == budget for layer in positions(cache) for row in layer for kept in row) or ratio == 1
        assert {layer.policy.budget for layer in cache.layers if isinstance(layer, PolicyLayer)} == {budget}


@each
@prefills
def test_what_is_dropped_is_gone(model: Any, policy: Policy, prefill: Any) -> None:
    cache = PolicyCache(model.config, policy, prefill)
    assert cache.nbytes == 0 and cache.get_seq_length() == 0
    generated(model, tokens(2, 40), cache, 30)
    assert cache.get_seq_length() == 69  # the last token is never read
    for layer in positions(cache):
        assert all(BUDGET <= len(kept) <= policy.capacity for row in layer for kept in row)
    heads, places = 2, policy.budget + policy.period
    an_entry = 8 * (8 + 8 + 1 + len(policy.statistics))
    assert cache.nbytes == 2 * (2 * heads * places * an_entry + 2 * 8)


def test_only_prompts_are_cut(model: Any, tmp_path: Path) -> None:
    """What is decoded after a prompt stays, until the next prompt; the first step is that of a cache that holds."""
    ids, policy = tokens(2, 40), KeyDifference(BUDGET)
    cache = PolicyCache(model.config, policy, "whole", decode="grow")
    logits(model, ids[:, :30], cache, [30])
    cut = positions(cache)
    after = logits(model, ids[:, 30:36], cache, [1] * 6)
    assert positions(cache) == [[[kept + list(range(30, 36)) for kept in row] for row in layer] for layer in cut]
    roomy = PolicyCache(model.config, policy, "whole", decode="grow")
    logits(model, ids[:, :30], roomy, [30])
    for layer in roomy.layers:
        layer.policy = policy.replace(budget=64)  # pyright: ignore
        layer.memory, layer.decode = layer.memory.replace(retain=layer.policy), "hold"  # pyright: ignore
    assert_same(logits(model, ids[:, 30:36], roomy, [1] * 6), after)
    assert cache.nbytes == 2 * (2 * 2 * 64 * 8 * (8 + 8 + 1) + 2 * 8)  # 15 entries, places come 64 at a time
    again = PolicyCache.load(cache.save(tmp_path / "cache"), model.config)
    assert again.decode == "grow"
    logits(model, ids[:, 36:], cache, [4])
    assert {len(kept) for layer in positions(cache) for row in layer for kept in row} == {BUDGET}


def test_rows_do_not_touch_each_other(model: Any) -> None:
    ids = tokens(3, 26)
    policy = HeavyHitters(BUDGET, recent=3)
    whole = logits(model, ids, PolicyCache(model.config, policy), [20, 1, 5])
    for row in range(3):
        alone = logits(model, ids[row : row + 1], PolicyCache(model.config, policy), [20, 1, 5])
        assert_same(whole[row : row + 1], alone)


def test_a_conversation_is_one_stream(model: Any) -> None:
    first, policy = tokens(1, 15), LazyEviction(BUDGET, period=3, recent=3, threshold=0.1)
    cache = PolicyCache(model.config, policy)
    answer = generated(model, first, cache, 5)
    second = torch.cat([answer, tokens(1, 6)], 1)
    after = generated(model, second, cache, 5)
    assert torch.equal(after, generated(model, second, PolicyCache(model.config, policy), 5))


@prefills
def test_beams(stock: Any, model: Any, prefill: Any) -> None:
    ids = tokens(2, 14)
    expected = generated(stock, ids, DynamicCache(config=stock.config), num_beams=3)
    found = generated(model, ids, PolicyCache(model.config, HeavyHitters(64), prefill), num_beams=3)
    assert torch.equal(found, expected)
    assert generated(model, ids, PolicyCache(model.config, HeavyHitters(BUDGET, recent=3), prefill), num_beams=3).shape


def test_rows_can_be_taken_in_another_order(model: Any) -> None:
    ids, policy = tokens(3, 22), LeastFrequentlyAttended(BUDGET, recent=3, threshold=0.1)
    for change, rows in (
        (lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
        (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    ):
        cache = PolicyCache(model.config, policy)
        logits(model, ids[:, :20], cache, [20])
        change(cache)
        with torch.no_grad():
            found = model(ids[rows, 20:], past_key_values=cache).logits
        expected = logits(model, ids[rows], PolicyCache(model.config, policy), [20, 2])[:, 20:]
        assert_same(found, expected)


@prefills
def test_saved_and_loaded(model: Any, tmp_path: Path, prefill: Any) -> None:
    ids = tokens(2, 25)
    for policy in (HeavyHitters(BUDGET, recent=3), LazyEviction(64, period=3)):
        cache = PolicyCache(model.config, policy, prefill)
        logits(model, ids[:, :20], cache, [20])
        again = PolicyCache.load(cache.save(tmp_path / "cache"), model.config)
        assert again.get_seq_length() == 20 and again.nbytes == cache.nbytes and again.prefill == prefill
        with torch.no_grad():
            one, two = (model(ids[:, 20:], past_key_values=c).logits for c in (cache, again))
        assert torch.equal(one, two)
    cache = PolicyCache(model.config, KeyNorm(5, recent=3), "whole", 0.5)
    logits(model, ids, cache, [25])
    again = PolicyCache.load(cache.save(tmp_path / "cache"), model.config)
    assert [layer.policy for layer in again.layers] == [KeyNorm(12, recent=3)] * 2  # pyright: ignore


def test_a_policy_for_every_layer(model: Any) -> None:
    policies = [Newest(12, sinks=1), HeavyHitters(6, recent=2)]
    cache = PolicyCache(model.config, policies)
    generated(model, tokens(1, 30), cache)
    first, second = positions(cache)
    assert {len(kept) for kept in first[0]} == {12} and {len(kept) for kept in second[0]} == {6}
    assert first[0][0] == [0, *range(30, 41)]
    cache.reset()
    assert cache.nbytes == 0 and cache.get_seq_length() == 0


def turned(q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """q, k (B, H, T, K) as a model turns them."""
    config = LlamaConfig(hidden_size=8, num_attention_heads=8 // q.shape[-1])
    return apply_rotary_pos_emb(q, k, *LlamaRotaryEmbedding(config)(q, positions[None]))


def read(layer: PolicyLayer, q: Tensor, k: Tensor, v: Tensor, cuts: list[int]) -> Tensor:
    """q, k, v (B, H, T, .) turned by the model, in such pieces."""
    found, start = [], 0
    for size in cuts:
        now = slice(start, start + size)
        keys, values = layer.update(k[:, :, now], v[:, :, now])
        with torch.no_grad():
            found.append(attention(torch.nn.Identity(), q[:, :, now], keys, values, None)[0])
        start += size
    return torch.cat(found, 1)


@each
def test_positions_within_what_is_kept(policy: Policy) -> None:
    """The model's turns are taken back, and the memory's own are those of the literal loop."""
    q, k, v = (torch.randn(2, heads, 31, 4, dtype=torch.float64) for heads in (6, 2, 2))
    reading = mn.Softmax(rotary=10000.0, positions="kept")
    memory = mn.KVMemory(retain=policy, read=reading)
    expected, _ = mn.run(memory, *(x.transpose(1, 2) for x in (q, k, v)), plan="reference")
    q, k = turned(q, k, torch.arange(31))
    for cuts in ([31], [1] * 31, [11, 1, 1, 18]):
        assert_same(read(PolicyLayer(policy, rotary=Rotary(10000.0)), q, k, v, cuts), expected, 1e-5)


def test_streaming_llm() -> None:
    """The last token sees two sinks and the seven newest at the positions 0 to 8, and is at 8 itself."""
    q, k, v = (torch.randn(1, 1, 40, 4, dtype=torch.float64) for _ in range(3))
    layer = PolicyLayer(Newest(BUDGET, sinks=2), rotary=Rotary(10000.0))
    found = read(layer, *turned(q, k, torch.arange(40)), v, [25, *[1] * 15])
    kept = [0, 1, *range(33, 40)]
    asked, keys = turned(q[:, :, kept], k[:, :, kept], torch.arange(BUDGET))
    expected = torch.softmax(keys[0, 0] @ asked[0, 0, -1] / 2, 0) @ v[0, 0, kept]
    assert_same(found[0, -1, 0], expected, 1e-5)


@prefills
def test_positions_within_the_cache_of_a_model(pair: Any, prefill: Any, tmp_path: Path) -> None:
    """While nothing is dropped they are the model's own; then padding and cuts change nothing, and a saved cache goes
    on."""
    stock, model = pair
    ids = tokens(2, 26)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    expected = logits(stock, ids, DynamicCache(config=stock.config), [20, 1, 5])
    cache = PolicyCache(model.config, HeavyHitters(40), prefill, positions="kept")
    assert_same(logits(model, ids, cache, [20, 1, 5]), expected)
    for policy in (Newest(BUDGET, sinks=2), HeavyHitters(BUDGET, recent=3)):
        caches = [PolicyCache(model.config, policy, prefill, positions="kept") for _ in range(2)]
        one = logits(model, ids, caches[0], [20, 1, 1, 4], mask)
        two = logits(model, ids[:1, 7:], caches[1], [13, 1, 1, 4])
        assert_same(one[:1, 7:], two)
        original = logits(model, ids[:1, 7:], PolicyCache(model.config, policy, prefill), [13, 1, 1, 4])
        assert float((two - original)[:, 13:].abs().max()) > 0.01
        again = PolicyCache.load(caches[0].save(tmp_path / "cache"), model.config)
        assert again.positions == "kept"
        assert_same(logits(model, ids[:, :2], again, [2]), logits(model, ids[:, :2], caches[0], [2]), 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(stock: Any, dtype: torch.dtype) -> None:
    """Entries have the model's precision, notes on them float32; where nothing is dropped, the error is that of the
    stock cache in that precision (up to a fifth), and of keys turned back and again up to a half more."""
    ids, cuts = tokens(4, 40), [30] + [1] * 10
    truth = logits(stock, ids, DynamicCache(config=stock.config), cuts)
    halved = stock.to(dtype)
    model = twin(halved).to(dtype)

    def error(model: Any, cache: Any) -> float:
        return float((logits(model, ids, cache, cuts).double() - truth).square().mean().sqrt())

    stocks = error(halved, DynamicCache(config=stock.config))
    for policy, prefill, positions_of, bound in (
        (HeavyHitters(64), "stream", "original", 1.2),
        (KeyNorm(64), "whole", "original", 1.2),
        (HeavyHitters(64), "stream", "kept", 1.5),
    ):
        cache = PolicyCache(model.config, policy, prefill, positions=positions_of)  # pyright: ignore
        assert 0 < error(model, cache) < bound * stocks
    for policy in POLICIES:
        cache = PolicyCache(model.config, policy)
        found = logits(model, ids, cache, cuts)
        assert found.dtype == dtype and bool(found.isfinite().all())
        for layer in cache.memory_layers:
            kinds = {name: x.dtype for name, x in layer.state.tensors()}
            assert kinds["keys"] == kinds["values"] == dtype
            assert all(kinds[f"statistic.{name}"] == torch.float32 for name in policy.statistics)


def test_attention_that_is_not_ours(stock: Any, model: Any) -> None:
    ids = tokens(1, 5)
    with pytest.raises(StateError, match=r"attention is 'sdpa'.*set_attn_implementation\(\"mnemos\"\)"):
        stock(ids, past_key_values=PolicyCache(stock.config, HeavyHitters(64)))
    # another configuration that says otherwise: the second call tells
    cache = PolicyCache(model.config, HeavyHitters(64))
    with pytest.raises(StateError, match="not back with their queries"):
        for _ in range(2):
            stock(ids, past_key_values=cache)


def test_what_cannot_be_asked(model: Any, tmp_path: Path) -> None:
    policy = HeavyHitters(64)
    scaled = LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    for make, error, message in (
        (lambda: PolicyCache(model, policy), InvalidType, r"model\.config; got LlamaForCausalLM"),
        (lambda: PolicyCache(model.config, 64), InvalidType, "takes a policy or a list"),
        (lambda: PolicyCache(model.config, [policy, mn.Window(4)]), InvalidType, "takes a Policy"),
        (lambda: PolicyCache(model.config, [policy]), InvalidValue, "has 1 policies; the model has 2 layers"),
        (lambda: PolicyCache(model.config, policy, "both"), InvalidValue, '"stream" or "whole"; got \'both\''),
        (lambda: PolicyCache(model.config, policy, "whole", 1.5), InvalidValue, r"\(0, 1\]; got 1.5"),
        (lambda: PolicyCache(model.config, policy, ratio=0.5), InvalidValue, 'prefill="whole" too'),
        (lambda: PolicyCache(model.config, policy, decode="stop"), InvalidValue, '"hold" or "grow"; got \'stop\''),
        (lambda: PolicyCache(model.config, policy, decode="grow"), InvalidValue, "never drops anything but"),
        (lambda: PolicyCache(model.config, policy, positions="none"), InvalidValue, "\"kept\"; got 'none'"),
        (lambda: PolicyCache(PhiConfig(), policy, positions="kept"), InvalidValue, "qwen3, not for 'phi'"),
        (lambda: PolicyCache(scaled, policy, positions="kept"), InvalidValue, "rope_type='linear'"),
        (lambda: PolicyCache(MistralConfig(sliding_window=8), policy), InvalidValue, "sliding_attention layers"),
        (lambda: PolicyCache(model.config, policy).crop(-1), InvalidValue, "cannot be cropped"),
        (lambda: PolicyCache(model.config, policy).save(tmp_path / "x"), StateError, "seen nothing yet"),
        (lambda: PolicyCache.load(tmp_path / "none", model.config), StateError, "no saved state at"),
    ):
        with pytest.raises(error, match=message):
            make()
    cache = PolicyCache(model.config, policy)
    logits(model, tokens(2, 5), cache, [5])
    with pytest.raises(StateError, match="holds 2 rows and the input has 3"):
        model(tokens(3, 1), past_key_values=cache)
    cache = PolicyCache(model.config, policy)
    logits(model, tokens(2, 5), cache, [5])
    with pytest.raises(InvalidValue, match="covers 2 tokens, but 5 were seen and 2 are new"):
        model(tokens(2, 2), past_key_values=cache, attention_mask=torch.ones(2, 2))
    with pytest.raises(InvalidValue, match="marks padding; got one of shape"):
        model(tokens(2, 2), attention_mask=torch.zeros(2, 1, 2, 2))
    saved = cache.save(tmp_path / "cache")
    other = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    with pytest.raises(StateError, match="has 2 layers of 2 heads of keys; the model has 3 of 2"):
        PolicyCache.load(saved, other)
    memory = mn.KVMemory()
    state: State = memory.init(1, 1, 2, 2)
    with pytest.raises(StateError, match="not of a PolicyCache"):
        PolicyCache.load(state.save(tmp_path / "state"), model.config)
    q = torch.randn(1, 2, 3, 4)
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        with pytest.raises(InvalidValue, match=f"the model asks for {name}="):
            attention(torch.nn.Identity(), q, q, q, None, **{name: 3})
