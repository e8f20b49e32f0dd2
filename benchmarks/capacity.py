"""Draws docs/images/capacity.png: how many associations four memories hold. About half a minute on one core."""

from __future__ import annotations

from pathlib import Path

import mnemos as mn

FAMILIES = {
    "Hebbian (linear attention)": mn.Memory(mn.Matrix(), mn.Dot(), mn.Keep(), mn.GD(rate=1.0)),
    "delta rule": mn.Memory(mn.Matrix(), mn.L2(), mn.Keep(), mn.GD(rate=1.0)),
    "sharp attention, last 64": mn.KVMemory(retain=mn.Window(64), read=mn.Softmax(scale=16.0)),
    "sharp attention": mn.KVMemory(read=mn.Softmax(scale=16.0)),
}

if __name__ == "__main__":
    counts = sorted({round(2 ** (i / 3)) for i in range(34)})
    found = mn.capacity(FAMILIES, key_dim=(4, 8, 16, 32, 64), value_dim=16, counts=counts, threshold=0.25)
    print(found)
    found.draw(Path(__file__).parents[1] / "docs" / "images" / "capacity.png")
