"""Modules around a memory: projections, short convolution, norms, gates. They never name an algorithm."""

from mnemos.layers.agents import Agents, AgentsLayer
from mnemos.layers.as_context import AsContext, ContextLayer
from mnemos.layers.as_gate import AsGate, GateLayer
from mnemos.layers.base import Layer, LayerDeclaration
from mnemos.layers.centroids import CentroidAffinity, Centroids, followed
from mnemos.layers.chunk_recall import ChunkRecall, ChunkRecallLayer
from mnemos.layers.constant_query import ConstantQuery, ConstantQueryLayer
from mnemos.layers.contextual_memory import ContextualMemory, ContextualMemoryLayer
from mnemos.layers.controls import (
    Constant,
    ControlRule,
    Direction,
    GatedDecay,
    HeadDecay,
    Learned,
    LearnedWeights,
    LevelWeights,
    LowRankDecay,
    Phase,
    RelativeTable,
    Shares,
    Sigmoid,
    Softplus,
    ValuePreference,
)
from mnemos.layers.coupled import Coupled, CoupledLayer
from mnemos.layers.coupled_decays import CoupledDecay, LowerBounded, PrefixSoftmax
from mnemos.layers.dual_attention import DualAttention, DualAttentionLayer
from mnemos.layers.dual_memory import DualMemory, DualMemoryLayer
from mnemos.layers.fast_forgetful import FastForgetful, FastForgetfulLayer
from mnemos.layers.features import DPFP, Elu, FeatureMap, Polynomial, Standard, Taylor, Unit
from mnemos.layers.fewer_heads import with_kv_heads
from mnemos.layers.filter_attention import FilterAttention, FilterAttentionLayer
from mnemos.layers.fourier import FourierFeatures, FourierInput, FourierInputLayer
from mnemos.layers.gate_loop import GateLoop, GateLoopLayer
from mnemos.layers.gated_convolution import GatedConvolution, GatedConvolutionLayer
from mnemos.layers.gated_recurrence import GatedRecurrence, GatedRecurrenceLayer
from mnemos.layers.given import Given, given
from mnemos.layers.head_embeddings import HeadEmbeddings, HeadEmbeddingsLayer
from mnemos.layers.hopfield_lookup import HopfieldLookup, HopfieldLookupLayer
from mnemos.layers.hopfield_pooling import HopfieldPooling, HopfieldPoolingLayer
from mnemos.layers.longhorn import Longhorn, LonghornLayer
from mnemos.layers.memory_layer import LayerSpec, MemoryLayer
from mnemos.layers.mimetic import Mimetic
from mnemos.layers.mixture import Mixture, MixtureLayer, balanced
from mnemos.layers.persistent_memory import PersistentMemory, PersistentMemoryLayer
from mnemos.layers.polarised import Polarised
from mnemos.layers.recurrent_chunks import RecurrentChunks, RecurrentChunksLayer
from mnemos.layers.relational_memory import RelationalMemory, RelationalMemoryLayer
from mnemos.layers.segment_attention import SegmentAttention, SegmentAttentionLayer
from mnemos.layers.state_space import StateSpace, StateSpaceLayer
from mnemos.layers.time_mixing import TimeMixing, TimeMixingLayer
from mnemos.layers.ttt import TTT, TTTLayer
from mnemos.layers.turing_machine import TuringMachine, TuringMachineLayer
from mnemos.layers.wait_to_attend import WaitToAttend, WaitToAttendLayer

__all__ = [
    "DPFP",
    "TTT",
    "Agents",
    "AgentsLayer",
    "AsContext",
    "AsGate",
    "CentroidAffinity",
    "Centroids",
    "ChunkRecall",
    "ChunkRecallLayer",
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
    "DualAttention",
    "DualAttentionLayer",
    "DualMemory",
    "DualMemoryLayer",
    "Elu",
    "FastForgetful",
    "FastForgetfulLayer",
    "FeatureMap",
    "FilterAttention",
    "FilterAttentionLayer",
    "FourierFeatures",
    "FourierInput",
    "FourierInputLayer",
    "GateLayer",
    "GateLoop",
    "GateLoopLayer",
    "GatedConvolution",
    "GatedConvolutionLayer",
    "GatedDecay",
    "GatedRecurrence",
    "GatedRecurrenceLayer",
    "Given",
    "HeadDecay",
    "HeadEmbeddings",
    "HeadEmbeddingsLayer",
    "HopfieldLookup",
    "HopfieldLookupLayer",
    "HopfieldPooling",
    "HopfieldPoolingLayer",
    "Layer",
    "LayerDeclaration",
    "LayerSpec",
    "Learned",
    "LearnedWeights",
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
    "SegmentAttention",
    "SegmentAttentionLayer",
    "Shares",
    "Sigmoid",
    "Softplus",
    "Standard",
    "StateSpace",
    "StateSpaceLayer",
    "TTTLayer",
    "Taylor",
    "TimeMixing",
    "TimeMixingLayer",
    "TuringMachine",
    "TuringMachineLayer",
    "Unit",
    "ValuePreference",
    "WaitToAttend",
    "WaitToAttendLayer",
    "balanced",
    "followed",
    "given",
    "with_kv_heads",
]
