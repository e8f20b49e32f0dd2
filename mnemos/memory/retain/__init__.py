"""What a key-value memory keeps."""

from mnemos.memory.retain.base import Retain
from mnemos.memory.retain.everything import Everything
from mnemos.memory.retain.window import Window

__all__ = ["Everything", "Retain", "Window"]
