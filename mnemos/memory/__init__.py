"""What is kept between tokens, and how one token changes it and reads it."""

from mnemos.memory.addressed import Addressed
from mnemos.memory.base import AnyMemory
from mnemos.memory.cliques import Cliques
from mnemos.memory.clustered_window import ClusteredWindow
from mnemos.memory.control import Control, Controls
from mnemos.memory.core_context import CoreContext
from mnemos.memory.declaration import Declaration, from_json
from mnemos.memory.episode import Address, Boundary, Every, MeanKey, Recall, Representatives, Summary, Surprise
from mnemos.memory.episodic import EpisodicMemory
from mnemos.memory.higher_order import HigherOrder
from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import GD, Chunk, Implicit, Learner, LeastSquares, MiniBatch, Omega
from mnemos.memory.learning import Memory
from mnemos.memory.log_linear import LogLinear
from mnemos.memory.mask import Dilated, GridNeighborhood, Mask, Neighborhood, PowersOfTwo
from mnemos.memory.objective import L2, AffineL2, Dot, Huber, Lp, Objective, RobustShift
from mnemos.memory.patterns import Patterns
from mnemos.memory.read import (
    AdaptiveFilter,
    CircleIntersection,
    DenseAssociative,
    DynamicMask,
    Hopfield,
    Hops,
    Landmark,
    LocalLinear,
    MLPScores,
    Read,
    Relative,
    Softmax,
    SoftmaxOne,
    attention_scale,
    circle_intersection,
    metastable_size,
)
from mnemos.memory.retain import (
    ByPosition,
    Everything,
    HeavyHitters,
    KeyDifference,
    KeyNorm,
    LazyEviction,
    LeastFrequentlyAttended,
    LeastRecentlyAttended,
    Newest,
    Policy,
    Retain,
    Sampled,
    Window,
)
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
    "AdaptiveFilter",
    "Address",
    "Addressed",
    "AffineL2",
    "AnyMemory",
    "Append",
    "Boundary",
    "Bregman",
    "ByPosition",
    "Chunk",
    "CircleIntersection",
    "Cliques",
    "ClusteredWindow",
    "Control",
    "Controls",
    "CoreContext",
    "Decay",
    "Declaration",
    "DenseAssociative",
    "Dilated",
    "Dot",
    "DynamicMask",
    "ElasticNet",
    "ElasticNetDual",
    "EpisodicMemory",
    "Every",
    "Everything",
    "FDivergence",
    "GridNeighborhood",
    "HeavyHitters",
    "HigherOrder",
    "Hopfield",
    "Hops",
    "Huber",
    "Implicit",
    "KVMemory",
    "Keep",
    "KeyDifference",
    "KeyNorm",
    "Landmark",
    "LazyEviction",
    "Learner",
    "LeastFrequentlyAttended",
    "LeastRecentlyAttended",
    "LeastSquares",
    "LocalLinear",
    "LogLinear",
    "Lp",
    "Lq",
    "MLPScores",
    "Mask",
    "Matrix",
    "MeanKey",
    "Memory",
    "MiniBatch",
    "Mirror",
    "Neighborhood",
    "Newest",
    "NormedMLP",
    "Objective",
    "Omega",
    "OrthogonalSlots",
    "Patterns",
    "Policy",
    "PowersOfTwo",
    "Read",
    "Recall",
    "Relative",
    "Representatives",
    "Retain",
    "Retention",
    "RobustShift",
    "Sampled",
    "Softmax",
    "SoftmaxOne",
    "SparseDistributed",
    "Sparsey",
    "Structure",
    "Summary",
    "Surprise",
    "Willshaw",
    "Window",
    "attention_scale",
    "circle_intersection",
    "from_json",
    "metastable_size",
]
