"""Models that read in segments: Transformer-XL, LaMemo, RMT, ARMT and Memoria against their papers' formulas."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import Diverged, InvalidType, InvalidValue
from mnemos.layers import DPFP, SegmentAttention
from mnemos.layers.segment_attention import SegmentAttentionLayer
from mnemos.memory import Chunk
from mnemos.models import Associative, Engrams, LookAhead, MemoryTokens
from mnemos.models.segments.associative import answer, associate
from mnemos.models.segments.engrams import LONG, NONE, SHORT, WORKING, aged, best, born, nearness, remind

WIDTH, HEADS, VOCABULARY = 8, 2, 7
K = WIDTH // HEADS


def model_of(spec: mn.ModelSpec, depth: int = 2) -> mn.LanguageModel:
    """A small one in float64, away from its starting values."""
    small = spec.replace(width=WIDTH, depth=depth, heads=HEADS, vocabulary=VOCABULARY, ffn=1.0)
    return moved(mn.LanguageModel(small).double())


def moved(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def tokens_of(batch: int, time: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, time))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def logits_of(model: mn.LanguageModel, hidden: Tensor) -> Tensor:
    return hidden @ model.embedding.weight.T


def plain(model: mn.LanguageModel, x: Tensor) -> Tensor:
    """The blocks of the model on embeddings x (1, T, width), each layer from its fresh state; behind the last norm."""
    for block in model.blocks:
        x, _ = block(x, block.layer.init_state(len(x)), None)  # pyright: ignore
    return model.norm(x)


# Transformer-XL and LaMemo, literally: one query, one key at a time.


def sinusoid(distance: int) -> Tensor:
    frequency = [10000.0 ** (-2 * i / WIDTH) for i in range(WIDTH // 2)]
    return torch.tensor(
        [math.sin(distance * f) for f in frequency] + [math.cos(distance * f) for f in frequency], dtype=torch.float64
    )


def attend(
    layer: SegmentAttentionLayer, query: Tensor, keys: list[Tensor], distances: list[int], bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Answers (H, K) and logarithms of the sums (H,) to an input (width,) by inputs at these distances."""
    answers, sums = [], []
    for h in range(HEADS):
        part = slice(h * K, (h + 1) * K)
        q = (layer.query.weight @ query)[part]
        scores, values = [], []
        for key, distance in zip(keys, distances, strict=True):
            k, v = (layer.key_value.weight @ key).chunk(2)
            r = (layer.position.weight @ sinusoid(distance))[part]
            scores.append(((q + layer.content_bias[h]) @ k[part] + (q + bias[h]) @ r) / math.sqrt(K))
            values.append(v[part])
        weights = torch.stack(scores)
        sums.append(torch.logsumexp(weights, 0))
        answers.append(torch.softmax(weights, 0) @ torch.stack(values))
    return torch.stack(answers), torch.stack(sums)


def segment_by_segment(layer: SegmentAttentionLayer, x: Tensor) -> Tensor:
    """Section 3 of arXiv 1901.02860 on x (T, width)."""
    size, kept, outputs = layer.spec.segment, layer.spec.memory, []
    for t in range(len(x)):
        begin = t // size * size
        memory = range(max(0, begin - kept), begin)
        keys = [x[j].detach() for j in memory] + [x[j] for j in range(begin, t + 1)]
        o, _ = attend(layer, x[t], keys, [t - j for j in [*memory, *range(begin, t + 1)]], layer.past_bias)
        outputs.append(layer.out.weight @ o.flatten())
    return torch.stack(outputs)


XL = pytest.mark.parametrize(("segment", "memory"), [(3, 4), (4, 2), (3, 0), (2, 6), (20, 3), (1, 2)])


