"""Higher-order linear attention (arXiv 2510.27258), held against its masked matrix formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mnemos as mn
from mnemos.layers import Elu
from mnemos.memory import HigherOrder
from mnemos.state import State

B, T, H, K, V = 2, 37, 2, 4, 3
FORMS = ("second", "asymmetric", "third")
PLANS = ("nested sums", "loop", "reference")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tokens(time: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return normal(B, time, H, K), F.normalize(normal(B, time, H, K), dim=-1), normal(B, time, H, V)


def some_decay(time: int = T) -> Tensor:
    """In [0.5, 1], with exact zeros and ones among them."""
    decay = 0.5 + 0.5 * torch.rand(B, time, H, dtype=torch.float64)
    decay[:, 3::7], decay[0, 11::13] = 1.0, 0.0
    return decay


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-11) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


def by_time(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def between(decay: Tensor) -> Tensor:
    """D_ts = prod_{s < i <= t} decay_i for s <= t, 0 otherwise: (B, T, H) -> (B, H, T, T)."""
    batch, time, heads = decay.shape
    d = torch.zeros(batch, heads, time, time, dtype=torch.float64)
    for t in range(time):
        for s in range(t + 1):
            d[:, :, t, s] = decay[:, s + 1 : t + 1].prod(1)
    return d


def masked(form: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, asked: Tensor | None = None) -> Tensor:
    """The outputs as products of (T, T) matrices; `asked`: written queries that are not those that read."""
    d = between(decay)
    w = d * (by_time(q) @ by_time(k).mT)
    inner = d * (by_time(q if asked is None else asked) @ by_time(k).mT)
    full = by_time(k) @ by_time(q if asked is None else asked).mT  # (k_i . q_j)
    if form == "second":
        mixed = d * (w @ full.triu())
    elif form == "asymmetric":
        mixed = w @ inner
    else:
        mixed = (d * ((by_time(q) @ by_time(k).mT) @ inner.mT)) @ inner
    return by_time(mixed @ by_time(v))


def ran(form: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None = None, plan: str | None = None) -> Tensor:
    controls = {"query": q} | ({} if decay is None else {"decay": decay})
    return mn.run(HigherOrder(form, decay=decay is not None), q, k, v, controls, plan=plan)[0]  # pyright: ignore


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("form", FORMS)
def test_the_masked_matrix_formula_with_decay(form: str, plan: str) -> None:
    q, k, v = tokens()
    decay = some_decay()
    assert_same(ran(form, q, k, v, decay, plan), masked(form, q, k, v, decay))


@pytest.mark.parametrize("form", FORMS)
def test_the_papers_formulas_without_decay(form: str) -> None:
    """((W W^T) * L) V, W W V and (((W W^T) * L) W) V with W = L * (Q K^T)."""
    q, k, v = tokens()
    w = (by_time(q) @ by_time(k).mT).tril()
    mixed = {"second": (w @ w.mT).tril(), "asymmetric": w @ w, "third": (w @ w.mT).tril() @ w}[form]
    expected = by_time(mixed @ by_time(v))
    assert_same(ran(form, q, k, v), expected)
    assert_same(ran(form, q, k, v, torch.ones(B, T, H, dtype=torch.float64)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_the_sums_one_by_one(form: str) -> None:
    """o_t written out as sums over single tokens, for a short sequence."""
    time = 5
    q, k, v = tokens(time)
    decay = some_decay(time)
    d = between(decay)
    out = torch.zeros(B, time, H, V, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            dot = q[b, :, h] @ k[b, :, h].T  # (query, key)
            for t in range(time):
                for i in range(time):
                    for j in range(t + 1):
                        if form == "second" and i <= j:
                            weight = d[b, h, t, i] * d[b, h, t, j] * dot[t, i] * dot[j, i]
                        elif form == "asymmetric" and j <= i <= t:
                            weight = d[b, h, t, i] * dot[t, i] * d[b, h, i, j] * dot[i, j]
                        elif form == "third":
                            weight = sum(
                                d[b, h, t, u] * d[b, h, u, i] * d[b, h, u, j] * dot[t, i] * dot[u, i] * dot[u, j]
                                for u in range(max(i, j), t + 1)
                            )
                        else:
                            continue
                        out[b, t, h] += weight * v[b, j, h]
    assert_same(ran(form, q, k, v, decay), out)


@pytest.mark.parametrize("form", FORMS)
def test_written_queries_apart_from_those_that_read(form: str) -> None:
    q, k, v = tokens()
    asked, decay = normal(B, T, H, K), some_decay()
    out, _ = mn.run(HigherOrder(form, decay=True), q, k, v, {"query": asked, "decay": decay})  # pyright: ignore
    assert_same(out, masked(form, q, k, v, decay, asked))


def test_without_the_correction_the_future_is_seen() -> None:
    """q^T S C is row t of (Q K^T)(K Q^T) V over all pairs of tokens up to t; G takes out the keys later than their
    value, and nothing else."""
    q, k, v = tokens()
    _, state = mn.run(HigherOrder(), q, k, v, {"query": q})
    final, past = by_time(q)[:, :, -1:], (by_time(q), by_time(k), by_time(v))
    everything = (final @ past[1].mT) @ (past[1] @ past[0].mT) @ past[2]
    assert_same(final @ state["key_sum"] @ state["query_sum"], everything)
    late = (final @ past[1].mT) @ (past[1] @ past[0].mT).tril(-1) @ past[2]
    assert_same(final @ state["late_sum"], late)


def test_the_papers_decay_of_the_correction_leaves_the_future_in() -> None:
    """G_t = g G_t-1 + k k^T C_t-1 as printed is another number than the sum over keys no later than their value."""
    q, k, v = tokens(9)
    g = 0.8
    s = torch.zeros(B, H, K, K, dtype=torch.float64)
    c = torch.zeros(B, H, K, V, dtype=torch.float64)
    late = c.clone()
    for t in range(9):
        key, query, value = k[:, t, :, :, None], q[:, t, :, :, None], v[:, t, :, None]
        late = g * late + key @ (key.mT @ c)
        s, c = g * s + key @ key.mT, g * c + query @ value
    printed = (q[:, -1, :, None] @ (s @ c - late))[:, :, 0]
    ours = ran("second", q, k, v, torch.full((B, 9, H), g, dtype=torch.float64))[:, -1]
    assert float((printed - ours).abs().max()) > 1e-3


def segment(form: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The sums of a segment that starts from nothing, and its whole decay (B, H, 1, 1)."""
    _, state = mn.run(HigherOrder(form, decay=True), q, k, v, {"query": q, "decay": decay})  # pyright: ignore
    return {n: x for n, x in state.entries.items() if not isinstance(x, State)}, decay.prod(1)[..., None, None]


