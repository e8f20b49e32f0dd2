"""How the memory follows the gradient of its objective."""

from mnemos.memory.learner.base import Learner
from mnemos.memory.learner.gd import GD, Chunk
from mnemos.memory.learner.implicit import Implicit
from mnemos.memory.learner.least_squares import LeastSquares
from mnemos.memory.learner.mini_batch import MiniBatch
from mnemos.memory.learner.omega import Omega

__all__ = ["GD", "Chunk", "Implicit", "Learner", "LeastSquares", "MiniBatch", "Omega"]