@XL
def test_transformer_xl_is_its_formula(segment: int, memory: int) -> None:
    """Outputs and gradients: the memory passes none on to what was put in, but to the weights."""
    layer = moved(SegmentAttention(segment, memory).build(WIDTH, HEADS).double())
    x = torch.randn(10, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = segment_by_segment(layer, x)
    y, _ = layer(x[None])
    close(y[0], expected)
    wanted = [x, *layer.parameters()]
    weight = torch.randn_like(expected)
    one, other = (torch.autograd.grad((z * weight).sum(), wanted) for z in (y[0], expected))
    for found, right in zip(one, other, strict=True):
        close(found, right)
    pieces, state = [], None
    for piece in x[None].split([1, 4, 2, 3], 1):  # the same gradients across calls
        y, state = layer(piece, state)
        pieces.append(y)
    for found, right in zip(torch.autograd.grad((torch.cat(pieces, 1)[0] * weight).sum(), wanted), other, strict=True):
        close(found, right)


def test_without_a_memory_segments_know_nothing_of_each_other() -> None:
    layer = moved(SegmentAttention(4, 0).build(WIDTH, HEADS).double())
    x = torch.randn(2, 11, WIDTH, dtype=torch.float64)
    close(layer(x)[0], torch.cat([layer(piece)[0] for piece in x.split(4, 1)], 1))


def test_a_memory_reaches_further_with_every_layer() -> None:
    """Through n layers, n segments back (figure 2 of the paper): here in what is computed, not in gradients."""
    tokens = tokens_of(1, 16)
    for depth in (1, 2, 3):
        model = model_of(mn.ModelSpec(pattern=(SegmentAttention(4, 4),)), depth)
        logits = model(tokens)[0]
        for segment in range(3):
            other = tokens.clone()
            other[0, 4 * segment] = (other[0, 4 * segment] + 1) % VOCABULARY
            reached = not torch.equal(model(other)[0][0, 12:], logits[0, 12:])
            assert reached == (segment >= 3 - depth), (depth, segment)


def literal_lamemo(model: mn.LanguageModel, tokens: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Logits (T, vocabulary) for tokens (T,), and after each refresh the logarithms of layer 0."""
    layer0: Any = model.layers()[0]
    size, kept = layer0.spec.segment, layer0.spec.memory
    old: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.blocks]  # by layer and token: answer, logarithm
    logits, history = [], []
    for begin in range(0, len(tokens), size):
        x = model.embedding(tokens[begin : begin + size])
        memory = range(max(0, begin - kept), begin)
        m = [model.embedding(tokens[j]).detach() for j in memory]
        for i, block in enumerate(model.blocks):
            layer: Any = block.layer
            own, before = block.norm(x), [block.norm(z) for z in m]  # pyright: ignore
            further = []
            if i < len(model.blocks) - 1:
                behind = [*before, own[0]]
                for place, j in enumerate(memory):
                    keys = behind[place + 1 :]
                    new, new_sum = attend(layer, before[place], keys, list(range(1, len(keys) + 1)), layer.future_bias)
                    answered, answered_sum = old[i][j]
                    alpha = (answered_sum.exp() / (answered_sum.exp() + new_sum.exp()))[:, None]
                    merged = alpha * answered + (1 - alpha) * new
                    old[i][j] = (merged.detach(), torch.logaddexp(answered_sum, new_sum).detach())
                    z = m[place] + layer.out.weight @ merged.flatten()
                    further.append(z + block.ffn(block.ffn_norm(z)))  # pyright: ignore
                if i == 0:
                    history.append([old[0][j][1] for j in range(begin)])
            outputs = []
            for t in range(len(x)):
                keys, distances = (
                    [*before, *own[: t + 1]],
                    [begin + t - j for j in [*memory, *range(begin, begin + t + 1)]],
                )
                o, total = attend(layer, own[t], keys, distances, layer.past_bias)
                old[i].append((o.detach(), total.detach()))
                outputs.append(layer.out.weight @ o.flatten())
            x = x + torch.stack(outputs)
            x = x + block.ffn(block.ffn_norm(x))  # pyright: ignore
            m = further
        logits.append(logits_of(model, model.norm(x)))
    return torch.cat(logits), history


LAMEMO = pytest.mark.parametrize(("segment", "memory"), [(3, 5), (4, 2), (2, 2), (1, 3)])


@LAMEMO
def test_lamemo_is_its_formula(segment: int, memory: int) -> None:
    """Logits and gradients of a whole model, streamed in pieces too; logarithms never fall."""
    model = model_of(mn.zoo.lamemo(segment=segment, memory=memory), 3)
    tokens = tokens_of(1, 9)
    expected, history = literal_lamemo(model, tokens[0])
    weight = torch.randn_like(expected)
    parameters = list(model.parameters())
    right = torch.autograd.grad((expected * weight).sum(), parameters, allow_unused=True)
    for cuts in ([9], [1, 3, 4, 1]):
        pieces, state = [], None
        for piece in tokens.split(cuts, 1):
            logits, state = model(piece, state)
            pieces.append(logits)
        found = torch.cat(pieces, 1)[0]
        close(found, expected)
        assert len(right) == len(parameters)
        for one, other in zip(torch.autograd.grad((found * weight).sum(), parameters), right, strict=True):
            assert other is not None
            close(one, other)
    for earlier, later in itertools.pairwise(history):
        for one, other in zip(earlier, later, strict=False):
            assert (other >= one).all()
    if memory > segment:  # a token that is refreshed twice
        assert any((other > one).all() for one, other in zip(history[-2], history[-1], strict=False))


def test_interpolation_is_one_softmax_over_both_sides() -> None:
    layer: Any = moved(SegmentAttention(5, 5, look_ahead=True).build(WIDTH, HEADS).double())
    x = torch.randn(1, 6, WIDTH, dtype=torch.float64)
    _, state = layer(x[:, :5])
    y, after = layer.refresh(x[:, :5], x[:, 5:], state, torch.tensor([True]))
    for i in range(5):
        for h in range(HEADS):
            scores, values = [], []
            for j in range(6):
                bias = layer.past_bias if j <= i else layer.future_bias
                o, score = attend(layer, x[0, i], [x[0, j]], [abs(i - j)], bias)
                scores.append(score[h])
                values.append(o[h])  # of one key alone: its value
            expected = torch.softmax(torch.stack(scores), 0) @ torch.stack(values)
            close(after["past.answers"][0, i, h * K : (h + 1) * K], expected, 1e-12)
            close(after["past.log_sum"][0, i, h], torch.logsumexp(torch.stack(scores), 0), 1e-12)
    close(y, after["past.answers"] @ layer.out.weight.T, 1e-12)
    assert (after["past.log_sum"] > state["past.log_sum"]).all()


def test_what_the_memory_is_answered_comes_from_behind() -> None:
    layer: Any = moved(SegmentAttention(4, 4, look_ahead=True).build(WIDTH, HEADS).double())
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    _, state = layer(x[:, :4])
    y, _ = layer.refresh(x[:, :4], x[:, 4:], state.detach(), torch.tensor([True]))
    for i in range(4):
        (gradient,) = torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        assert reached.tolist() == [j >= i for j in range(5)]  # at i itself by its query


def test_without_looking_ahead_lamemo_is_transformer_xl(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(mn.zoo.lamemo(segment=3, memory=4), 3)
    xl = mn.LanguageModel(model.spec.replace(pattern=(SegmentAttention(3, 4),), segments=None)).double()
    missing = xl.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys and all(name.endswith("future_bias") for name in missing.unexpected_keys)
    tokens = tokens_of(2, 14)
    expected = xl(tokens)[0]
    assert (model(tokens)[0] - expected).abs().max() > 1e-3
    softmax = SegmentAttentionLayer._softmax

    def blind(self: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        o, total = softmax(self, q, k, v, bias, *rest)
        return (o, total - 1e6) if bias is self.future_bias else (o, total)

    monkeypatch.setattr(SegmentAttentionLayer, "_softmax", blind)
    close(model(tokens)[0], expected, 1e-12)


def test_lamemo_sees_the_first_token_of_a_segment_only() -> None:
    """Later tokens change neither the memory nor earlier predictions; the first changes the memory."""
    model = model_of(mn.zoo.lamemo(segment=4, memory=4), 2)
    tokens = tokens_of(1, 8)

    def memory(changed: int) -> tuple[Tensor, Tensor]:
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % VOCABULARY
        _, state = model(other[:, :7])
        return state.child("1")["past"], model(other)[0]

    _, state = model(tokens[:, :7])
    past, logits = state.child("1")["past"], model(tokens)[0]
    found, other = memory(4)
    assert not torch.equal(found, past) and torch.equal(other[:, :4], logits[:, :4])
    for t in (5, 6):
        found, other = memory(t)
        assert torch.equal(found, past) and torch.equal(other[:, :t], logits[:, :t])
        assert not torch.equal(other[:, t:], logits[:, t:])


def test_logarithms_of_sums_never_fall() -> None:
    """Of every token in the memory of every block that looks ahead: they rise whenever a segment opens, and only then.
    The memory holds more than two segments, so that a token is refreshed several times."""
    size, kept = 2, 5
    model = model_of(mn.zoo.lamemo(segment=size, memory=kept), 3)
    last: dict[tuple[int, int], Tensor] = {}
    rises: dict[tuple[int, int], int] = {}
    state = None
    for t, token in enumerate(tokens_of(1, 12).split(1, 1), start=1):
        _, state = model(token, state)
        for layer in range(2):
            sums = state.child(str(layer))["past.log_sum"][0]
            for i in range(kept):
                key = (layer, t - t % size - kept + i)  # the token at this place
                if key[1] >= 0 and key in last:
                    assert (sums[i] > last[key]).all() if t % size == 1 else torch.equal(sums[i], last[key])
                    rises[key] = rises.get(key, 0) + (t % size == 1)
                last[key] = sums[i]
    assert max(rises.values()) == 3 and min(rises.values()) >= 1


def test_the_memory_is_first_in_first_out() -> None:
    model = model_of(mn.zoo.lamemo(segment=3, memory=5), 2)
    tokens, state = tokens_of(1, 12), None
    for begin in range(0, 12, 3):
        _, state = model(tokens[:, begin : begin + 3], state)
        past = state.child("segments")["past"][0]
        assert past.shape == (5, WIDTH) and state.child("0")["past.answers"].shape == (1, 5, WIDTH)
        seen = model.embedding(tokens[0, max(0, begin - 2) : begin + 3])
        close(past[5 - len(seen) :], seen)
        assert not past[: 5 - len(seen)].any()


# RMT


@pytest.mark.parametrize("pattern", ["rmt", "gated_deltanet"])
@pytest.mark.parametrize("count", [0, 2])
def test_rmt_is_its_formula(pattern: str, count: int) -> None:
    """[m; X; m] through all layers, afresh in each segment, whatever the layers are."""
    spec = mn.zoo.rmt(segment=4, tokens=count)
    if pattern != "rmt":
        spec = spec.replace(pattern=(getattr(mn.zoo, pattern)(),))
    model = model_of(spec)
    tokens = tokens_of(2, 14)
    assert model.carried is not None
    m = torch.zeros(2, 0, WIDTH, dtype=torch.float64)
    if count:
        m = model.carried.initial.expand(2, -1, -1)  # pyright: ignore
    expected = []
    for piece in tokens.split(4, 1):
        hidden = plain(model, torch.cat([m, model.embedding(piece), m], 1))
        expected.append(logits_of(model, hidden[:, count : count + piece.shape[1]]))
        m = hidden[:, hidden.shape[1] - count :]
    logits, state = model(tokens)
    close(logits, torch.cat(expected, 1))
    if count:
        _, state = model(tokens[:, :12])
        close(state.child("segments")["tokens"], plain_memory(model, tokens[:, :12], count))


def plain_memory(model: mn.LanguageModel, tokens: Tensor, count: int) -> Tensor:
    m = model.carried.initial.expand(2, -1, -1)  # pyright: ignore
    for piece in tokens.split(4, 1):
        m = plain(model, torch.cat([m, model.embedding(piece), m], 1))[:, -count:]
    return m


def test_rmt_in_one_segment_has_no_recurrence() -> None:
    model = model_of(mn.zoo.rmt(segment=32, tokens=3))
    tokens = tokens_of(2, 9)
    first = model.carried.initial.expand(2, -1, -1)  # pyright: ignore
    hidden = plain(model, torch.cat([first, model.embedding(tokens)], 1))
    close(model(tokens)[0], logits_of(model, hidden[:, 3:]))


def test_rmt_remembers_through_its_tokens_only() -> None:
    """Gradients reach the first segment from the third, and none where the state is detached between."""
    model = model_of(mn.zoo.rmt(segment=4, tokens=2))
    tokens = tokens_of(1, 12)
    other = tokens.clone()
    other[0, 1] = (other[0, 1] + 1) % VOCABULARY
    assert (model(tokens)[0] - model(other)[0])[0, 8:].abs().max() > 1e-6
    initial: Any = model.carried.initial  # pyright: ignore
    (gradient,) = torch.autograd.grad(model(tokens)[0][0, 8:].sum(), initial)
    assert gradient.abs().max() > 0
    _, state = model(tokens[:, :8])
    late, _ = model(tokens[:, 8:], state.detach())
    assert torch.autograd.grad(late.sum(), initial, allow_unused=True)[0] is None
    without = model_of(mn.zoo.rmt(segment=4, tokens=0))
    assert torch.equal(without(tokens)[0][0, 4:], without(other)[0][0, 4:])


# ARMT


def features_of(x: Tensor, order: int) -> Tensor:
    """Equation 37 of arXiv 2102.11174 for one vector, then of length 1."""
    r = [max(float(z), 0.0) for z in x] + [max(-float(z), 0.0) for z in x]
    made = [r[i] * r[(i - j) % len(r)] for j in range(1, order + 1) for i in range(len(r))]
    return torch.tensor(made, dtype=torch.float64)


def test_dpfp_is_its_formula() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    for order in (1, 2, 3):
        found = DPFP(order)(x)
        assert found.shape == (3, DPFP(order).width(4)) == (3, 8 * order)
        close(found, torch.stack([features_of(y, order) for y in x]))
        assert (found >= 0).all()
        close(DPFP(order, unit=True)(x), F.normalize(found, dim=-1))


def nothing(channels: int, values: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, channels, values, dtype=torch.float64), torch.zeros(1, channels, dtype=torch.float64)


def one(k: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pair as a batch of one row and one token."""
    return k[None, None], v[None, None], b[None, None]


def test_an_association_written_is_read_and_rewritten() -> None:
    k = features_of(torch.randn(4), 3)
    k = k / k.norm()
    v, w = torch.randn(2, 5, dtype=torch.float64)
    b = torch.tensor(1.0, dtype=torch.float64)
    matrix, z = associate(*one(k, v, b), *nothing(24, 5))
    assert torch.equal(z[0], k)  # at the first write all is news
    close(answer(k[None, None], matrix, z)[0, 0], v, 2e-5)
    matrix, again = associate(*one(k, w, b), matrix, z)
    close(again, z, 1e-12)  # and at the second nothing is
    close(answer(k[None, None], matrix, again)[0, 0], w, 4e-5)


def test_orthogonal_keys_are_kept_apart() -> None:
    """As many as there are features, however they are grouped, each rewritten without harm to the others."""
    keys = torch.eye(6, dtype=torch.float64)[None]
    values, b = torch.randn(1, 6, 5, dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64)
    for group in (1, 2, 6):
        state = nothing(6, 5)
        for at in range(0, 6, group):
            part = slice(at, at + group)
            state = associate(keys[:, part], values[:, part], b[:, part], *state)
        close(answer(keys, *state), values, 3e-5)
    changed = values.clone()
    changed[:, 2] = 7.0
    state = associate(keys[:, 2:3], changed[:, 2:3], b[:, 2:3], *state)
    close(answer(keys, *state), changed, 1e-4)


def test_keys_that_overlap_leave_a_bias() -> None:
    """After (k, v) and (k', v'), k' reads v' - (1 - c) v with c = k . k' / |k'|^2; the delta rule reads v'."""
    k, other = torch.rand(2, 6, dtype=torch.float64)
    other = 1 + other  # longer, so that c lies in (0, 1)
    v, w = torch.randn(2, 5, dtype=torch.float64)
    c = float(k @ other / (other @ other))
    assert 0.05 < c < 0.95
    b = torch.tensor(1.0, dtype=torch.float64)
    matrix, z = associate(*one(other, w, b), torch.outer(k, v)[None], k[None], epsilon=0.0)
    close(answer(other[None, None], matrix, z, 0.0)[0, 0], w - (1 - c) * v, 1e-12)

    other, k = other / other.norm(), k / k.norm()
    delta = mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(anchor=Chunk(1)))
    keys, values = torch.stack([k, other])[None, :, None], torch.stack([v, w])[None, :, None]
    _, state = mn.run(delta, keys, keys, values, {"rate": torch.ones(1, 2, 1, dtype=torch.float64)})
    close(delta.read(state, other[None, None])[0, 0], w, 1e-12)


def test_memory_tokens_write_in_no_order() -> None:
    generator = torch.Generator().manual_seed(1)
    k, v = (torch.rand(1, 5, n, dtype=torch.float64, generator=generator) for n in (8, 3))
    b = torch.rand(1, 5, dtype=torch.float64, generator=generator)
    before = associate(k.flip(2), v, b, *nothing(8, 3))
    order = torch.tensor([3, 0, 4, 2, 1])
    for found, expected in zip(
        associate(k[:, order], v[:, order], b[:, order], *before), associate(k, v, b, *before), strict=True
    ):
        close(found, expected, 1e-12)


def literal_armt(model: mn.LanguageModel, tokens: Tensor) -> Tensor:
    """Logits (T, vocabulary) for tokens (T,): every sum written out."""
    carried: Any = model.carried
    spec, epsilon = carried.spec, 1e-5 if carried.spec.normalise else 0.0
    memory = [nothing(6 * spec.key_dim, WIDTH) for _ in model.blocks]
    outputs = []

    def recall(q: Tensor, matrix: Tensor, z: Tensor) -> Tensor:
        return (q @ matrix[0]) / (q @ z[0] + epsilon if spec.normalise else 1.0)

    def f(x: Tensor) -> Tensor:
        return F.normalize(features_of(x, 3), dim=-1)

    with torch.no_grad():
        for s, piece in enumerate(tokens.split(spec.size)):
            x = torch.cat([model.embedding(piece), carried.tokens])
            for i, block in enumerate(model.blocks):
                own: Any = carried.memories[i]
                matrix, z = memory[i]
                if s:
                    x = x + torch.stack([recall(f(own.query.weight @ y), matrix, z) for y in x])
                x, _ = block(x[None], block.layer.init_state(1), None)  # pyright: ignore
                x = x[0]
                new, norm = matrix.clone(), z.clone()
                for o in x[-spec.count :]:
                    k, v, b = f(own.key.weight @ o), own.value.weight @ o, torch.sigmoid(own.rate(o))
                    gamma = torch.tensor(1.0)
                    if s:
                        v = v - recall(k, matrix, z)
                        gamma = (1 - (k @ z[0] + 1e-5) / (k @ k + 1e-5)).clamp(0, 1)
                    new[0] += b * torch.outer(k, v)
                    norm[0] += gamma * k
                memory[i] = (new, norm)
            outputs.append(logits_of(model, model.norm(x[: len(piece)])))
    return torch.cat(outputs)


@pytest.mark.parametrize("normalise", [True, False])
def test_armt_is_its_formula(normalise: bool) -> None:
    model = model_of(mn.zoo.armt(segment=4, tokens=3, key_dim=2, normalise=normalise))
    tokens = tokens_of(1, 14)
    expected = literal_armt(model, tokens[0])
    with torch.no_grad():
        close(model(tokens)[0][0], expected)
        pieces, state = [], None
        for piece in tokens.split([3, 6, 5], 1):
            logits, state = model(piece, state)
            pieces.append(logits)
        close(torch.cat(pieces, 1)[0], expected)


def test_armt_starts_as_the_model_without_a_memory() -> None:
    """W_v = 0: nothing is read, in any segment. And the first segment never reads, whatever the weights."""
    spec = mn.zoo.armt(segment=4, tokens=2, key_dim=2).replace(width=WIDTH, depth=2, heads=HEADS, vocabulary=VOCABULARY)
    model = mn.LanguageModel(spec).double()
    tokens = tokens_of(2, 10)
    last: Any = model.carried.tokens  # pyright: ignore

    def apart() -> Tensor:
        outputs = []
        for piece in tokens.split(4, 1):
            hidden = plain(model, torch.cat([model.embedding(piece), last.expand(2, -1, -1)], 1))
            outputs.append(logits_of(model, hidden[:, : piece.shape[1]]))
        return torch.cat(outputs, 1)

    close(model(tokens)[0], apart(), 1e-12)
    moved(model)
    logits, expected = model(tokens)[0], apart()
    close(logits[:, :4], expected[:, :4], 1e-12)
    assert (logits - expected)[:, 4:].abs().amin((0, 2)).max() > 1e-4


def test_armt_keeps_what_a_delta_rule_keeps() -> None:
    state = mn.LanguageModel(mn.zoo.armt(segment=4, tokens=2, key_dim=3).replace(width=8, depth=1, heads=1)).init_state(
        1
    )
    memory = state.child("segments").child("memory").child("0")
    assert memory["matrix"].shape == (1, 18, 8) and memory["normaliser"].shape == (1, 18)


# Memoria


SPEC = Engrams(size=4, working=3, short=5, long=6, reminded=3, reminded_long=2, depth=2, lifespan=4.0, extend=1.5)


def empty(spec: Engrams) -> dict[str, Tensor]:
    memory = spec.build(WIDTH, HEADS, [mn.zoo.sliding_window()]).double().fresh_state(torch.zeros(0).double())
    return {name: memory.child("memory")[name] for name in memory.child("memory").fresh}


class Engram:
    """One of the literal memory."""

    def __init__(self, vector: Tensor, life: float):
        self.vector, self.life, self.kind = vector, life, WORKING
        self.fired: dict[int, int] = {}  # by id


class Literal:
    """The paper's steps, engram by engram; the oldest first."""

    def __init__(self, spec: Engrams):
        self.spec = spec
        self.all: list[Engram] = []
        self.recalled: list[Engram] = []

    def of(self, kind: int) -> list[Engram]:
        return [e for e in self.all if e.kind == kind]

    def score(self, e: Engram) -> float:
        return sum(-float((e.vector - w.vector).square().sum()) for w in self.of(WORKING)) / len(self.of(WORKING))

    def best(self, among: list[Engram], count: int) -> list[Engram]:
        return sorted(among, key=lambda e: -self.score(e))[:count]  # stable: the older first

    def companion(self, e: Engram, found: list[Engram]) -> Engram | None:
        others = [o for o in self.of(LONG) if o not in found and e.fired.get(id(o), 0) > 0]
        return max(others, key=lambda o: e.fired[id(o)], default=None)  # the first of several

    def begin(self, vectors: Tensor) -> None:
        self.all += [Engram(v, self.spec.lifespan) for v in vectors]
        short = self.best(self.of(SHORT), self.spec.reminded)
        found: list[Engram] = []
        here: list[Engram | None] = [*short]
        for _ in range(self.spec.depth + 1):
            here = [None if e is None else self.companion(e, found) for e in here]
            found += [e for e in self.all if any(e is o for o in here) and e not in found]
        long = self.best([e for e in self.all if e in found], self.spec.reminded_long)
        self.recalled = [*short, *long]
        fired = [*self.of(WORKING), *self.recalled]
        for e in fired:
            for o in fired:
                e.fired[id(o)] = e.fired.get(id(o), 0) + 1

    def end(self, share: dict[int, float]) -> None:
        for e in self.recalled:
            e.life += self.spec.extend * len(self.recalled) * share[id(e)]
        for e in self.all:
            e.life -= 1
            e.kind = SHORT if e.kind == WORKING else e.kind
        for e in self.of(SHORT)[: max(0, len(self.of(SHORT)) - self.spec.short)]:
            e.kind = LONG
        self.all = [e for e in self.all if e.life > 0]
        surplus = max(0, len(self.of(LONG)) - self.spec.long)
        gone = sorted(self.of(LONG), key=lambda e: e.life)[:surplus]
        self.all = [e for e in self.all if e not in gone]
        self.recalled = []


def assert_same(store: dict[str, Tensor], literal: Literal) -> None:
    """The same engrams at the same places, whose identity no deletion has shifted."""
    n = len(literal.all)
    kinds = [e.kind for e in literal.all]
    assert store["kind"][0].tolist() == kinds + [NONE] * (store["kind"].shape[1] - n)
    if n:
        assert torch.equal(store["vectors"][0, :n], torch.stack([e.vector for e in literal.all]))
        close(store["life"][0, :n], torch.tensor([e.life for e in literal.all], dtype=torch.float64), 1e-12)
    counts = [[e.fired.get(id(o), 0) for o in literal.all] for e in literal.all]
    assert store["counts"][0, :n, :n].tolist() == counts
    assert not store["counts"][0, n:].any() and not store["counts"][0, :, n:].any()
    assert [e.vector.tolist() for e in literal.recalled] == [
        store["vectors"][0, i].tolist() for i in store["recalled"][0].tolist() if i >= 0
    ]


@pytest.mark.parametrize("clusters", [1, 4])
def test_memoria_is_its_steps(clusters: int) -> None:
    """Forty segments of vectors around a few centres, every step as told; and what must hold at every step."""
    spec, store, literal = SPEC, empty(SPEC), Literal(SPEC)
    centres = 3 * torch.randn(clusters, WIDTH, dtype=torch.float64)
    seen: set[int] = set()
    kept: list[Engram] = []  # so that no id is used twice
    reminded_long = 0
    for _ in range(40):
        vectors = centres[torch.randint(clusters, ())] + torch.randn(spec.working, WIDTH, dtype=torch.float64)
        store = remind(spec, born(spec, store, vectors[None]))
        literal.begin(vectors)
        kept += literal.all[-spec.working :]
        assert_same(store, literal)
        reminded_long += sum(e.kind == LONG for e in literal.recalled)
        counts = store["counts"][0]
        assert torch.equal(counts, counts.T) and (counts <= counts.diagonal()[:, None]).all()

        share = torch.softmax(2 * torch.randn(store["recalled"].shape[1], dtype=torch.float64), 0)
        share = torch.where(store["recalled"][0] >= 0, share, 0.0)
        places = [i for i in range(len(share)) if store["recalled"][0, i] >= 0]
        literal.end({id(e): float(share[i]) for i, e in zip(places, literal.recalled, strict=True)})
        store = aged(spec, store, share[None])
        assert_same(store, literal)
        assert (store["kind"] == SHORT).sum() <= spec.short and (store["kind"] == LONG).sum() <= spec.long
        assert not (store["kind"] == WORKING).any()
        seen |= set(store["kind"].unique().tolist())
    assert seen == {NONE, SHORT, LONG} and reminded_long > 10


def test_an_engram_that_nobody_uses_lives_for_its_lifespan() -> None:
    store = empty(SPEC)
    for step in range(1, 9):
        vectors = torch.randn(1, 3, WIDTH, dtype=torch.float64)
        store = aged(SPEC, remind(SPEC, born(SPEC, store, vectors)), torch.zeros(1, 5, dtype=torch.float64))
        alive = int((store["kind"] != NONE).sum())
        assert alive == 3 * min(step, 3)  # born with 4: gone at the end of its fourth segment, its own included


def test_equal_use_is_worth_the_extension() -> None:
    store = remind(SPEC, born(SPEC, aged_once(torch.randn(1, 3, WIDTH).double()), torch.randn(1, 3, WIDTH).double()))
    assert (store["recalled"] >= 0).sum() == 3
    share = (store["recalled"] >= 0).double() / 3
    close(aged(SPEC, store, share)["life"][0, :3], torch.full((3,), 3 - 1 + 1.5, dtype=torch.float64))


def aged_once(vectors: Tensor) -> dict[str, Tensor]:
    return aged(SPEC, remind(SPEC, born(SPEC, empty(SPEC), vectors)), torch.zeros(1, 5, dtype=torch.float64))


def test_the_short_term_memory_reminds_by_distance() -> None:
    vectors = torch.randn(1, 12, WIDTH, dtype=torch.float64)
    working = torch.arange(12)[None] >= 9
    score = nearness(vectors, working)
    brute = torch.stack([-(vectors[0, i] - vectors[0, 9:]).square().sum(-1).mean() for i in range(12)])
    close(score[0], brute, 1e-12)
    short = torch.arange(12)[None] < 7
    assert best(score, short, 4)[0].tolist() == brute[:7].topk(4).indices.tolist()
    assert best(score, short, 9)[0].tolist() == [*brute[:7].argsort(descending=True).tolist(), -1, -1]
    assert best(torch.zeros(1, 12), short, 3)[0].tolist() == [0, 1, 2]  # the older first


def test_at_depth_nothing_only_companions_are_found() -> None:
    spec = SPEC.replace(depth=0, reminded_long=6, lifespan=30.0)
    store, found = empty(spec), 0
    for _ in range(12):
        store = born(spec, store, torch.randn(1, 3, WIDTH, dtype=torch.float64))
        before, long = store["counts"][0].clone(), store["kind"][0] == LONG
        store = remind(spec, store)
        places = store["recalled"][0].tolist()
        direct = {int((before[i] * long).argmax()) for i in places[:3] if i >= 0 and (before[i] * long).any()}
        assert {i for i in places[3:] if i >= 0} == direct
        found += len(direct)
        store = aged(spec, store, torch.full((1, 9), 0.1, dtype=torch.float64))
    assert found > 3


def test_memoria_reads_as_its_blocks_say() -> None:
    """The third segment by hand: attention, then to the working engrams, then to the reminded, then the network."""
    model = model_of(mn.zoo.memoria(segment=4, working=3, short=6, long=4, reminded=2), 2)
    carried: Any = model.carried
    tokens, past = tokens_of(1, 12), None
    store, e, places = empty(carried.spec), torch.empty(0), torch.empty(0)
    for s, piece in enumerate(tokens.split(4, 1)):
        x, weights = model.embedding(piece), []
        if past is not None:
            a = carried.abstract
            e = torch.softmax(a.questions @ (past @ a.key.weight.T).mT, -1) @ (past @ a.value.weight.T)
            e = e @ a.up.weight.T @ a.down.weight.T
            store = remind(carried.spec, born(carried.spec, store, e))
            places = store["recalled"][0][store["recalled"][0] >= 0]
        for i, block in enumerate(model.blocks):
            attention = carried.attention[i]
            x = x + block.layer(block.norm(x))[0]  # pyright: ignore
            if past is not None:
                for norm, engrams in (
                    (attention.working_norm, e),
                    (attention.recalled_norm, store["vectors"][:, places]),
                ):
                    q = (norm(x) @ attention.query.weight.T).unflatten(-1, (HEADS, K))
                    k, v = (engrams @ attention.key_value.weight.T).chunk(2, -1)
                    k, v = k.unflatten(-1, (HEADS, K)), v.unflatten(-1, (HEADS, K))
                    p = torch.softmax(torch.einsum("bthk,bnhk->bhtn", q, k) / K**0.5, -1)
                    x = x + torch.einsum("bhtn,bnhk->bthk", p, v).flatten(-2) @ attention.out.weight.T
                weights.append(p.detach())
            x = x + block.ffn(block.ffn_norm(x))  # pyright: ignore
        hidden = model.norm(x)
        close(model(tokens)[0][:, 4 * s : 4 * s + 4], logits_of(model, hidden))
        if past is not None:
            share = torch.zeros(1, 4, dtype=torch.float64)
            share[0, : len(places)] = torch.stack(weights).mean((0, 1, 2, 3))
            share[0] = torch.zeros(4, dtype=torch.float64).masked_scatter(store["recalled"][0] >= 0, share[0])
            store = aged(carried.spec, store, share)
        past = hidden.detach()
    _, state = model(tokens)
    memory = state.child("segments").child("memory")
    for name in ("kind", "counts"):
        assert torch.equal(memory[name], store[name]), name
    close(memory["life"], store["life"])
    close(memory["vectors"], store["vectors"])
    assert (memory["life"][memory["kind"] != NONE] != memory["life"].round()[memory["kind"] != NONE]).any()


def test_memoria_passes_no_gradient_through_engrams() -> None:
    """Not to earlier segments' tokens, but to what makes engrams of their outputs."""
    model = model_of(mn.zoo.memoria(segment=4, working=3, short=6, long=4, reminded=2), 2)
    embedded: list[Tensor] = []

    def hear(module: Any, inputs: Any, output: Tensor) -> None:
        embedded.append(output)

    model.embedding.register_forward_hook(hear)
    tokens = tokens_of(1, 12)
    logits, _ = model(tokens)
    abstract: Any = model.carried.abstract  # pyright: ignore
    wanted = [embedded[0], abstract.questions, abstract.down.weight]
    gradient, *learned = torch.autograd.grad(logits[0, 8:].square().sum(), wanted)
    assert not gradient[0, :8].any() and gradient[0, 8:].any()
    assert all(g.any() for g in learned)
    other = tokens.clone()
    other[0, 1] = (other[0, 1] + 1) % VOCABULARY
    assert (model(other)[0] - logits)[0, 8:].abs().max() > 1e-9  # yet they are remembered


def test_numbers_that_are_not_finite_are_placed() -> None:
    """In the second segment too: the layer under way is counted anew in each."""
    model = model_of(mn.zoo.rmt(segment=4, tokens=2))

    def fail(norm: Any, inputs: Any, output: Tensor) -> Tensor:
        there = (inputs[0] == model.embedding.weight[6]).all(-1, keepdim=True)
        return torch.where(there, torch.inf, output)

    model.blocks[0].norm.register_forward_hook(fail)  # pyright: ignore
    with pytest.raises(Diverged) as caught:
        model(torch.tensor([[0, 1, 2, 0, 1, 2, 6, 3, 1, 0]]), checks=True)
    assert (caught.value.layer, caught.value.row, caught.value.token) == (0, 0, 6)


def test_costs_are_those_of_segments() -> None:
    """Per token as much at any length of whole segments, and more for every memory token."""
    costs = {}
    for tokens in (0, 4):
        model = mn.LanguageModel(mn.zoo.rmt(segment=16, tokens=tokens).replace(width=32, depth=2, heads=2))
        costs[tokens] = model.flops_per_token(64)
        assert model.flops_per_token(640) == pytest.approx(costs[tokens])
        assert f"segments of 16 tokens, one after another, with {tokens} memory tokens handed on" in model.explain(64)
    assert costs[4] > 1.3 * costs[0]


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a segment of nothing": (
        lambda: SegmentAttention(segment=0),
        InvalidValue,
        r"SegmentAttention\(segment=\) is a number of tokens of at least 1; got 0",
    ),
    "a negative memory": (
        lambda: SegmentAttention(memory=-1),
        InvalidValue,
        r"SegmentAttention\(memory=\) is a number of tokens of at least 0; got -1",
    ),
    "looking ahead from nothing": (
        lambda: SegmentAttention(memory=0, look_ahead=True),
        InvalidValue,
        "needs a memory to look ahead from: memory= of at least 1",
    ),
    "an odd width": (
        lambda: SegmentAttention().build(5, 1),
        InvalidValue,
        "sinusoids need an even width; got 5",
    ),
    "looking ahead without such layers": (
        lambda: mn.ModelSpec(pattern=(SegmentAttention(),), segments=LookAhead()),
        InvalidValue,
        r"all of them are the same SegmentAttention\(look_ahead=True\); got SegmentAttention\(\)",
    ),
    "looking ahead with unequal layers": (
        lambda: mn.ModelSpec(
            pattern=(SegmentAttention(look_ahead=True), SegmentAttention(8, look_ahead=True)), segments=LookAhead()
        ),
        InvalidValue,
        r"got SegmentAttention\(segment=8, look_ahead=True\)",
    ),
    "segments that are a number": (
        lambda: mn.ModelSpec(pattern=mn.zoo.transformer().pattern, segments=64),  # pyright: ignore
        InvalidType,
        r"segments= takes a Segments, for example MemoryTokens\(size=64\); got 64",
    ),
    "memory tokens in segments of nothing": (
        lambda: MemoryTokens(size=0),
        InvalidValue,
        r"MemoryTokens\(size=\) is a number of tokens of at least 1; got 0",
    ),
    "fewer than no memory tokens": (
        lambda: MemoryTokens(count=-1),
        InvalidValue,
        r"MemoryTokens\(count=\) is a number of tokens of at least 0; got -1",
    ),
    "associations without tokens": (
        lambda: Associative(count=0),
        InvalidValue,
        r"Associative\(count=\) is a whole number of at least 1; got 0",
    ),
    "features of no order": (
        lambda: DPFP(0),
        InvalidValue,
        r"DPFP\(order=\) is a number of shifts of at least 1; got 0",
    ),
    "no engrams": (
        lambda: Engrams(working=0),
        InvalidValue,
        r"Engrams\(working=\) is a whole number of at least 1; got 0",
    ),
    "a search of negative depth": (
        lambda: Engrams(depth=-1),
        InvalidValue,
        r"Engrams\(depth=\) is a number of steps of at least 0; got -1",
    ),
    "engrams born dead": (
        lambda: Engrams(lifespan=0.0),
        InvalidValue,
        r"Engrams\(lifespan=\) is a number of segments above 0; got 0",
    ),
    "use that kills": (
        lambda: Engrams(extend=-1.0),
        InvalidValue,
        r"Engrams\(extend=\) is a factor of at least 0; got -1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_declarations(name: str) -> None:
    make, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        make()
