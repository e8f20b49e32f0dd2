"""How a memory is run over a whole sequence: one algorithm a file."""

from mnemos.execute.anchored import AnchoredDual
from mnemos.execute.attention import FullAttention, WindowedAttention
from mnemos.execute.base import Executor
from mnemos.execute.conjugate_gradients import ConjugateGradients
from mnemos.execute.decay import CumulativeDecay
from mnemos.execute.delta import TriangularDelta
from mnemos.execute.dplr import TriangularRemoval
from mnemos.execute.loop import Loop
from mnemos.execute.request import Request, state_bytes

__all__ = [
    "AnchoredDual",
    "ConjugateGradients",
    "CumulativeDecay",
    "Executor",
    "FullAttention",
    "Loop",
    "Request",
    "TriangularDelta",
    "TriangularRemoval",
    "WindowedAttention",
    "state_bytes",
]
