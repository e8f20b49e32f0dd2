"""Modules around a memory: projections, short convolution, norms, gates. They never name an algorithm."""

from mnemos.layers.as_context import AsContext, ContextLayer
from mnemos.layers.as_gate import AsGate, GateLayer
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.constant_query import ConstantQuery, ConstantQueryLayer
from mnemos.layers.contextual_memory import ContextualMemory, ContextualMemoryLayer
from mnemos.layers.controls import (
    Constant,
    ControlRule,
    Direction,
    GatedDecay,
    HeadDecay,
    Learned,
    LevelWeights,
    LowRankDecay,
    Phase,
    RelativeTable,
    Shares,
    Sigmoid,
    Softplus,
)
from mnemos.layers.coupled import Coupled, CoupledLayer
from mnemos.layers.coupled_decays import CoupledDecay, LowerBounded, PrefixSoftmax
from mnemos.layers.dual_memory import DualMemory, DualMemoryLayer
from mnemos.layers.fast_forgetful import FastForgetful, FastForgetfulLayer
from mnemos.layers.features import Elu, FeatureMap, Polynomial, Taylor, Unit
from mnemos.layers.gate_loop import GateLoop, GateLoopLayer
from mnemos.layers.gated_convolution import GatedConvolution, GatedConvolutionLayer
from mnemos.layers.gated_recurrence import GatedRecurrence, GatedRecurrenceLayer
from mnemos.layers.longhorn import Longhorn, LonghornLayer
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.layers.mimetic import Mimetic
from mnemos.layers.mixture import Mixture, MixtureLayer, balanced
from mnemos.layers.persistent_memory import PersistentMemory, PersistentMemoryLayer
from mnemos.layers.polarised import Polarised
from mnemos.layers.recurrent_chunks import RecurrentChunks, RecurrentChunksLayer
from mnemos.layers.relational_memory import RelationalMemory, RelationalMemoryLayer
from mnemos.layers.state_space import StateSpace, StateSpaceLayer
from mnemos.layers.time_mixing import TimeMixing, TimeMixingLayer
from mnemos.layers.ttt import TTT, TTTLayer
from mnemos.layers.turing_machine import TuringMachine, TuringMachineLayer

__all__ = [
    "TTT",
    "AsContext",
    "AsGate",
    "Constant",
    "ConstantQuery",
    "ConstantQueryLayer",
    "ContextLayer",
    "ContextualMemory",
    "ContextualMemoryLayer",
    "ControlRule",
    "Coupled",
    "CoupledDecay",
    "CoupledLayer",
    "Direction",
    "DualMemory",
    "DualMemoryLayer",
    "Elu",
    "FastForgetful",
    "FastForgetfulLayer",
    "FeatureMap",
    "GateLayer",
    "GateLoop",
    "GateLoopLayer",
    "GatedConvolution",
    "GatedConvolutionLayer",
    "GatedDecay",
    "GatedRecurrence",
    "GatedRecurrenceLayer",
    "HeadDecay",
    "Layer",
    "LayerDeclaration",
    "LayerSpec",
    "Learned",
    "LevelWeights",
    "Longhorn",
    "LonghornLayer",
    "LowRankDecay",
    "LowerBounded",
    "MemoryLayer",
    "Mimetic",
    "Mixture",
    "MixtureLayer",
    "PersistentMemory",
    "PersistentMemoryLayer",
    "Phase",
    "Polarised",
    "Polynomial",
    "PrefixSoftmax",
    "RecurrentChunks",
    "RecurrentChunksLayer",
    "RelationalMemory",
    "RelationalMemoryLayer",
    "RelativeTable",
    "Shares",
    "Sigmoid",
    "Softplus",
    "StateSpace",
    "StateSpaceLayer",
    "TTTLayer",
    "Taylor",
    "TimeMixing",
    "TimeMixingLayer",
    "TuringMachine",
    "TuringMachineLayer",
    "Unit",
    "balanced",
]
