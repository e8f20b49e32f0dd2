"""Looking inside: what memories can hold, and what they hold."""

from mnemos.inspect.capacity import Capacity, Curve, capacity

__all__ = ["Capacity", "Curve", "capacity"]
