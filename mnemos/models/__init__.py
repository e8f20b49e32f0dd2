"""Layers stacked into models."""

from mnemos.models.clam import ClAM
from mnemos.models.generation import generate, stream
from mnemos.models.hybrid import hybrid
from mnemos.models.language_model import LanguageModel
from mnemos.models.spec import ModelSpec

__all__ = ["ClAM", "LanguageModel", "ModelSpec", "generate", "hybrid", "stream"]
