"""Law: `torch.compile` makes one graph of a model, and gives the same numbers and gradients."""

from __future__ import annotations

import pytest
import torch
from cases import HEADS, MODELS, WIDTH, assert_close, assert_states_close, make_model, some_tokens

import mnemos as mn

# The compiler itself uses what PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# The graph of the default backend, run by plain PyTorch.
EAGER = "aot_eager_decomp_partition"

QUICK = ["gated_deltanet", "titans_lmm", "sliding_window"]
LONG = [
    "linear_attention",
    "retnet",
    "gla",
    "deltanet",
    "transformer-grouped",
    "titans_lmm-exact",
    "titans_mag",
    "titans_mac",
    "titans_mal",
    "moneta",
    "memora",
    "yaad-linear",
    "nobodys",
    "mom",
    "log_linear_gated_deltanet",
    "log_linear_mamba2",
    "mamba2",
    "hgrn2",
    "lightnet",
    "kda",
    "based",
    "aaren",
    "rat",
    "relational_memory_core",
    "pmi",
    "memory_mosaics",
    "memory_mosaics-window",
    "adaptive_filter_attention",
    "agent_attention",
    "dual_attention",
    "dual_attention-relative",
    "fan",
    "fanformer",
    "multi_head_embeddings",
    "neural_attention",
    "outeffhop",
    "transformer_xl",
    "lamemo",
    "rmt",
    "armt",
    "memoria",
    "hcam-forgetting",
    "hcam-grouped",
    "em_llm",
    "em_llm-small-events",
    "em_llm-grouped",
    "hopfield",
    "sdm_attention",
    "hopfield_pooling",
    "hopfield_pooling-steps",
    "hopfield_lookup-steps",
    "sliding_window_dilated",
    "power_attention",
    "neighborhood_attention-grid",
    "neighborhood_attention-around",
    "neighborhood_attention-grid-around",
    "landmark_attention-top",
    "landmark_attention-stingy",
    "attendre-waiting",
    "attendre-waiting-fifo",
    "dynamic_mask_attention",
    "cca_attention",
    "cca_attention-grouped",
    "routing_transformer",
]
SLOW = [pytest.param(name, marks=pytest.mark.long) for name in LONG]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def compare(spec: mn.ModelSpec, backend: str) -> None:
    model, tokens = make_model(spec.replace(depth=1)), some_tokens(2, 9)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    compiled(tokens)  # first of all, so that nothing that plain code has left behind is needed
    # Compiled code cannot look at values, so rows may stand anywhere in a chunk.
    _, state = model(some_tokens(2, 3))
    parameters = list(model.parameters())
    for start in (None, state.detach()):
        expected, last = model(tokens, start)
        logits, after = compiled(tokens, start)
        assert_close(logits, expected, "compiled logits", 1e-8)
        assert_states_close(after, last, tolerance=1e-8)
        found = torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True)
        wanted = torch.autograd.grad(expected.square().mean(), parameters, allow_unused=True)
        for one, other in zip(found, wanted, strict=True):
            if one is None or other is None:
                assert one is other
            else:
                assert_close(one, other, "compiled gradient", 1e-7)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_one_graph_same_numbers(name: str) -> None:
    compare(MODELS[name], EAGER)


@pytest.mark.long
def test_the_default_backend() -> None:
    layer = mn.MemoryLayer(mn.Memory(mn.Matrix(), mn.Dot()), width=WIDTH, heads=HEADS).double()
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64, requires_grad=True)
    y, state = torch.compile(layer, fullgraph=True)(x)
    expected, last = layer(x)
    assert_close(y, expected, "compiled layer")
    assert_states_close(state, last)
    (found,), (wanted,) = (torch.autograd.grad(out.square().sum(), x) for out in (y, expected))
    assert_close(found, wanted, "compiled gradient")


def test_a_layer() -> None:
    layer = mn.MemoryLayer(mn.Memory(), width=WIDTH, heads=HEADS).double()
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    y, state = torch.compile(layer, fullgraph=True, backend=EAGER)(x)
    expected, last = layer(x)
    assert_close(y, expected, "compiled layer")
    assert_states_close(state, last)
