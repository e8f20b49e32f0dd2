"""Models that mix two kinds of layer in a ratio."""

from __future__ import annotations

import math
from typing import Any

from mnemos.errors import expect
from mnemos.layers import LayerDeclaration, LayerSpec
from mnemos.memory import AnyMemory
from mnemos.models.spec import ModelSpec

Mixer = LayerDeclaration | AnyMemory


def hybrid(linear: Mixer, full: Mixer, ratio: float, depth: int = 24, **fields: Any) -> ModelSpec:
    """A model of `depth` blocks with one `full` layer after every `ratio` `linear` ones (arXiv 2507.06457).

    Block i, counted from 0, is full where i + 1 is a multiple of ratio + 1. ratio: a whole number of at least 0, which
    is a model of full layers only, or math.inf for one of linear layers only. Where a finite ratio leaves no room for
    a full layer (24 to 1 in 24 blocks), the last block is one. fields: further fields of ModelSpec.

        [mn.models.hybrid(mn.zoo.hgrn2(), mn.LayerSpec(mn.KVMemory()), ratio) for ratio in (math.inf, 24, 12, 6, 3, 0)]
    """
    expect(
        ratio == math.inf or (ratio >= 0 and ratio == int(ratio)),
        f"hybrid(ratio=) is a whole number of linear layers for each full one, or math.inf for none; got {ratio}.",
    )
    expect(isinstance(depth, int) and depth >= 1, f"hybrid(depth=) is a number of blocks of at least 1; got {depth!r}.")
    period = min(ratio + 1, depth)
    places = [ratio != math.inf and (i + 1) % period == 0 for i in range(depth)]
    layers = [LayerSpec(mixer) if isinstance(mixer, AnyMemory) else mixer for mixer in (linear, full)]
    return ModelSpec(pattern=tuple(layers[place] for place in places), depth=depth, **fields)
