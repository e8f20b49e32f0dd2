"""Numbers that decide something are compared without their last digits.

Repeated tokens have equal keys, so that ties are common; which of two equals is larger by rounding depends on how a run
was cut, and must not decide.
"""

DECIMALS = 6

MARGIN = 1e-5
"""By how much a surprise must exceed its threshold."""
