"""What a key-value memory keeps."""

from mnemos.memory.retain.base import ByPosition, Policy, Retain
from mnemos.memory.retain.everything import Everything
from mnemos.memory.retain.heavy_hitters import HeavyHitters
from mnemos.memory.retain.key_difference import KeyDifference
from mnemos.memory.retain.key_norm import KeyNorm
from mnemos.memory.retain.lazy_eviction import LazyEviction
from mnemos.memory.retain.least_attended import LeastFrequentlyAttended, LeastRecentlyAttended
from mnemos.memory.retain.newest import Newest
from mnemos.memory.retain.sampled import Sampled
from mnemos.memory.retain.window import Window

__all__ = [
    "ByPosition",
    "Everything",
    "HeavyHitters",
    "KeyDifference",
    "KeyNorm",
    "LazyEviction",
    "LeastFrequentlyAttended",
    "LeastRecentlyAttended",
    "Newest",
    "Policy",
    "Retain",
    "Sampled",
    "Window",
]
