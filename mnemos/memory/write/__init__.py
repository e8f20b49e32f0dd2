"""What a key-value memory takes up."""

from mnemos.memory.write.append import Append

__all__ = ["Append"]
