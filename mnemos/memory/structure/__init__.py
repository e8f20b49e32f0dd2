"""What holds the associations."""

from mnemos.memory.structure.base import Structure, Trace
from mnemos.memory.structure.chain import Chain
from mnemos.memory.structure.matrix import Matrix
from mnemos.memory.structure.mlp import MLP
from mnemos.memory.structure.normed_mlp import NormedMLP

__all__ = ["MLP", "Chain", "Matrix", "NormedMLP", "Structure", "Trace"]
