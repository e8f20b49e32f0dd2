"""How a memory holds on to what it has, or forgets."""

from mnemos.memory.retention.base import Retention
from mnemos.memory.retention.bregman import Bregman
from mnemos.memory.retention.decay import Decay
from mnemos.memory.retention.dplr import DPLR
from mnemos.memory.retention.elastic_net import ElasticNet
from mnemos.memory.retention.elastic_net_dual import ElasticNetDual
from mnemos.memory.retention.f_divergence import FDivergence
from mnemos.memory.retention.keep import Keep
from mnemos.memory.retention.kl import KL
from mnemos.memory.retention.lq import Lq
from mnemos.memory.retention.mirror import Mirror
from mnemos.memory.retention.orthogonal_slots import OrthogonalSlots

__all__ = [
    "DPLR",
    "KL",
    "Bregman",
    "Decay",
    "ElasticNet",
    "ElasticNetDual",
    "FDivergence",
    "Keep",
    "Lq",
    "Mirror",
    "OrthogonalSlots",
    "Retention",
]
