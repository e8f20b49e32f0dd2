"""What pointer networks must satisfy (arXiv 1506.03134)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import mnemos as mn
from mnemos.models import Pointer, PointerNetwork, PointerNetworkSpec, pointer_network

B, N, HIDDEN = 3, 5, 6


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def a_network(**options: Any) -> PointerNetwork:
    network = PointerNetworkSpec(2, HIDDEN, **options).build().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


# The pointer.


def test_additive_scores_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one tile, and a state at a time."""
    pointer, e, d = Pointer(HIDDEN, clip=None).double(), randn(B, N, HIDDEN), randn(B, 4, HIDDEN)
    assert pointer.weight is not None
    for tile in (2**22, 1):
        monkeypatch.setattr(pointer_network, "TILE", tile)
        found = pointer(e, d)
        for b, i in itertools.product(range(B), range(4)):
            u = [pointer.weight @ torch.tanh(pointer.keys.weight @ x + pointer.queries.weight @ d[b, i]) for x in e[b]]
            assert_same(found[b, i], torch.log_softmax(torch.stack(u), 0))


def test_dot_scores_are_attention_weights() -> None:
    """Those with which softmax attention reads one-hot values."""
    pointer, e, d = Pointer(HIDDEN, score="dot").double(), randn(1, N, HIDDEN), randn(1, N, HIDDEN)
    memory, hot = mn.KVMemory(), torch.eye(N, dtype=torch.float64)
    keys, queries = pointer.keys(e), pointer.queries(d)
    state = memory.init(1, 1, HIDDEN, N, dtype=torch.float64)
    for j in range(N):
        state = memory.write(state, keys[:, j, None], hot[j].view(1, 1, N))
    assert_same(pointer(e, d).exp(), memory.read(state, queries[:, :, None])[:, :, 0])


def test_without_a_direction_all_places_are_alike() -> None:
    pointer = Pointer(HIDDEN).double()
    assert pointer.weight is not None
    with torch.no_grad():
        pointer.weight.zero_()
    uniform = torch.full((B, 2, N), 1 / N, dtype=torch.float64)
    assert_same(pointer(randn(B, N, HIDDEN), randn(B, 2, HIDDEN)).exp(), uniform)


def test_clipped_scores_differ_by_twice_the_clip_at_most() -> None:
    pointer, e, d = Pointer(HIDDEN, clip=0.5).double(), randn(B, N, HIDDEN), randn(B, 2, HIDDEN)
    assert pointer.weight is not None
    with torch.no_grad():
        pointer.weight.mul_(100)
        u = torch.tanh(pointer.keys(e)[:, None] + pointer.queries(d)[:, :, None]) @ pointer.weight
        found = pointer(e, d)
    assert_same(found, torch.log_softmax(0.5 * torch.tanh(u), -1))
    assert bool((found.amax(-1) - found.amin(-1) <= 1).all()) and float((u.amax(-1) - u.amin(-1)).max()) > 1


def test_what_is_not_allowed_has_no_probability() -> None:
    pointer, e, d = Pointer(HIDDEN).double(), randn(B, N, HIDDEN).requires_grad_(), randn(B, 2, HIDDEN)
    allowed = torch.rand(B, 2, N) < 0.5
    allowed[:, :, 0], allowed[0, 1] = True, False
    found = pointer(e, d, allowed)
    assert not found.exp()[~allowed].any()
    assert torch.equal(found[0, 1], torch.full((N,), -torch.inf, dtype=torch.float64))
    alone = pointer(e[:1, allowed[0, 0]], d[:1, :1])
    assert_same(found[0, 0][allowed[0, 0]], alone[0, 0])
    (gradient,) = torch.autograd.grad(found[allowed].sum(), e)
    assert bool(torch.isfinite(gradient).all())


# The network.


@pytest.mark.parametrize("score", ["additive", "dot"])
@pytest.mark.parametrize("encoder", ["lstm", "each"])
@pytest.mark.parametrize("end", [True, False])
def test_answers_are_distributions_over_any_number_of_inputs(score: str, encoder: str, end: bool) -> None:
    network = a_network(score=score, encoder=encoder, end=end)
    for number in (1, 2, 9):
        found = network(randn(B, number, 2), torch.zeros(B, 3, dtype=torch.int64))
        assert found.shape == (B, 3, number + end)
        assert_same(found.exp().sum(-1), torch.ones(B, 3, dtype=torch.float64))
        if number == 1 and not end:
            assert not found.any()  # p = 1


def test_the_paper_s_recurrence() -> None:
    """Token by token with LSTM cells: the decoder goes on from the encoder, and gets the input pointed to."""
    network, points, targets = a_network(), randn(1, N, 2), torch.tensor([[3, 0, 4, N]])
    assert network.reader is not None and network.end is not None

    def cell(lstm: torch.nn.LSTM) -> torch.nn.LSTMCell:
        made = torch.nn.LSTMCell(2, HIDDEN).double()
        made.load_state_dict({name.removesuffix("_l0"): x for name, x in lstm.state_dict().items()})
        return made

    read, decode = cell(network.reader), cell(network.decoder)
    state, memories = None, []
    for j in range(N):
        state = read(points[:, j], state)
        memories.append(state[0][0])
    given, p = network.start[None], network.pointer
    for i, target in enumerate(targets[0].tolist()):
        state = decode(given, state)
        d = state[0][0]
        assert p.weight is not None
        u = [p.weight @ torch.tanh(p.keys.weight @ e + p.queries.weight @ d) for e in (*memories, network.end)]
        assert_same(network(points, targets)[0, i], torch.log_softmax(torch.stack(u), 0), 1e-10)
        given = points[:, min(target, N - 1)]


