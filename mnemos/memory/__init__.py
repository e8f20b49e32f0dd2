"""What is kept between tokens, and how one token changes it and reads it."""

from mnemos.memory.base import AnyMemory
from mnemos.memory.cliques import Cliques
from mnemos.memory.control import Control, Controls
from mnemos.memory.declaration import Declaration, from_json
from mnemos.memory.higher_order import HigherOrder
from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import GD, Chunk, Implicit, Learner, LeastSquares, MiniBatch, Omega
from mnemos.memory.learning import Memory
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.mask import Dilated, Mask, PowersOfTwo
from mnemos.memory.objective import L2, AffineL2, Dot, Huber, Lp, Objective, RobustShift
from mnemos.memory.patterns import Patterns
from mnemos.memory.read import (
    CircleIntersection,
    DenseAssociative,
    Hopfield,
    LocalLinear,
    Read,
    Relative,
    Softmax,
    attention_scale,
    circle_intersection,
    metastable_size,
)
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
from mnemos.memory.sparse_distributed import SparseDistributed
from mnemos.memory.sparsey import Sparsey
from mnemos.memory.structure import MLP, Matrix, NormedMLP, Structure
from mnemos.memory.willshaw import Willshaw
from mnemos.memory.write import Append

__all__ = [
    "DPLR",
    "GD",
    "KL",
    "L2",
    "MLP",
    "AffineL2",
    "AnyMemory",
    "Append",
    "Bregman",
    "ByPosition",
    "Chunk",
    "CircleIntersection",
    "Cliques",
    "Control",
    "Controls",
    "Decay",
    "Declaration",
    "DenseAssociative",
    "Dilated",
    "Dot",
    "ElasticNet",
    "ElasticNetDual",
    "Everything",
    "FDivergence",
    "HeavyHitters",
    "HigherOrder",
    "Hopfield",
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
    "Memory",
    "MiniBatch",
    "Mirror",
    "NormedMLP",
    "Objective",
    "Omega",
    "OrthogonalSlots",
    "Patterns",
    "Policy",
    "PowersOfTwo",
    "Read",
    "Relative",
    "Retain",
    "Retention",
    "RobustShift",
    "Softmax",
    "SparseDistributed",
    "Sparsey",
    "Structure",
    "Willshaw",
    "Window",
    "attention_scale",
    "circle_intersection",
    "from_json",
    "metastable_size",
]
