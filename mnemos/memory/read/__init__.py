"""How a key-value memory answers."""

from mnemos.memory.read.base import Read
from mnemos.memory.read.circle_intersection import CircleIntersection, attention_scale, circle_intersection
from mnemos.memory.read.dense_associative import DenseAssociative
from mnemos.memory.read.hopfield import Hopfield, metastable_size
from mnemos.memory.read.local_linear import LocalLinear
from mnemos.memory.read.relative import Relative
from mnemos.memory.read.softmax import Softmax

__all__ = [
    "CircleIntersection",
    "DenseAssociative",
    "Hopfield",
    "LocalLinear",
    "Read",
    "Relative",
    "Softmax",
    "attention_scale",
    "circle_intersection",
    "metastable_size",
]
