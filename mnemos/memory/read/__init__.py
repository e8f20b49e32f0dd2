"""How a key-value memory answers."""

from mnemos.memory.read.base import Read
from mnemos.memory.read.hops import Hops
from mnemos.memory.read.local_linear import LocalLinear
from mnemos.memory.read.relative import Relative
from mnemos.memory.read.softmax import Softmax

__all__ = ["Hops", "LocalLinear", "Read", "Relative", "Softmax"]
