"""How the memory follows the gradient of its objective."""

from mnemos.memory.learner.base import Learner
from mnemos.memory.learner.gd import GD, Chunk
from mnemos.memory.learner.least_squares import LeastSquares

__all__ = ["GD", "Chunk", "Learner", "LeastSquares"]
