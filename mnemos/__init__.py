"""mnemos: every sequence model is a memory.

Declare what is kept between tokens and how a token changes and reads it; get a layer that trains in parallel,
streams at constant cost, and can be saved, branched and looked into.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnemos import zoo
from mnemos.errors import MnemosError
from mnemos.layers import AsContext, AsGate, LayerSpec, MemoryLayer
from mnemos.lowering import Plan, run
from mnemos.memory import (
    GD,
    L2,
    MLP,
    Append,
    Chunk,
    Decay,
    Dot,
    Everything,
    Huber,
    Keep,
    KVMemory,
    Matrix,
    Memory,
    Softmax,
    Window,
    from_json,
)
from mnemos.models import LanguageModel, ModelSpec, VectorModel
from mnemos.state import State, load_state

if TYPE_CHECKING:
    from mnemos.inspect import capacity

__version__ = "0.1.0"

__all__ = [
    "GD",
    "L2",
    "MLP",
    "Append",
    "AsContext",
    "AsGate",
    "Chunk",
    "Decay",
    "Dot",
    "Everything",
    "Huber",
    "KVMemory",
    "Keep",
    "LanguageModel",
    "LayerSpec",
    "Matrix",
    "Memory",
    "MemoryLayer",
    "MnemosError",
    "ModelSpec",
    "Plan",
    "Softmax",
    "State",
    "VectorModel",
    "Window",
    "capacity",
    "from_json",
    "load_state",
    "run",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name == "capacity":  # its room stands above those that import this module
        return import_module("mnemos.inspect").capacity
    raise AttributeError(f"module 'mnemos' has no attribute {name!r}")
