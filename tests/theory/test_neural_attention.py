"""What attention with a network's scores must satisfy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import LearnedWeights
from mnemos.memory import AdaptiveFilter, MLPScores

B, T, H, K = 2, 17, 2, 3


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-12) -> None:
    assert one.shape == other.shape and float((one - other).detach().abs().max()) <= tolerance


def averaged(scores: Tensor, v: Tensor) -> Tensor:
    """The causal softmax average of v (B, T, H, V) by scores (B, H, T, T)."""
    later = torch.ones(scores.shape[-2:]).triu(1).bool()
    return torch.einsum("bhts,bshv->bthv", scores.masked_fill(later, -torch.inf).softmax(-1), v)


def inputs(time: int = T, key_dim: int = K) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(B, time, H, key_dim, dtype=torch.float64) for _ in range(3))
    return q, k, v


def same_for_all(**values: Tensor) -> Any:
    """Controls (B, T, H, count) of numbers that no token changes."""

    def of(time: int, heads: int = H) -> dict[str, Tensor]:
        return {name: x.double().flatten().expand(B, time, heads, -1) for name, x in values.items()}

    return of


def network(hidden: int, key_dim: int = K) -> dict[str, Tensor]:
    return {
        "first_bias": torch.randn(key_dim),
        "second_weight": torch.randn(hidden, key_dim),
        "second_bias": torch.randn(hidden),
        "third_weight": torch.randn(hidden),
    }


def test_a_layer_is_the_papers_network_on_queries_beside_keys() -> None:
    """Projection, reduction with a bias, a network on [q'; k'] of widths 2h', h', h'/2, 1: all folded into ours. The
    last bias changes nothing."""
    width, size, small, hidden = 16, 8, 4, 2
    layer = mn.zoo.neural_attention(key_expand=H * small / width, hidden=hidden).build(width, H).double()
    w_q, w_k = (torch.randn(H, size, width, dtype=torch.float64) for _ in range(2))
    (a_q, b_q), (a_k, b_k) = (
        (torch.randn(small, size, dtype=torch.float64), torch.randn(small, dtype=torch.float64)) for _ in range(2)
    )
    w_1, b_1 = torch.randn(small, 2 * small, dtype=torch.float64), torch.randn(small, dtype=torch.float64)
    w_2, b_2 = torch.randn(hidden, small, dtype=torch.float64), torch.randn(hidden, dtype=torch.float64)
    w_3, b_3 = torch.randn(hidden, dtype=torch.float64), torch.randn((), dtype=torch.float64)

    x = torch.randn(B, T, width, dtype=torch.float64)
    q, k = (torch.einsum("btw,hkw->bthk", x, w) @ a.T + b for w, a, b in ((w_q, a_q, b_q), (w_k, a_k, b_k)))
    both = torch.cat([q[:, :, None].expand(-1, -1, T, -1, -1), k[:, None].expand(-1, T, -1, -1, -1)], -1)
    scores = F.relu(F.relu(both @ w_1.T + b_1) @ w_2.T + b_2) @ w_3 + b_3  # (B, T, T, H)
    v = layer.project(x)[..., 2 * H * small :].unflatten(-1, (H, -1))
    expected = averaged(scores.movedim(-1, 1), v).flatten(-2) @ layer.out.weight.T

    with torch.no_grad():
        rows_q, rows_k, _ = layer.project.weight.split(layer.sizes)
        rows_q.copy_((w_1[:, :small] @ a_q @ w_q).flatten(0, 1))
        rows_k.copy_((w_1[:, small:] @ a_k @ w_k).flatten(0, 1))
        first_bias = w_1[:, :small] @ b_q + w_1[:, small:] @ b_k + b_1
        given = {"first_bias": first_bias, "second_weight": w_2, "second_bias": b_2, "third_weight": w_3}
        for name, value in given.items():
            layer.controls[name].get_parameter("weight").copy_(value.flatten())
    assert_same(layer(x)[0], expected)


def test_no_last_layer_no_preference() -> None:
    q, k, v = inputs()
    controls = same_for_all(**network(4) | {"third_weight": torch.zeros(4)})
    out, _ = mn.run(mn.KVMemory(read=MLPScores(4)), q, k, v, controls(T))
    assert_same(out, v.cumsum(1) / torch.arange(1, T + 1)[:, None, None])


def test_no_second_layer_no_preference() -> None:
    q, k, v = inputs()
    controls = same_for_all(**network(4) | {"second_weight": torch.zeros(4, K)})
    out, _ = mn.run(mn.KVMemory(read=MLPScores(4)), q, k, v, controls(T))
    assert_same(out, v.cumsum(1) / torch.arange(1, T + 1)[:, None, None])


def test_a_last_bias_would_change_nothing_and_learn_nothing() -> None:
    """A unit that is always 1 has the bias for its weight."""
    q, k, v = inputs()
    own = network(4)
    expected, _ = mn.run(mn.KVMemory(read=MLPScores(4)), q, k, v, same_for_all(**own)(T))
    own["second_weight"] = torch.cat([own["second_weight"], torch.zeros(1, K)])
    own["second_bias"] = torch.cat([own["second_bias"], torch.ones(1)])
    own["third_weight"] = torch.cat([own["third_weight"], torch.tensor([0.7])])
    controls = same_for_all(**own)(T)
    third = controls["third_weight"].clone().requires_grad_()
    out, _ = mn.run(mn.KVMemory(read=MLPScores(5)), q, k, v, controls | {"third_weight": third})
    assert_same(out, expected)
    (gradient,) = torch.autograd.grad(out.square().sum(), third)
    assert float(gradient[..., 4].abs().max()) < 1e-13 < 1e-3 < float(gradient[..., :4].abs().max())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_without_a_nonlinearity_the_query_has_no_say(activation: str) -> None:
    """Units that are far on their positive side are linear: what q adds is then the same for all keys."""
    memory = mn.KVMemory(read=MLPScores(4, activation=activation))  # pyright: ignore[reportArgumentType]
    q, k, v = inputs()
    own = network(4)
    far = own | {"first_bias": torch.full((K,), 50.0), "second_bias": torch.full((4,), 1e4)}
    one, other = (mn.run(memory, queries, k, v, same_for_all(**far)(T))[0] for queries in (q, torch.randn_like(q)))
    assert_same(one, other, 1e-9)
    assert float((one[:, -1] - v.mean(1)).abs().max()) > 1e-2  # the keys have
    one, other = (mn.run(memory, queries, k, v, same_for_all(**own)(T))[0] for queries in (q, torch.randn_like(q)))
    assert float((one - other).abs().max()) > 0.1


def test_few_channels_find_the_nearest_number() -> None:
    """s = C - 1000 |a - b| by two units relu(a - b), relu(b - a): what no dot product of two channels can score."""
    numbers = torch.rand(B, T, H, 1, dtype=torch.float64)
    asked = numbers.gather(
        1, torch.randint(0, T, (B, T, 1, 1)).minimum(torch.arange(T)[:, None, None]).expand(-1, -1, H, 1)
    )
    q, k = torch.cat([asked, -asked], -1), torch.cat([-numbers, numbers], -1)
    controls = same_for_all(
        first_bias=torch.zeros(2),
        second_weight=-1e5 * torch.ones(1, 2),
        second_bias=torch.tensor([1e6]),
        third_weight=torch.ones(1),
    )
    out, _ = mn.run(mn.KVMemory(read=MLPScores(1)), q, k, numbers, controls(T))
    assert_same(out, asked, 1e-3)


def test_dot_products_are_a_limit() -> None:
    """gelu(x) + gelu(-x) is sqrt(2 / pi) x^2 near zero, and (a + b)^2 - (a - b)^2 = 4 a b."""
    q, k, v = inputs()
    expected = averaged(torch.einsum("bthk,bshk->bhts", q, k), v)
    both = (torch.cat([q, -q, q, -q], -1), torch.cat([k, -k, -k, k], -1))
    errors = []
    for small in (0.1, 0.01):
        signs = torch.cat([torch.ones(2 * K), -torch.ones(2 * K)]).double() / (4 * small**2 * (2 / torch.pi) ** 0.5)
        controls = same_for_all(
            first_bias=torch.zeros(4 * K),
            second_weight=signs,
            second_bias=torch.tensor([100.0]),  # far on the linear side
            third_weight=torch.ones(1),
        )
        memory = mn.KVMemory(read=MLPScores(1, activation="gelu"))
        out, _ = mn.run(memory, small * both[0], small * both[1], v, controls(T))
        errors.append(float((out - expected).abs().max()))
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 50  # of second order


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that anything returns."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.size = max(self.size, x.numel())
        return out


@pytest.mark.parametrize("read", [MLPScores(2), AdaptiveFilter()], ids=str)
def test_no_tensor_of_tokens_by_tokens_by_channels(read: MLPScores | AdaptiveFilter) -> None:
    time, key_dim = 512, 8
    q, k, v = inputs(time, key_dim)
    controls = {}
    for control in mn.KVMemory(read=read).controls:
        size = control.size(key_dim, key_dim)
        shape = (B, time, H) if size is None else (B, time, H, size)
        controls[control.name] = torch.rand(shape, dtype=torch.float64).clamp(min=1e-3)
    with Largest() as largest, torch.no_grad():
        mn.run(mn.KVMemory(read=read), q, k, v, controls)
    channels = key_dim if isinstance(read, MLPScores) else 1
    assert largest.size <= B * H * 64 * time * channels


def test_blocks_of_queries_are_the_whole() -> None:
    q, k, v = inputs(150)
    own = network(2)
    first = F.relu(q[:, :, None] + k[:, None] + own["first_bias"])
    second = F.relu(first @ own["second_weight"].double().T + own["second_bias"])
    scores = (second @ own["third_weight"].double()).movedim(-1, 1)
    out, _ = mn.run(mn.KVMemory(read=MLPScores(2)), q, k, v, same_for_all(**own)(150), plan="query blocks")
    assert_same(out, averaged(scores, v))


def test_one_network_for_all_heads_or_one_a_head() -> None:
    for per_head, number in ((False, 1), (True, 4)):
        layer = mn.zoo.neural_attention(per_head=per_head, hidden=3).build(64, 4)
        shapes = {name: tuple(rule.get_parameter("weight").shape) for name, rule in layer.controls.items()}
        wanted = {"first_bias": 2, "second_weight": 6, "second_bias": 3, "third_weight": 3}
        assert shapes == {name: (number, size) for name, size in wanted.items()}


def test_the_network_is_counted() -> None:
    """For a pair: K sums and activations, a matrix of hidden x K, its layer's weights, and the value."""
    layer = mn.zoo.neural_attention(hidden=3).build(64, 4)
    pairs = 4 * 128 * 128 / 2
    assert layer.plan(128).flops == pairs * 2 * (2 * 3 + 2 + 3 + 16)
    assert mn.KVMemory(read=MLPScores(3)).step_flops(2, 16, 100) == 100 * 2 * (2 * 3 + 2 + 3 + 16)


def test_bad_options_are_named() -> None:
    with pytest.raises(InvalidValue, match=r"MLPScores\(hidden=\) is a width of at least 1; got 0"):
        MLPScores(0)
    with pytest.raises(InvalidValue, match='is "relu" or "gelu"'):
        MLPScores(activation="tanh")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidType, match="mask= takes a Mask"):
        MLPScores(mask=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidValue, match=r"LearnedWeights\(rows=\)"):
        LearnedWeights(0)
    with pytest.raises(InvalidValue, match=r"use Learned\(\) for a single number"):
        LearnedWeights().build(8, 2, None)
    q, k, v = inputs()
    controls = same_for_all(**network(4))(T)
    with pytest.raises(InvalidValue, match=r"control 'second_weight' must have shape .* = \(2, 17, 2, 12\)"):
        mn.run(mn.KVMemory(read=MLPScores(4)), q, k, v, controls | {"second_weight": controls["first_bias"]})
