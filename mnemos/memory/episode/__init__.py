"""The parts of an episodic memory: where episodes end, by what they are found, and how many are read."""

from mnemos.memory.episode.address import Address
from mnemos.memory.episode.boundary import Boundary
from mnemos.memory.episode.every import Every
from mnemos.memory.episode.mean_key import MeanKey
from mnemos.memory.episode.recall import Recall
from mnemos.memory.episode.refine import conductance, modularity, refine_boundaries
from mnemos.memory.episode.representatives import Representatives
from mnemos.memory.episode.summary import Summary
from mnemos.memory.episode.surprise import Surprise

__all__ = [
    "Address",
    "Boundary",
    "Every",
    "MeanKey",
    "Recall",
    "Representatives",
    "Summary",
    "Surprise",
    "conductance",
    "modularity",
    "refine_boundaries",
]
