"""Layers stacked into models, and networks that take something else than tokens."""

from mnemos.models.balanced_routing import BalancedRouting, BalancedRoutingSpec
from mnemos.models.clam import ClAM
from mnemos.models.end_to_end_memory import EndToEndMemory, EndToEndMemorySpec
from mnemos.models.explicit_memory import (
    ExplicitMemory,
    read_with_memories,
    received_attention,
    with_memories,
    write_explicit,
)
from mnemos.models.generation import generate, stream
from mnemos.models.hybrid import hybrid
from mnemos.models.key_index import KeyIndex
from mnemos.models.language_model import LanguageModel
from mnemos.models.memo import Looks, Memo, MemoSpec, bhattacharyya, memo_loss
from mnemos.models.memory_bank import MemoryBank
from mnemos.models.network import NetworkDeclaration
from mnemos.models.pointer_network import Pointer, PointerNetwork, PointerNetworkSpec
from mnemos.models.segments import Associative, Engrams, LookAhead, MemoryTokens, Segments
from mnemos.models.spec import ModelSpec
from mnemos.models.surprise import read_with_surprise
from mnemos.models.vector_model import VectorModel
from mnemos.models.waiting import flush

__all__ = [
    "Associative",
    "BalancedRouting",
    "BalancedRoutingSpec",
    "ClAM",
    "EndToEndMemory",
    "EndToEndMemorySpec",
    "Engrams",
    "ExplicitMemory",
    "KeyIndex",
    "LanguageModel",
    "LookAhead",
    "Looks",
    "Memo",
    "MemoSpec",
    "MemoryBank",
    "MemoryTokens",
    "ModelSpec",
    "NetworkDeclaration",
    "Pointer",
    "PointerNetwork",
    "PointerNetworkSpec",
    "Segments",
    "VectorModel",
    "bhattacharyya",
    "flush",
    "generate",
    "hybrid",
    "memo_loss",
    "read_with_memories",
    "read_with_surprise",
    "received_attention",
    "stream",
    "with_memories",
    "write_explicit",
]
