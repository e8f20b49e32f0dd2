"""Layers stacked into models."""

from mnemos.models.end_to_end_memory import EndToEndMemory
from mnemos.models.generation import generate, stream
from mnemos.models.hybrid import hybrid
from mnemos.models.language_model import LanguageModel
from mnemos.models.memo import Looks, Memo, bhattacharyya, memo_loss
from mnemos.models.pointer_network import Pointer, PointerNetwork
from mnemos.models.spec import ModelSpec

__all__ = [
    "EndToEndMemory",
    "LanguageModel",
    "Looks",
    "Memo",
    "ModelSpec",
    "Pointer",
    "PointerNetwork",
    "bhattacharyya",
    "generate",
    "hybrid",
    "memo_loss",
    "stream",
]
