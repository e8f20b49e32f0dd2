"""`mnemos capacity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

import mnemos as mn
from mnemos.errors import InvalidValue, RunError
from mnemos.inspect import Capacity, capacity
from mnemos.layers import LayerSpec
from mnemos.memory import AnyMemory, DenseAssociative, Hopfield, Willshaw
from mnemos.models import ModelSpec
from mnemos.train.files import replace_text

PLAIN: dict[str, AnyMemory] = {
    "hebb": mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0)),
    "delta": mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0)),
    "softmax": mn.KVMemory(read=mn.Softmax(scale=32.0)),
    "hopfield": mn.KVMemory(read=Hopfield(1, scale=32.0)),
    "dense": mn.KVMemory(read=DenseAssociative()),
    "willshaw": Willshaw(),
}
"""Memories by a word of their own, beside those of the zoo."""


def command(
    memories: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    key_dim: tuple[int, ...] = (16, 32, 64),
    measure: Literal["squared", "missed"] = "squared",
    threshold: float = 0.1,
    noise: float = 0.0,
    seeds: int = 8,
    picture: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    overwrite: bool = False,
) -> None:
    """Say how many random associations memories recall before they mix them up, by no network at all.

    For example:

      mnemos capacity hebb delta softmax

      mnemos capacity hebb gated_deltanet --key-dim 16 64 --picture capacity.png

    Args:
        memories: Names from `mnemos zoo` whose layers are built around one memory, or hebb, delta, softmax, hopfield,
            dense, willshaw.
        key_dim: Channels of keys and values, one size or several.
        measure: Squared error relative to the values, or the share of associations that are missed.
        threshold: The error that counts as failure.
        noise: How far the cues are from the keys.
        seeds: Independent draws of the associations.
        picture: Also draw it to this file, .png or .svg.
        json_file: Also write everything measured to this file.
        overwrite: Let --picture and --json replace existing files.
    """
    for name, path in (("--picture", picture), ("--json", json_file)):
        if path is not None and path.exists() and not overwrite:
            raise RunError(f"{name} {path} exists already. Give another name, or --overwrite to replace it.")
    if not memories:
        raise InvalidValue(f"name at least one memory: a system of `mnemos zoo`, or {', '.join(PLAIN)}.")
    found: Capacity = capacity(
        {name: memory_of(name) for name in memories},
        key_dim=key_dim,
        measure=measure,
        threshold=threshold,
        noise=noise,
        seeds=seeds,
    )
    print(found)
    if picture is not None:
        print(f"drawn to {found.draw(picture)}")
    if json_file is not None:
        replace_text(json_file, found.to_json() + "\n")
        print(f"written to {json_file}")


def memory_of(name: str) -> AnyMemory:
    """The memory of this word or system; raises InvalidValue for a system that is not one layer around a memory."""
    if name in PLAIN:
        return PLAIN[name]
    spec = mn.zoo.entry(name).build()
    layer = spec.pattern[0] if isinstance(spec, ModelSpec) and len(spec.pattern) == 1 else spec
    if not isinstance(layer, LayerSpec):
        raise InvalidValue(
            f"{name} is not a single memory in a layer, so it cannot be asked by itself; give one of its parts, or "
            f"{', '.join(PLAIN)}."
        )
    return layer.memory
