"""From what a configuration calls its system to the declaration of a model."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import mnemos as mn
from mnemos.errors import DataError, InvalidType, InvalidValue, MnemosError
from mnemos.train.config import TrainConfig

WIDTH, DEPTH = 256, 4


def model_spec(config: TrainConfig, vocabulary: int) -> mn.ModelSpec:
    """The declaration of the model that `config` asks for, with this vocabulary.

    A name of the zoo, a layer's or a memory's declaration is stacked to the configured width, depth and
    heads. A file that declares a whole model stands as it is. Raises InvalidValue for unknown names, for
    sizes given twice and for another vocabulary; DataError for a file that is missing or fails.
    """
    width, depth = config.width or WIDTH, config.depth or DEPTH
    if Path(config.system).suffix not in (".json", ".py"):
        return mn.zoo.model(config.system, width=width, depth=depth, heads=config.heads, vocabulary=vocabulary)
    declared = _read(Path(config.system))
    if not isinstance(declared, mn.ModelSpec):
        return mn.ModelSpec((declared,), width, depth, config.heads, vocabulary)
    sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
    given = [f"--{name} {value}" for name, value in sizes.items() if value is not None]
    if given:
        raise InvalidValue(
            f"{config.system} declares a whole model, with its own sizes, but {', '.join(given)} was given "
            "as well. Leave that out, or change the file."
        )
    if declared.vocabulary != vocabulary:
        raise InvalidValue(
            f"{config.system} declares a vocabulary of {declared.vocabulary}, but the tokenizer "
            f"{config.tokenizer!r} has {vocabulary} ids. Write vocabulary={vocabulary} in the file."
        )
    return declared


def _read(path: Path) -> Any:
    """What the file declares."""
    try:
        if path.suffix == ".json":
            return mn.from_json(path.read_text(encoding="utf-8"))
        names = runpy.run_path(str(path))
    except MnemosError:
        raise
    except OSError as error:
        raise DataError(f"the model file {path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        raise DataError(f"the model file {path} failed with {type(error).__name__}: {error}") from error
    if "spec" not in names:
        raise InvalidType(f"the model file {path} defines no `spec`. Write `spec = mn.ModelSpec(...)` in it.")
    return names["spec"]
