from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from mnemos.errors import DataError
from mnemos.train.corpus import Corpus
from mnemos.train.sampler import Streams, Windows, held_out_windows, in_batches, step_seed


def numbered(training: int, held_out: int, starts: tuple[int, ...] = (0,)) -> Corpus:
    """A corpus whose tokens are their own positions."""
    tokens = np.arange(training + held_out, dtype=np.uint32)
    return Corpus(tokens, training, np.array(starts), 1.0, "numbered")


@pytest.mark.parametrize("kind", [Windows, Streams])
def test_a_batch_is_a_function_of_seed_and_step(kind: type[Windows] | type[Streams]) -> None:
    corpus = numbered(997, 50)
    order = [kind(corpus, 10, 4, seed=5)(step).tokens for step in range(60)]
    later = kind(corpus, 10, 4, seed=5)
    for step in (59, 3, 30):  # a fresh sampler, out of order
        assert torch.equal(later(step).tokens, order[step])
    assert not any(torch.equal(order[0], other) for other in order[1:20])
    assert not torch.equal(kind(corpus, 10, 4, seed=6)(0).tokens, order[0])


@pytest.mark.parametrize("kind", [Windows, Streams])
@pytest.mark.parametrize(("training", "length", "batch"), [(60, 10, 4), (54, 10, 4), (101, 7, 3), (1000, 9, 2)])
def test_no_window_crosses_the_split(kind: type, training: int, length: int, batch: int) -> None:
    sample = kind(numbered(training, 500), length, batch, seed=1)
    seen = torch.cat([sample(step).targets.flatten() for step in range(300)])
    assert int(seen.max()) < training
    for step in range(20):
        one = sample(step)
        assert one.tokens.shape == one.targets.shape == (batch, length)
        assert torch.equal(one.targets, (one.tokens + 1) % training)


def test_windows_reach_the_whole_training_text() -> None:
    sample = Windows(numbered(40, 10), 8, 4, seed=0)
    seen = torch.cat([sample(step).targets.flatten() for step in range(400)])
    assert set(seen.tolist()) == set(range(1, 40))


def test_streams_go_on_where_they_were() -> None:
    sample = Streams(numbered(1000, 50), 16, 3, seed=2)
    assert sample.segments > 10
    for step in range(1, 3 * sample.segments):
        before, now = sample(step - 1), sample(step)
        assert now.fresh == (step % sample.segments == 0)
        if not now.fresh:
            assert torch.equal(now.tokens[:, 0], before.targets[:, -1])


def test_streams_read_nearly_all_text_each_time_round() -> None:
    sample = Streams(numbered(1000, 50), 16, 3, seed=2)
    seen = torch.cat([sample(step).tokens.flatten() for step in range(sample.segments)]).tolist()
    assert len(seen) == len(set(seen))
    assert len(seen) > 1000 - 3 * (16 + 1)


def test_documents_reset_the_memory_where_they_begin() -> None:
    starts = (0, 13, 14, 40, 70, 99)
    sample = Windows(numbered(100, 20, starts), 12, 5, seed=3, separate=True)
    found = set()
    for step in range(100):
        batch = sample(step)
        assert batch.reset is not None
        expected = torch.tensor([[int(token) in starts for token in row] for row in batch.tokens])
        assert torch.equal(batch.reset, expected)
        found |= set(batch.tokens[batch.reset].tolist())
    assert found >= {0, 13, 14, 40, 70}
    assert Windows(numbered(100, 20, starts), 12, 5, seed=3)(0).reset is None


@pytest.mark.parametrize(("held_out", "length", "tokens"), [(200, 10, 60), (200, 10, 10**6), (35, 10, 5), (7, 10, 100)])
def test_evaluation_reads_held_out_text_only_and_each_token_once(held_out: int, length: int, tokens: int) -> None:
    windows = held_out_windows(numbered(100, held_out), length, tokens)
    seen = torch.cat([window.tokens.flatten() for window in windows]).tolist()
    assert len(seen) == len(set(seen))
    assert min(seen) >= 100
    assert max(int(window.targets.max()) for window in windows) < 100 + held_out
    assert len(seen) <= max(tokens, length)
    batches = list(in_batches(windows, 3))
    assert torch.equal(torch.cat([batch.tokens for batch in batches]), torch.cat([w.tokens for w in windows]))


def test_the_other_randomness_of_a_step_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(20)}
    assert len(seeds) == 400


def test_text_too_short_is_refused() -> None:
    message = "has 10 tokens (a part is held out), but a window of 10 tokens and the one after it need 11"
    with pytest.raises(DataError, match=re.escape(message)):
        Windows(numbered(10, 5), 10, 2, seed=0)
    Windows(numbered(11, 5), 10, 2, seed=0)(0)
    with pytest.raises(DataError, match=r"2 streams of 10 tokens each need 22\. Give more text, or a smaller --length"):
        Streams(numbered(21, 5), 10, 2, seed=0)
    Streams(numbered(22, 5), 10, 2, seed=0)(0)
    with pytest.raises(DataError, match="only 1 of 101 tokens are held out for evaluation; at least 2 are needed"):
        held_out_windows(numbered(100, 1), 10, 100)
