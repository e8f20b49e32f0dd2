"""What is kept between tokens, and how one token changes it and reads it."""

from mnemos.memory.base import AnyMemory
from mnemos.memory.control import Control, Controls
from mnemos.memory.declaration import Declaration, from_json
from mnemos.memory.episode import (
    Address,
    Boundary,
    Every,
    MeanKey,
    Recall,
    Representatives,
    Summary,
    Surprise,
    conductance,
    modularity,
    refine_boundaries,
)
from mnemos.memory.episodic import EpisodicMemory
from mnemos.memory.higher_order import HigherOrder
from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import GD, Chunk, Implicit, Learner, LeastSquares, MiniBatch, Omega
from mnemos.memory.learning import Memory
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.mask import Dilated, Mask, PowersOfTwo
from mnemos.memory.objective import L2, AffineL2, Dot, Huber, Lp, Objective, RobustShift
from mnemos.memory.read import LocalLinear, Read, Relative, Softmax
from mnemos.memory.retain import ByPosition, Everything, HeavyHitters, LazyEviction, Policy, Retain, Window
from mnemos.memory.retention import (
    DPLR,
    KL,
    Bregman,
    Decay,
    ElasticNet,
    ElasticNetDual,
    FDivergence,
    Keep,
    Lq,
    Mirror,
    OrthogonalSlots,
    Retention,
)
from mnemos.memory.structure import MLP, Matrix, NormedMLP, Structure
from mnemos.memory.write import Append

__all__ = [
    "DPLR",
    "GD",
    "KL",
    "L2",
    "MLP",
    "Address",
    "AffineL2",
    "AnyMemory",
    "Append",
    "Boundary",
    "Bregman",
    "ByPosition",
    "Chunk",
    "Control",
    "Controls",
    "Decay",
    "Declaration",
    "Dilated",
    "Dot",
    "ElasticNet",
    "ElasticNetDual",
    "EpisodicMemory",
    "Every",
    "Everything",
    "FDivergence",
    "HeavyHitters",
    "HigherOrder",
    "Huber",
    "Implicit",
    "KVMemory",
    "Keep",
    "LazyEviction",
    "Learner",
    "LeastSquares",
    "LocalLinear",
    "LogLinear",
    "Lp",
    "Lq",
    "Mask",
    "Matrix",
    "MeanKey",
    "Memory",
    "MiniBatch",
    "Mirror",
    "NormedMLP",
    "Objective",
    "Omega",
    "OrthogonalSlots",
    "Policy",
    "PowersOfTwo",
    "Read",
    "Recall",
    "Relative",
    "Representatives",
    "Retain",
    "Retention",
    "RobustShift",
    "Softmax",
    "Structure",
    "Summary",
    "Surprise",
    "Window",
    "conductance",
    "from_json",
    "modularity",
    "refine_boundaries",
]
