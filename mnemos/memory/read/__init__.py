"""How a key-value memory answers."""

from mnemos.memory.read.softmax import Softmax

__all__ = ["Softmax"]