def test_an_encoder_without_order() -> None:
    """Permuted inputs: the same probabilities, permuted; an LSTM encoder hears the order."""
    points, order = randn(B, N, 2), torch.tensor([3, 0, 4, 1, 2])
    targets = torch.tensor([[0, 4, 2, N]]).expand(B, -1)
    moved = torch.tensor([[1, 2, 4, N]]).expand(B, -1)  # where those inputs stand in the new order
    each, lstm = a_network(encoder="each"), a_network()
    places = torch.cat([order, torch.tensor([N])])
    assert_same(each(points[:, order], moved), each(points, targets)[..., places])
    assert float((lstm(points[:, order], moved) - lstm(points, targets)[..., places]).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("encoder", ["lstm", "each"])
def test_rows_of_fewer_inputs_are_what_they_are_alone(encoder: str) -> None:
    network, points, lengths = a_network(encoder=encoder), randn(B, N, 2), torch.tensor([5, 2, 3])
    targets = torch.tensor([[1, 0, N]]).expand(B, -1)
    found = network(points, targets, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = network(points[b : b + 1, :length], torch.tensor([[1, 0, length]]))
        real = [*range(length), N]
        assert_same(found[b, :, real], alone[0], 1e-12)
        assert not found[b].exp()[:, length:N].any()


def test_without_repetition_the_answer_is_a_permutation() -> None:
    network, points = a_network(end=False), randn(16, N, 2)
    for beam in (1, 3):
        answer, _ = network.decode(points, beam=beam)
        assert torch.equal(answer.sort(1).values, torch.arange(N).expand(16, -1))
    free, _ = network.decode(points, repeat=True)
    assert any(len(set(row)) < N for row in free.tolist())


def test_decoding_is_the_likeliest_answer() -> None:
    """A beam of all prefixes finds the best of all answers; its probability is what teacher forcing gives."""
    network, points = a_network(end=False), randn(1, 4, 2)
    best, total = network.decode(points, beam=4**3, repeat=True, steps=3)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    scores = network(points.expand(len(every), -1, -1), every).gather(2, every[..., None]).sum((1, 2))
    assert torch.equal(best[0], every[scores.argmax()])
    assert_same(total[0], scores.max(), 1e-10)
    greedy, likely = network.decode(points, repeat=True, steps=3)
    steps = network(points, greedy)
    assert torch.equal(steps.argmax(-1), greedy)
    assert_same(likely, steps.gather(2, greedy[..., None]).sum((1, 2)), 1e-10)


def test_what_stands_behind_the_end() -> None:
    network, points = a_network(), randn(32, N, 2)
    answer, total = network.decode(points, beam=2)
    ended = 0
    for b, row in enumerate(answer.tolist()):
        stop = row.index(N)  # at the latest when all inputs are used up
        assert len(set(row[:stop])) == stop and set(row[stop:]) == {N}
        targets = torch.tensor([row[: stop + 1]])
        # The answers' probabilities, of the places that were still open.
        keys, state, allowed = network.encoded(points[b : b + 1], torch.tensor([N]))
        states, _ = network.decoder(network._pointed(points[b : b + 1], targets[:, :-1]), state)
        left, sum_ = allowed[:, None].clone(), torch.zeros((), dtype=torch.float64)
        for i, place in enumerate(row[: stop + 1]):
            sum_ = sum_ + network.pointer.asked(keys, states[:, i : i + 1], left)[0, 0, place]
            left[..., place] = False
        assert_same(total[b], sum_.detach(), 1e-10)
        ended += stop < N
    assert ended


def test_it_learns_to_sort() -> None:
    """Three numbers by pointing at them, in a few steps: the loss falls to well below that of a guess."""
    torch.manual_seed(1)
    network = PointerNetworkSpec(1, 32, end=False, encoder="each").build()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        points = torch.rand(64, 3, 1)
        targets = points[..., 0].argsort(1)
        loss = torch.nn.functional.nll_loss(network(points, targets).transpose(1, 2), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    points = torch.rand(200, 3, 1)
    right = (network.decode(points)[0] == points[..., 0].argsort(1)).all(1)
    assert float(right.double().mean()) > 0.6  # 1/6 by guessing


def test_what_cannot_be() -> None:
    for given, message in (
        ({"hidden": 0}, "at least 1"),
        ({"score": "cosine"}, '"additive" or "dot"'),
        ({"clip": 0.0}, "positive"),
        ({"encoder": "none"}, '"each"'),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            PointerNetworkSpec(2, **given)  # pyright: ignore[reportArgumentType]
    network, points, targets = a_network(end=False), randn(B, N, 2), torch.zeros(B, 2, dtype=torch.int64)
    for bad, message in (
        ((points.long(), targets), "floating point"),
        ((points[..., :1], targets), "must be"),
        ((points, targets.double()), "int64"),
        ((points, targets[0]), "batch, answers"),
        ((points, targets + N), "places in"),
        ((points, targets, torch.tensor([1, 2])), "lengths must be"),
        ((points, targets, torch.tensor([1, 0, 2])), "lie in"),
    ):
        with pytest.raises(mn.MnemosError, match=message):
            network(*bad)
    with pytest.raises(mn.MnemosError, match="different inputs"):
        network.decode(points, lengths=torch.tensor([2, 3, 4]))
    with pytest.raises(mn.MnemosError, match="beam"):
        network.decode(points, beam=0)
