"""Mixture of memories (MoM, arXiv 2502.13685) against its dense definition, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.errors import InvalidType, InvalidValue
from mnemos.layers import LayerSpec, Mixture, MixtureLayer, balanced
from mnemos.state import State

B, T, WIDTH, HEADS = 2, 70, 16, 2
GATED = mn.zoo.gated_deltanet()
LINEAR = mn.LayerSpec(mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD(rate=1.0)), norm="sum")
LEARNED = mn.LayerSpec(mn.Memory(mn.Matrix(learned=True), mn.L2(), mn.Decay()), keys=GATED.keys, rotation=True)
BASES = pytest.mark.parametrize("base", [GATED, mn.zoo.gla(), mn.zoo.titans_lmm(chunk=4), LEARNED], ids=str)


def make(spec: Mixture | LayerSpec) -> Any:
    layer = spec.build(WIDTH, HEADS).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def tokens(time: int = T, batch: int = B) -> Tensor:
    return torch.randn(batch, time, WIDTH, dtype=torch.float64)


def tell_all(mixture: Any, base: Any) -> None:
    """Every memory of the mixture, and all that they share, from a plain layer."""
    queries = base.sizes[0]
    shared = {n: x for n, x in base.state_dict().items() if n.split(".")[0] in ("conv", "norm", "gate", "out")}
    own = {n: x for n, x in base.state_dict().items() if n.split(".")[0] in ("controls", "initial")}
    mixture.layer.load_state_dict(shared | {"project.weight": base.project.weight[:queries]})
    for member in mixture.members:
        member.load_state_dict(own | {"key_value.weight": base.project.weight[queries:]})


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


@BASES
@pytest.mark.parametrize(("count", "active"), [(1, 1), (3, 3)])
def test_one_memory_or_many_like_it_that_all_tokens_go_to_are_the_base_layer(
    base: LayerSpec, count: int, active: int
) -> None:
    plain, mixture = make(base), make(Mixture(base, count=count, active=active))
    tell_all(mixture, plain)
    x = tokens()
    expected, _ = plain(x)
    assert_same(mixture(x)[0], expected)


def test_memories_alike_are_not_the_base_layer_where_tokens_go_to_some_only() -> None:
    plain, mixture = make(GATED), make(Mixture(GATED, count=3, active=2))
    tell_all(mixture, plain)
    x = tokens()
    assert float((mixture(x)[0] - plain(x)[0]).detach().abs().max()) > 1e-2


def dense(layer: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A mixture of gated delta rules token by token, each memory with a list of the tokens it has seen."""
    spec, inner = layer.spec, layer.layer
    size, heads, width = 4, layer.heads, inner.key_dim
    total = spec.count + spec.shared
    taps = inner.conv.weight  # (4, channels), the last one for the present token
    outputs, finals = [], []
    for row in x:
        states = [torch.zeros(heads, inner.value_dim, width, dtype=x.dtype) for _ in range(total)]
        seen: list[list[Tensor]] = [[] for _ in range(total)]
        answers = []
        for token in row:
            probability = torch.softmax(layer.router.linear.weight @ token, 0)
            chosen = sorted(range(spec.count), key=lambda m, p=probability: (-p.tolist()[m], m))[: spec.active]
            mass = sum(probability[m] for m in chosen)
            weight = {m: probability[m] / mass for m in chosen} | ({spec.count: 1.0} if spec.shared else {})
            answer = torch.zeros(heads, inner.value_dim, dtype=x.dtype)
            for m, w in weight.items():
                member = layer.members[m]
                seen[m].append(torch.cat([inner.project.weight @ token, member.key_value.weight @ token]))
                past = [torch.zeros_like(seen[m][0])] * size + seen[m]
                mixed = F.silu(sum(taps[i] * past[len(past) - size + i] for i in range(size)))
                q, k, v = (y.view(heads, -1) for y in mixed.split(inner.sizes))
                q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
                decay = member.controls["decay"](token[None, None])[0, 0]
                rate = member.controls["rate"](token[None, None])[0, 0]
                for h in range(heads):
                    kept = decay[h] * states[m][h]
                    states[m] = states[m].clone()
                    states[m][h] = kept - rate[h] * torch.outer(kept @ k[h] - v[h], k[h])
                answer = answer + w * torch.einsum("hvk,hk->hv", states[m], q)
            answers.append(answer)
        o = torch.stack(answers)
        o = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt() * inner.norm.gain
        outputs.append((o.flatten(-2) * F.silu(row @ inner.gate.weight.mT)) @ inner.out.weight.mT)
        finals.append(torch.stack(states))
    return torch.stack(outputs), [torch.stack([f[m] for f in finals]) for m in range(total)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("count", "active"), [(1, 1), (4, 1), (4, 2), (5, 3)])
