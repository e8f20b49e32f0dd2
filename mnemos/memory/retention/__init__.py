"""How a memory holds on to what it has, or forgets."""

from mnemos.memory.retention.base import Retention
from mnemos.memory.retention.decay import Decay
from mnemos.memory.retention.dplr import DPLR
from mnemos.memory.retention.keep import Keep

__all__ = ["DPLR", "Decay", "Keep", "Retention"]
