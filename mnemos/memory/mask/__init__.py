"""Which kept entries a query looks at, by position."""

from mnemos.memory.mask.base import Mask
from mnemos.memory.mask.dilated import Dilated
from mnemos.memory.mask.neighborhood import GridNeighborhood, Neighborhood
from mnemos.memory.mask.powers_of_two import PowersOfTwo
from mnemos.memory.mask.two_sided import GridNeighborhoodAround, NeighborhoodAround, TwoSided

__all__ = [
    "Dilated",
    "GridNeighborhood",
    "GridNeighborhoodAround",
    "Mask",
    "Neighborhood",
    "NeighborhoodAround",
    "PowersOfTwo",
    "TwoSided",
]
