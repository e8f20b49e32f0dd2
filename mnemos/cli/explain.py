"""`mnemos explain`."""

from __future__ import annotations

from typing import Annotated

import tyro

import mnemos as mn


def command(
    system: Annotated[str, tyro.conf.Positional],
    *,
    length: int = 4096,
    width: int = 256,
    depth: int = 4,
    heads: int | None = None,
) -> None:
    """Say how a system would run: which algorithm and why, its floating point operations, its state's bytes.

    For example:

      mnemos explain gated_deltanet

      mnemos explain titans_mag --length 65536 --width 512 --depth 12

    Args:
        system: A name from `mnemos zoo`.
        length: Tokens of the text.
        width: Channels of the model.
        depth: Layers of the model.
        heads: Heads of each layer; one for every 64 channels if not given.
    """
    entry = mn.zoo.entry(system)
    model = mn.LanguageModel(mn.zoo.model(system, width=width, depth=depth, heads=heads))
    explanation = model.explain(length)
    print(f"{entry.name}: {entry.title} ({entry.year}, arXiv {entry.arxiv})")
    for deviation in entry.deviations:
        print(f"  differs: {deviation}")
    print()
    print(explanation)
