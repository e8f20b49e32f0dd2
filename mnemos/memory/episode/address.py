"""An episode's summary: the mean of vectors made for the purpose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mnemos.memory.control import Control
from mnemos.memory.episode.mean_key import MeanKey


@dataclass(frozen=True)
class Address(MeanKey):
    """The mean of the tokens' addresses, matched with a vector that asks for them (HCAM, arXiv 2105.14039).

    Both come as controls of key_dim channels a head, "address" with every token and "asking" with every query, so that
    an episode is found by other projections than those it is read by.
    """

    own = True

    @property
    def write_controls(self) -> tuple[Control, ...]:
        return (Control("address", "channel", -math.inf, math.inf, "by which its episode is found"),)

    @property
    def read_controls(self) -> tuple[Control, ...]:
        return (Control("asking", "channel", -math.inf, math.inf, "which addresses are looked for"),)