def joined(one: tuple[dict[str, Tensor], Tensor], other: tuple[dict[str, Tensor], Tensor]) -> tuple:
    """The second order's sums of two segments one behind the other: the corrected monoid."""
    (a, decay_a), (b, rho) = one, other
    late = rho**2 * a["late_sum"] + b["late_sum"] + b["key_sum"] @ (rho * a["query_sum"])
    both = {
        "key_sum": rho * a["key_sum"] + b["key_sum"],
        "query_sum": rho * a["query_sum"] + b["query_sum"],
        "late_sum": late,
    }
    return both, decay_a * rho


def test_segments_join_associatively() -> None:
    q, k, v = tokens(21)
    decay = 0.5 + 0.5 * torch.rand(B, 21, H, dtype=torch.float64)
    cuts = [slice(0, 6), slice(6, 15), slice(15, 21)]
    one, two, three = (segment("second", q[:, c], k[:, c], v[:, c], decay[:, c]) for c in cuts)
    left, right = joined(joined(one, two), three), joined(one, joined(two, three))
    whole = segment("second", q, k, v, decay)
    for name, x in whole[0].items():
        assert_same(left[0][name], x)
        assert_same(right[0][name], x)


def products(form: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> dict[str, Tensor]:
    """What joining two segments of the other orders takes beside their sums: sums of outer products without decay, and
    the last segment's whole decay."""
    heads = [x.transpose(1, 2) for x in (q, k)]
    found = {"decay": decay.prod(1)[..., None, None], "crossed": heads[1].mT @ heads[0]}
    if form == "third":
        sums = torch.zeros(B, H, K, K, dtype=torch.float64), torch.zeros(B, H, K, V, dtype=torch.float64)
        held = [sums[0], sums[1], sums[0], sums[1], sums[0]]
        for t in range(q.shape[1]):
            query, key, value = q[:, t, :, :, None], k[:, t, :, :, None], v[:, t, :, None]
            key_sum, value_sum = held[0] + key @ key.mT, held[1] + key @ value
            asked = query @ query.mT
            held = [key_sum, value_sum, held[2] + asked, held[3] + asked @ value_sum, held[4] + key_sum @ asked]
        found |= {"query_square": held[2], "query_value": held[3], "key_query": held[4]}
    return found


def joined_in(form: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Asymmetric: E = rho_B (E_A + R_B P_A) + E_B, R without decay. Third, without decay: H = H_A + H_B + S_A X_B +
    Y_B P_A + S_A Q_B P_A with X = sum q q^T P and Y = sum S q q^T."""
    rho = other["decay"]
    both = {"decay": one["decay"] * rho, "crossed": one["crossed"] + other["crossed"]}
    both["value_sum"] = rho * one["value_sum"] + other["value_sum"]
    if form == "asymmetric":
        carried = one["nested_sum"] + other["crossed"] @ one["value_sum"]
        return both | {"nested_sum": rho * carried + other["nested_sum"]}
    s, p, square = one["key_sum"], one["value_sum"], other["query_square"]
    across = s @ other["query_value"] + other["key_query"] @ p + s @ square @ p
    return both | {
        "key_sum": s + other["key_sum"],
        "query_square": one["query_square"] + square,
        "query_value": one["query_value"] + other["query_value"] + square @ p,
        "key_query": one["key_query"] + other["key_query"] + s @ square,
        "nested_sum": one["nested_sum"] + other["nested_sum"] + across,
    }


@pytest.mark.parametrize("form", ["asymmetric", "third"])
def test_segments_of_the_other_orders_join_associatively(form: str) -> None:
    q, k, v = tokens(21)
    decay = torch.ones(B, 21, H, dtype=torch.float64)
    if form == "asymmetric":
        decay = 0.5 + 0.5 * torch.rand_like(decay)
    parts = []
    for cut in (slice(0, 6), slice(6, 15), slice(15, 21), slice(0, 21)):
        given = q[:, cut], k[:, cut], v[:, cut], decay[:, cut]
        parts.append(segment(form, *given)[0] | products(form, *given))
    one, two, three, whole = parts
    left = joined_in(form, joined_in(form, one, two), three)
    right = joined_in(form, one, joined_in(form, two, three))
    assert set(left) == set(right) == set(whole)
    for name, x in whole.items():
        assert_same(left[name], x)
        assert_same(right[name], x)


def test_two_queries_may_change_places() -> None:
    """The weight of v_j at t, sum_i<=j (q_t . k_i)(k_i . q_j), is symmetric in q_t and q_j."""
    q, k, _ = tokens(9)
    v = torch.zeros(B, 9, H, V, dtype=torch.float64)
    v[:, 4] = 1.0
    swapped = q.clone()
    swapped[:, 4], swapped[:, 8] = q[:, 8], q[:, 4]
    one, other = ran("second", q, k, v), ran("second", swapped, k, v)
    assert_same(one[:, 8], other[:, 8])
    assert float((one[:, 6] - other[:, 6]).abs().max()) > 1e-2


def test_the_asymmetric_form_is_linear_attention_twice() -> None:
    q, k, v = tokens()
    decay = some_decay()
    attention = mn.Memory(mn.Matrix(), mn.Dot(), mn.Decay(), mn.GD(rate=1.0))
    first, _ = mn.run(attention, q, k, v, {"decay": decay})
    second, _ = mn.run(attention, q, k, first, {"decay": decay})
    assert_same(ran("asymmetric", q, k, v, decay), second)


@pytest.mark.parametrize("form", FORMS)
def test_a_decay_of_zero_forgets_everything(form: str) -> None:
    q, k, v = tokens()
    decay = some_decay()
    decay[:, 20] = 0.0
    out, later = ran(form, q, k, v, decay), ran(form, q[:, 20:], k[:, 20:], v[:, 20:], decay[:, 20:])
    assert_same(out[:, 20:], later)


def test_the_layer_writes_the_query_that_it_reads_with() -> None:
    layer = mn.MemoryLayer(mn.zoo.hla(), width=16, heads=2).double()
    assert not any("controls" in name for name, _ in layer.named_parameters())
    x = normal(B, 9, 16)
    q, k, v = (y.unflatten(-1, (2, -1)) for y in layer.project(x).split(layer.sizes, -1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    decay = (1 - torch.exp2(-5 - torch.arange(2, dtype=torch.float64))).expand(B, 9, 2)
    o = masked("second", q, k, v, decay)
    normed = o / (o.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_same(layer(x)[0], layer.out(normed.flatten(-2)), 1e-8)


def test_the_normalised_form_divides_by_the_sum_of_the_weights() -> None:
    spec = mn.LayerSpec(HigherOrder(), keys=Elu(), norm="sum")
    layer = mn.MemoryLayer(spec, width=16, heads=2).double()
    x = normal(B, 9, 16)
    q, k, v = (y.unflatten(-1, (2, -1)) for y in layer.project(x).split(layer.sizes, -1))
    w = (by_time(F.elu(q) + 1) @ by_time(F.elu(k) + 1).mT).tril()
    mixed = (w @ w.mT).tril()
    o = by_time(mixed @ by_time(v) / (mixed.sum(-1, keepdim=True) + 1e-6))
    assert_same(layer(x)[0], layer.out(o.flatten(-2)), 1e-9)