def test_regrouped_is_the_dense_recurrence(count: int, active: int, shared: bool) -> None:
    """Outputs, states and gradients, the router's among them."""
    layer = make(Mixture(GATED, count=count, active=active, shared=shared))
    x = tokens(45)
    out, state = layer(x)
    expected, finals = dense(layer, x)
    assert_same(out, expected)
    for m, final in enumerate(finals):
        assert_same(state.child(str(m)).child("memory")["matrix"], final)
    parameters = dict(layer.named_parameters())
    found = torch.autograd.grad(out.square().sum(), list(parameters.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected.square().sum(), list(parameters.values()), allow_unused=True)
    for name, one, other in zip(parameters, found, wanted, strict=True):
        assert one is not None and other is not None, name
        assert_same(one, other, 1e-8)
    assert bool(found[list(parameters).index("router.linear.weight")].abs().max() > 1e-6) == (active > 1)


def bits(state: State) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.tensors()}


@pytest.mark.parametrize("grad", [True, False])
@BASES
def test_memories_that_a_token_does_not_go_to_are_left_alone_to_the_last_bit(base: LayerSpec, grad: bool) -> None:
    layer = make(Mixture(base, count=4, active=2, shared=True))
    with torch.set_grad_enabled(grad):
        _, state = layer(tokens(11))
        for time in (1, 1, 1, 2):
            x = tokens(time)
            picked = layer.router(x, torch.ones(B, time, dtype=torch.bool)).picked.any(1)
            before = [bits(state.child(str(m))) for m in range(5)]
            _, state = layer(x, state)
            for m in range(5):
                after = bits(state.child(str(m)))
                for row in range(B):
                    same = all(torch.equal(after[n][row], before[m][n][row]) for n in after)
                    assert same != (m == 4 or bool(picked[row, m])), (m, row)


def test_memories_may_change_places() -> None:
    layer = make(Mixture(GATED, count=4, active=2, shared=True))
    other = make(Mixture(GATED, count=4, active=2, shared=True))
    order = [2, 0, 3, 1, 4]
    other.load_state_dict(layer.state_dict())
    for new, old in enumerate(order):
        other.members[new].load_state_dict(layer.members[old].state_dict())
    with torch.no_grad():
        other.router.linear.weight.copy_(layer.router.linear.weight[order[:4]])
    x = tokens()
    assert_same(other(x)[0], layer(x)[0])


def test_ties_go_to_the_lower_index() -> None:
    layer = make(Mixture(GATED, count=4, active=2))
    with torch.no_grad():
        layer.router.linear.weight.zero_()
    picked = layer.router(tokens(), torch.ones(B, T, dtype=torch.bool)).picked
    assert bool(picked[..., :2].all()) and not bool(picked[..., 2:].any())


