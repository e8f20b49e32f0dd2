"""How a key-value memory answers."""

from mnemos.memory.read.adaptive_filter import AdaptiveFilter
from mnemos.memory.read.base import Read
from mnemos.memory.read.circle_intersection import CircleIntersection, attention_scale, circle_intersection
from mnemos.memory.read.delayed import Delayed
from mnemos.memory.read.dense_associative import DenseAssociative
from mnemos.memory.read.dynamic_mask import DynamicMask
from mnemos.memory.read.hopfield import Hopfield, metastable_size
from mnemos.memory.read.hops import Hops
from mnemos.memory.read.landmark import Landmark
from mnemos.memory.read.local_linear import LocalLinear
from mnemos.memory.read.mlp_scores import MLPScores
from mnemos.memory.read.relative import Relative
from mnemos.memory.read.softmax import Softmax
from mnemos.memory.read.softmax_one import SoftmaxOne

__all__ = [
    "AdaptiveFilter",
    "CircleIntersection",
    "Delayed",
    "DenseAssociative",
    "DynamicMask",
    "Hopfield",
    "Hops",
    "Landmark",
    "LocalLinear",
    "MLPScores",
    "Read",
    "Relative",
    "Softmax",
    "SoftmaxOne",
    "attention_scale",
    "circle_intersection",
    "metastable_size",
]
