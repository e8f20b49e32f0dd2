"""How a memory is run over a whole sequence: one algorithm a file."""

from mnemos.execute.anchored import AnchoredDual
from mnemos.execute.anchored_map import AnchoredMap
from mnemos.execute.attention import FullAttention, WindowedAttention
from mnemos.execute.base import Executor, OtherKind
from mnemos.execute.chain_step import ChainStep
from mnemos.execute.clustered_window import ClusterOrder
from mnemos.execute.conjugate_gradients import ConjugateGradients
from mnemos.execute.core_context import CoresAndWindow
from mnemos.execute.decay import CumulativeDecay
from mnemos.execute.delta import TriangularDelta
from mnemos.execute.diagonal_steps import DiagonalSteps
from mnemos.execute.dplr import TriangularRemoval
from mnemos.execute.episode_blocks import EpisodeBlocks
from mnemos.execute.fenwick import Fenwick
from mnemos.execute.fla_kernels import FLAKernel
from mnemos.execute.higher_order import NestedSums
from mnemos.execute.landmark_blocks import LandmarkBlocks
from mnemos.execute.loop import Loop
from mnemos.execute.mini_batches import MiniBatchDual
from mnemos.execute.nonlinear import NonlinearTriangular
from mnemos.execute.outer import OuterDecay
from mnemos.execute.query_blocks import QueryBlocks
from mnemos.execute.recurrence import Recurrence
from mnemos.execute.request import Request, state_bytes
from mnemos.execute.scan import DiagonalScan
from mnemos.execute.step import MatrixStep
from mnemos.execute.table import BetweenEvictions

__all__ = [
    "AnchoredDual",
    "AnchoredMap",
    "BetweenEvictions",
    "ChainStep",
    "ClusterOrder",
    "ConjugateGradients",
    "CoresAndWindow",
    "CumulativeDecay",
    "DiagonalScan",
    "DiagonalSteps",
    "EpisodeBlocks",
    "Executor",
    "FLAKernel",
    "Fenwick",
    "FullAttention",
    "LandmarkBlocks",
    "Loop",
    "MatrixStep",
    "MiniBatchDual",
    "NestedSums",
    "NonlinearTriangular",
    "OtherKind",
    "OuterDecay",
    "QueryBlocks",
    "Recurrence",
    "Request",
    "TriangularDelta",
    "TriangularRemoval",
    "WindowedAttention",
    "state_bytes",
]
