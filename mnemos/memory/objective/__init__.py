"""What the memory minimises on each key-value pair (the Miras paper's "attentional bias")."""

from mnemos.memory.objective.affine_l2 import AffineL2
from mnemos.memory.objective.base import Objective
from mnemos.memory.objective.dot import Dot
from mnemos.memory.objective.huber import Huber
from mnemos.memory.objective.l2 import L2
from mnemos.memory.objective.lp import Lp
from mnemos.memory.objective.robust_shift import RobustShift

__all__ = ["L2", "AffineL2", "Dot", "Huber", "Lp", "Objective", "RobustShift"]
