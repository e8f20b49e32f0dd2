"""A saved state on disk: one safetensors file of named tensors, and the tree that says what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mnemos.errors import StateError

FORMAT = "mnemos-state-1"


def write_file(path: Path, tensors: dict[str, Tensor], tree: dict[str, Any]) -> Path:
    """Write under a temporary name, then rename; returns the path. Raises StateError if it cannot be written."""
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(owned, temporary, {"format": FORMAT, "tree": json.dumps(tree)})
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        raise StateError(f"cannot write the state to {path}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the tree. Raises StateError if the file is missing, cut short or no saved state."""
    if not path.is_file():
        raise StateError(f"there is no saved state at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise StateError(f"{path} is a safetensors file but no saved state (no {FORMAT!r} mark in it).")
            # Cloned into memory of PyTorch's own: products of tensors aligned otherwise round otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path} is not a readable saved state (cut short or of another kind): {error}.") from error
    return tensors, json.loads(metadata["tree"])
