"""Bits per byte against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluate_standins import BitsAt, counting_corpus

from mnemos.errors import DataError, InvalidValue
from mnemos.evaluate import BitsPerByte, Estimate, bits_per_byte
from mnemos.evaluate.estimate import estimate, student
from mnemos.train.corpus import Corpus


def fixed(probabilities: list[float]):
    """A model that gives these probabilities at every position."""

    def model(tokens, state=None):
        return torch.tensor(probabilities).log().expand(*tokens.shape, -1), state

    return model


def test_known_probabilities_give_the_hand_computed_value():
    # The held-out text is 1 0 0 1 0 0 0 ...; targets of the two windows of 3: (0 0 1) and (0 0 0).
    tokens = np.array([0] * 10 + [1, 0, 0, 1, 0, 0, 0], dtype=np.uint16)
    corpus = Corpus(tokens, split=10, starts=np.array([0]), bytes_per_token=0.5, fingerprint="hand")
    measured = bits_per_byte(fixed([0.75, 0.25]), corpus, length=3, tokens=6)
    a, b = -math.log2(0.75), 2.0
    windows = [(a + a + b) / 3 / 0.5, (a + a + a) / 3 / 0.5]
    assert measured.by_window == pytest.approx(windows) and measured.length == 3
    assert measured.value.mean == pytest.approx(sum(windows) / 2, rel=1e-6)
    # Two values: the standard error is half their distance, and Student's 95 % point at 1 degree is 12.706.
    half = 12.7062 * abs(windows[0] - windows[1]) / 2
    assert measured.value.high - measured.value.mean == pytest.approx(half, rel=1e-5)
    assert measured.value.mean - measured.value.low == pytest.approx(half, rel=1e-5)


def test_a_model_without_knowledge_needs_the_logarithm_of_its_vocabulary():
    measured = bits_per_byte(BitsAt(lambda p: 4.0), counting_corpus(4000, 1000), length=64, tokens=640)
    assert measured.value.mean == pytest.approx(4.0, abs=1e-5)
    assert len(measured.by_window) == 10


def test_long_windows_go_through_in_pieces_with_the_state_carried():
    model = BitsAt(lambda p: 1.0 if p < 3000 else 3.0)
    measured = bits_per_byte(model, counting_corpus(40000, 20000), length=4000, tokens=8000)
    assert max(time for _, time in model.calls) == 2048
    assert measured.value.mean == pytest.approx((3000 * 1 + 1000 * 3) / 4000, abs=1e-4)


def test_documents_apart_pass_where_they_begin():
    corpus = counting_corpus(400, 200)
    corpus = Corpus(corpus.tokens, corpus.split, np.array([0, 203, 260]), 1.0, "documents")
    seen = []

    def model(tokens, state=None, *, reset):
        seen.append(reset)
        return torch.zeros(*tokens.shape, 16), state

    bits_per_byte(model, corpus, length=50, tokens=100, separate=True)
    assert torch.cat(seen).nonzero().tolist() == [[0, 3], [1, 10]]  # the windows begin at 200 and at 250


def test_evaluation_mode_and_gradients_are_put_back():
    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(16))

        def forward(self, tokens, state=None):
            assert not self.training and not torch.is_grad_enabled()
            return self.bias.expand(*tokens.shape, -1), state

    model = Watched().train()
    bits_per_byte(model, counting_corpus(400, 200), length=20)
    assert model.training and torch.is_grad_enabled()


def test_one_window_is_refused_because_it_has_no_interval():
    with pytest.raises(DataError, match=r"at least 2 windows of held-out text; there is 1\. Give more text"):
        bits_per_byte(BitsAt(lambda p: 1.0), counting_corpus(400, 60), length=50)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    held = [estimate(torch.randn(6, generator=generator)) for _ in range(4000)]
    assert 0.935 < sum(e.low <= 0 <= e.high for e in held) / len(held) < 0.965


@pytest.mark.parametrize(("freedom", "published"), [(1, 12.706), (4, 2.776), (5, 2.571), (10, 2.228), (60, 2.000)])
def test_students_points_are_the_published_ones(freedom: int, published: float):
    assert student(freedom) == pytest.approx(published, abs=0.004)


def test_results_go_to_json_and_back():
    result = BitsPerByte(Estimate(1.5, 1.25, 1.75, 2), (1.4, 1.6), 64)
    assert BitsPerByte.from_json(result.to_json()) == result
    with pytest.raises(DataError, match="not a BitsPerByte: Field required"):
        BitsPerByte.from_json('{"length": 3}')


def test_a_difference_is_taken_window_by_window():
    hard_and_easy = (1.0, 5.0, 2.0, 7.0)
    one = BitsPerByte(Estimate(3.75, 0, 8, 4), hard_and_easy, 64)
    two = BitsPerByte(Estimate(3.25, 0, 8, 4), tuple(value - 0.5 for value in hard_and_easy), 64)
    assert one.minus(two) == Estimate(0.5, 0.5, 0.5, 4)
    other = BitsPerByte(Estimate(3.0, 2, 4, 2), (2.5, 3.5), 64)
    with pytest.raises(InvalidValue, match="got 4 windows of 64 tokens and 2 of 64"):
        one.minus(other)
