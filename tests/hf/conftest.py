"""Small decoders with random weights, large enough that attention matters."""

from __future__ import annotations

from typing import Any

import pytest

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def small(maker: str, **further: Any) -> Any:
    """A small model of that maker's kind."""
    import transformers

    config = getattr(transformers, f"{maker}Config")(**SIZES, **further)
    return getattr(transformers, f"{maker}ForCausalLM")(config).double().eval()


def twin(model: Any) -> Any:
    """Another one with the same weights, with our attention."""
    own = type(model)(type(model.config).from_dict(model.config.to_dict())).double().eval()
    own.load_state_dict(model.state_dict())
    own.set_attn_implementation("mnemos")
    return own


@pytest.fixture
def stock() -> Any:
    """A model with the attention that it comes with."""
    return small("Llama")


@pytest.fixture
def model(stock: Any) -> Any:
    """The same weights, with ours."""
    return twin(stock)


@pytest.fixture(params=["Llama", "Mistral", "Qwen3"])
def pair(request: pytest.FixtureRequest) -> Any:
    """A model as it comes, and its twin, of several makers."""
    further = {"sliding_window": None} if request.param == "Mistral" else {}
    model = small(request.param, **further)
    return model, twin(model)
