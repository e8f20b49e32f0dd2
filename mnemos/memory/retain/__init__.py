"""What a key-value memory keeps."""

from mnemos.memory.retain.base import ByPosition, Policy, Retain
from mnemos.memory.retain.everything import Everything
from mnemos.memory.retain.heavy_hitters import HeavyHitters
from mnemos.memory.retain.lazy_eviction import LazyEviction
from mnemos.memory.retain.window import Window

__all__ = ["ByPosition", "Everything", "HeavyHitters", "LazyEviction", "Policy", "Retain", "Window"]
