"""Modules around a memory: projections, short convolution, norms, gates. They never name an algorithm."""

from mnemos.layers.as_context import AsContext, ContextLayer
from mnemos.layers.as_gate import AsGate, GateLayer
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.controls import (
    Constant,
    ControlRule,
    Direction,
    GatedDecay,
    HeadDecay,
    Learned,
    LowRankDecay,
    Sigmoid,
)
from mnemos.layers.features import Elu, FeatureMap, Unit
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.layers.mixture import Mixture, MixtureLayer, balanced
from mnemos.layers.time_mixing import TimeMixing, TimeMixingLayer

__all__ = [
    "AsContext",
    "AsGate",
    "Constant",
    "ContextLayer",
    "ControlRule",
    "Direction",
    "Elu",
    "FeatureMap",
    "GateLayer",
    "GatedDecay",
    "HeadDecay",
    "Layer",
    "LayerDeclaration",
    "LayerSpec",
    "Learned",
    "LowRankDecay",
    "MemoryLayer",
    "Mixture",
    "MixtureLayer",
    "Sigmoid",
    "TimeMixing",
    "TimeMixingLayer",
    "Unit",
    "balanced",
]
