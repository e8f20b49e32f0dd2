"""Layers stacked into models."""

from mnemos.models.end_to_end_memory import EndToEndMemory
from mnemos.models.generation import generate, stream
from mnemos.models.hybrid import hybrid
from mnemos.models.language_model import LanguageModel
from mnemos.models.segments import Associative, Engrams, LookAhead, MemoryTokens, Segments
from mnemos.models.spec import ModelSpec

__all__ = [
    "Associative",
    "EndToEndMemory",
    "Engrams",
    "LanguageModel",
    "LookAhead",
    "MemoryTokens",
    "ModelSpec",
    "Segments",
    "generate",
    "hybrid",
    "stream",
]
