"""Modules around a memory: projections, short convolution, norms, gates. They never name an algorithm."""

from mnemos.layers.as_context import AsContext, ContextLayer
from mnemos.layers.as_gate import AsGate, GateLayer
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.controls import Constant, ControlRule, GatedDecay, HeadDecay, LowRankDecay, Sigmoid
from mnemos.layers.features import Elu, FeatureMap, Unit
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer

__all__ = [
    "AsContext",
    "AsGate",
    "Constant",
    "ContextLayer",
    "ControlRule",
    "Elu",
    "FeatureMap",
    "GateLayer",
    "GatedDecay",
    "HeadDecay",
    "Layer",
    "LayerDeclaration",
    "LayerSpec",
    "LowRankDecay",
    "MemoryLayer",
    "Sigmoid",
    "Unit",
]
