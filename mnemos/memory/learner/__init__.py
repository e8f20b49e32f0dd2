"""How the memory follows the gradient of its objective."""

from mnemos.memory.learner.base import Learner
from mnemos.memory.learner.gd import GD, Chunk

__all__ = ["GD", "Chunk", "Learner"]
