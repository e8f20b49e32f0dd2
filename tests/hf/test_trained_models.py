"""What caches keep of an ability that a model has learnt: to say again what was named once.

A tiny Llama learns it here, with full attention. The bounds hold with room to spare for the seeds 1 to 4.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from calling import generated
from conftest import twin
from torch import Tensor

pytest.importorskip("transformers")

from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from mnemos.hf import EpisodicCache, PolicyCache, own_surprise
from mnemos.memory import (
    EpisodicMemory,
    Every,
    HeavyHitters,
    LazyEviction,
    MeanKey,
    Newest,
    Policy,
    Recall,
    Representatives,
    Sampled,
    Surprise,
)

THINGS, NAMES, NOISE, HALF, SEED = 6, 4, 12, 32, 1
VOCABULARY = THINGS * NAMES + THINGS + NOISE
BUDGET = 20


def text(number: int, generator: torch.Generator, early: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens (number, 2 HALF), and the answers to its questions, -100 elsewhere. Each thing gets its name in the first
    half, one token among noise, the very first ones with `early`; the second half asks for names, thirteen times."""
    low = VOCABULARY - NOISE
    ids = torch.randint(low, VOCABULARY, (number, 2 * HALF), generator=generator)
    answers = torch.full_like(ids, -100)
    for row, answer in zip(ids, answers, strict=True):
        named = torch.arange(THINGS) * NAMES + torch.randint(NAMES, (THINGS,), generator=generator)
        row[torch.arange(THINGS) if early else torch.randperm(HALF, generator=generator)[:THINGS]] = named
        asked = HALF + torch.cat([torch.randperm(HALF - 1, generator=generator)[:12], torch.tensor([HALF - 1])])
        things = torch.randint(THINGS, (len(asked),), generator=generator)
        row[asked], answer[asked] = THINGS * NAMES + things, named[things]
    return ids, answers


@pytest.fixture(scope="module")
def learnt() -> Any:
    """A model that has learnt to answer, as it comes."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
        config = LlamaConfig(
            **sizes, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY, eos_token_id=None
        )
        model, generator = LlamaForCausalLM(config), torch.Generator().manual_seed(SEED)
        optimiser = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=250)
        for _ in range(250):
            ids, answers = text(16, generator)
            optimiser.zero_grad()
            F.cross_entropy(model(ids).logits.flatten(0, 1), answers.flatten()).backward()
            optimiser.step()
            schedule.step()
    return model.double().eval()


def right(model: Any, cache: Any, early: bool = False) -> float:
    """The share of the questions that it answers rightly."""
    ids, answers = text(48, torch.Generator().manual_seed(100), early)
    with torch.no_grad():
        said = model(ids, past_key_values=cache).logits.argmax(-1)
    return float((said == answers)[answers >= 0].double().mean())


def test_it_has_learnt(learnt: Any) -> None:
    assert right(learnt, DynamicCache(config=learnt.config)) > 0.98


def test_nothing_changes_while_nothing_is_dropped(learnt: Any) -> None:
    model = twin(learnt)
    ids, answers = text(8, torch.Generator().manual_seed(101))
    expected = generated(learnt, ids, DynamicCache(config=learnt.config), 20)
    assert torch.equal(expected[:, 2 * HALF], answers[:, -1])
    everything = EpisodicMemory(Every(4), MeanKey(), Recall(100), window=8, sinks=2)
    for cache in (
        PolicyCache(model.config, LazyEviction(100)),
        PolicyCache(model.config, HeavyHitters(100), "whole"),
        PolicyCache(model.config, Newest(100), positions="kept"),
        EpisodicCache(model.config, everything),
    ):
        assert torch.equal(generated(model, ids, cache, 20), expected)


def test_what_is_looked_at_is_kept(learnt: Any) -> None:
    """At a third of the entries; chance keeps two or three of six names, recency none of the early ones."""
    model = twin(learnt)

    def at_a_third(policy: Policy) -> float:
        return right(model, PolicyCache(model.config, policy))

    chance = at_a_third(Sampled(BUDGET, recent=4))
    assert chance < 0.6 and at_a_third(Newest(BUDGET, sinks=2)) < 0.5
    assert at_a_third(HeavyHitters(BUDGET, recent=4)) > chance + 0.15
    assert at_a_third(HeavyHitters(BUDGET, recent=4, mean=True)) > chance + 0.2
    assert at_a_third(LazyEviction(BUDGET, period=4, recent=4, threshold=0.1)) > 0.85


@pytest.mark.parametrize("positions", ["original", "kept"])
def test_sinks_keep_what_comes_first(learnt: Any, positions: Any) -> None:
    model = twin(learnt)
    for policy, low, high in (
        (Newest(BUDGET, sinks=THINGS), 0.98, 1.0),
        (Newest(BUDGET), 0.0, 0.45),
        (Sampled(BUDGET, recent=4), 0.0, 0.55),
    ):
        assert low <= right(model, PolicyCache(model.config, policy, positions=positions), early=True) <= high


def test_episodes_are_found(learnt: Any) -> None:
    """A window and sinks of ten, and three episodes of four; so many newest entries know less than half."""
    model = twin(learnt)
    assert right(model, PolicyCache(model.config, Newest(24, sinks=2))) < 0.6
    events = Surprise(shortest=2, longest=4, span=16)
    for memory in (
        EpisodicMemory(Every(4), MeanKey(), Recall(3), window=8, sinks=2),
        EpisodicMemory(Every(4), MeanKey(), Recall(3), window=8, sinks=2, rotary=10000.0),
        EpisodicMemory(events, Representatives(4), Recall(8, 4, "tokens"), window=8, sinks=2, rotary=10000.0),
        EpisodicMemory(events.replace(of="control"), MeanKey(), Recall(12, unit="tokens"), window=8, sinks=2),
    ):
        with own_surprise(model):
            assert right(model, EpisodicCache(model.config, memory)) > 0.8


def test_episodes_are_found_while_generating(learnt: Any) -> None:
    model = twin(learnt)
    ids, answers = text(48, torch.Generator().manual_seed(102))
    memory = EpisodicMemory(Every(4), MeanKey(), Recall(3), window=8, sinks=2, rotary=10000.0)
    found, recent = (
        float((generated(model, ids, cache, 1)[:, -1] == answers[:, -1]).double().mean())
        for cache in (EpisodicCache(model.config, memory), PolicyCache(model.config, Newest(24, sinks=2)))
    )
    assert found > 0.8 and recent < 0.6
