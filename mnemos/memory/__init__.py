"""What is kept between tokens, and how one token changes it and reads it."""

from mnemos.memory.declaration import Declaration, from_json
from mnemos.memory.keeping import KVMemory
from mnemos.memory.learner import GD, Chunk, Learner, LeastSquares
from mnemos.memory.learning import Memory
from mnemos.memory.objective import L2, Dot, Huber, Objective
from mnemos.memory.protocol import AnyMemory, Control, Controls
from mnemos.memory.read import Softmax
from mnemos.memory.retain import Everything, Retain, Window
from mnemos.memory.retention import DPLR, Decay, Keep, Retention
from mnemos.memory.structure import MLP, Matrix, Structure
from mnemos.memory.write import Append

__all__ = [
    "DPLR",
    "GD",
    "L2",
    "MLP",
    "AnyMemory",
    "Append",
    "Chunk",
    "Control",
    "Controls",
    "Decay",
    "Declaration",
    "Dot",
    "Everything",
    "Huber",
    "KVMemory",
    "Keep",
    "Learner",
    "LeastSquares",
    "Matrix",
    "Memory",
    "Objective",
    "Retain",
    "Retention",
    "Softmax",
    "Structure",
    "Window",
    "from_json",
]
