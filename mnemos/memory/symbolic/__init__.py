"""Vector symbolic architectures: symbols as long vectors, bound and superposed, and taken apart again."""

from mnemos.memory.symbolic.binding import bind, bundle, codebook, likeness, unbind
from mnemos.memory.symbolic.resonator import Factors, Resonator

__all__ = ["Factors", "Resonator", "bind", "bundle", "codebook", "likeness", "unbind"]