def test_the_normaliser_counts_a_memorys_own_tokens() -> None:
    """With norm="sum", what a memory answers is a mean of the values of its own tokens."""
    layer = make(Mixture(LINEAR.replace(keys=mn.zoo.linear_attention().keys), count=3, active=1))
    x, constant = tokens(), torch.linspace(-1, 1, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for member in layer.members:  # all values alike, whatever the token
            member.key_value.weight[WIDTH:] = 0.0
        layer.layer.out.weight.copy_(torch.eye(WIDTH))
    assert not layer(x)[0].any()
    x[..., 0] = 1.0
    with torch.no_grad():
        for member in layer.members:
            member.key_value.weight[WIDTH:, 0] = constant
    out, _ = layer(x)
    assert_same(out, constant.expand_as(out), 1e-4)


def switch_loss(layer: Any, x: Tensor) -> Tensor:
    """count * sum_m f_m P_m, counted token by token."""
    count, active = layer.spec.count, layer.spec.active
    picks, mass = [0] * count, [torch.zeros((), dtype=x.dtype)] * count
    rows = x.flatten(0, 1)
    for token in rows:
        p = torch.softmax(layer.router.linear.weight @ token, 0)
        for m in p.topk(active).indices.tolist():
            picks[m] += 1
        mass = [mass[m] + p[m] for m in range(count)]
    shares = [picks[m] / (active * len(rows)) * mass[m] / len(rows) for m in range(count)]
    return count * torch.stack(shares).sum()


def test_balance() -> None:
    layer = make(Mixture(GATED, count=4, active=2))
    x = tokens()
    assert_same(layer.balance(x), switch_loss(layer, x))
    mask = torch.rand(B, T) < 0.5
    assert_same(layer.balance(x, mask), switch_loss(layer, x[mask][None]))
    with torch.no_grad():
        layer.router.linear.weight.zero_()
        assert float(layer.balance(x)) == pytest.approx(1.0)
        layer.router.linear.weight[3] = 100.0  # one memory gets all the probability, two half of the picks each
        assert float(layer.balance(x.abs())) == pytest.approx(2.0)


def mixture_model(depth: int) -> mn.LanguageModel:
    pattern = (Mixture(GATED, count=4, active=1, balance=0.5), GATED)
    return mn.LanguageModel(mn.ModelSpec(pattern=pattern, width=16, depth=depth, heads=2)).double()


def test_the_balance_loss_of_a_model() -> None:
    """The sum over its mixtures, heard while the context is open; padding does not count, documents do."""
    model = mixture_model(depth=4)
    ids = torch.randint(0, 257, (2, 40))
    given: list[Tensor] = []
    hooks = [
        model.blocks[i].norm.register_forward_hook(lambda module, args, out: given.append(out))  # pyright: ignore
        for i in (0, 2)
    ]
    with balanced(model) as balance:
        model(ids)
    model(torch.zeros_like(ids))
    for hook in hooks:
        hook.remove()
    mixtures = [layer for layer in model.layers() if isinstance(layer, MixtureLayer)]
    by_hand = sum(0.5 * layer.balance(x) for layer, x in zip(mixtures, given[:2], strict=True))
    assert_same(torch.as_tensor(balance()), torch.as_tensor(by_hand))

    model = mixture_model(depth=1)
    mask, reset = torch.rand(2, 40) < 0.8, torch.rand(2, 40) < 0.1
    with balanced(model) as balance:
        model(ids, mask=mask, reset=reset)
    (mixture,) = model.layers()
    assert isinstance(mixture, MixtureLayer)
    real = model.blocks[0].norm(model.embedding(ids))[mask][None]  # pyright: ignore
    assert_same(torch.as_tensor(balance()), 0.5 * mixture.balance(real))

    with balanced(mn.LanguageModel(mn.ModelSpec(pattern=(GATED,), width=16, depth=1, heads=2))) as balance:
        pass
    assert balance() == 0.0


def test_the_balance_loss_evens_the_routing_out() -> None:
    layer = make(Mixture(GATED, count=4, active=1))
    x = tokens() + 1.0
    with torch.no_grad():
        layer.router.linear.weight[0] += 0.3  # nearly everything goes to the first
    before = layer.balance(x).item()
    optimizer = torch.optim.SGD(layer.router.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        layer.balance(x).backward()
        optimizer.step()
    assert before > 2.0 and layer.balance(x).item() < 1.2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 0}, InvalidValue, "count"),
        ({"count": 2, "active": 3}, InvalidValue, "active"),
        ({"active": 0}, InvalidValue, "active"),
        ({"balance": -1.0}, InvalidValue, "balance"),
        ({"layer": mn.LayerSpec(mn.KVMemory())}, InvalidValue, "key-value"),
        ({"layer": mn.zoo.titans_lmm(persistent=2)}, InvalidValue, "persistent"),
        ({"layer": mn.Memory()}, InvalidType, "LayerSpec"),
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Mixture(**({"layer": GATED} | options))  # pyright: ignore
