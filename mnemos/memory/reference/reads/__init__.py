"""The literal form of read rules: one query, its entries as plain rows. A new rule is a file here and a line."""

from mnemos.memory import read
from mnemos.memory.reference.reads.adaptive_filter import adaptive_filter
from mnemos.memory.reference.reads.base import Reads
from mnemos.memory.reference.reads.circle_intersection import circle_intersection
from mnemos.memory.reference.reads.delayed import delayed
from mnemos.memory.reference.reads.dense_associative import dense_associative
from mnemos.memory.reference.reads.dynamic_mask import dynamic_mask
from mnemos.memory.reference.reads.hopfield import hopfield
from mnemos.memory.reference.reads.hops import hops
from mnemos.memory.reference.reads.landmark import landmark
from mnemos.memory.reference.reads.local_linear import local_linear
from mnemos.memory.reference.reads.mlp_scores import mlp_scores
from mnemos.memory.reference.reads.relative import relative
from mnemos.memory.reference.reads.softmax import softmax
from mnemos.memory.reference.reads.softmax_one import softmax_one

READS: dict[type, Reads] = {
    read.AdaptiveFilter: adaptive_filter,
    read.CircleIntersection: circle_intersection,
    read.Delayed: delayed,
    read.DenseAssociative: dense_associative,
    read.DynamicMask: dynamic_mask,
    read.Hopfield: hopfield,
    read.Hops: hops,
    read.Landmark: landmark,
    read.LocalLinear: local_linear,
    read.MLPScores: mlp_scores,
    read.Relative: relative,
    read.Softmax: softmax,
    read.SoftmaxOne: softmax_one,
}

__all__ = ["READS", "Reads"]
