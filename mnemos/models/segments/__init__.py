"""Models that read in segments: what a segment hands to the next one."""

from mnemos.models.segments.associative import Associative, CarriedAssociations
from mnemos.models.segments.base import Carried, Piece, Segments, Stacked, changed, with_rows
from mnemos.models.segments.engrams import CarriedEngrams, Engrams
from mnemos.models.segments.look_ahead import LookAhead, RefreshedMemory
from mnemos.models.segments.memory_tokens import CarriedTokens, MemoryTokens
from mnemos.models.segments.run import in_segments

__all__ = [
    "Associative",
    "Carried",
    "CarriedAssociations",
    "CarriedEngrams",
    "CarriedTokens",
    "Engrams",
    "LookAhead",
    "MemoryTokens",
    "Piece",
    "RefreshedMemory",
    "Segments",
    "Stacked",
    "changed",
    "in_segments",
    "with_rows",
]
