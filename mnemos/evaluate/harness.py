"""Models of mnemos in EleutherAI's lm-evaluation-harness; importing this file registers them as "mnemos".

import lm_eval, mnemos.evaluate.harness
lm_eval.simple_evaluate("mnemos", "checkpoint=runs/first", tasks=["my_task"], ...)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mnemos.errors import InvalidValue, RunError, expect
from mnemos.evaluate.scoring import Scorer

try:
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise RunError('this needs lm-evaluation-harness: pip install "mnemos[eval]".') from error

NEW_TOKENS = 256
"""Tokens written at most where a task does not say."""
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model("mnemos")
class HarnessModel(LM):
    """A trained model as the harness's tasks ask it: see `Scorer`, which does the work.

    It has no maximum length and cuts nothing. checkpoint: the folder of a run, for its newest checkpoint, or of one
    checkpoint. batch_size: texts read together; "auto" is 16. device: cpu, cuda, or auto for a CUDA device if there is
    one. max_batch_size: what "auto" may not exceed.

    Raises RunError if there is no checkpoint; InvalidValue for a batch size or device that cannot be.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        batch_size: int | str = "auto",
        device: str = "auto",
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InvalidValue(f"device={device} was asked for, but there is no CUDA device. Write device=cpu.")
        self.scorer = Scorer.of_checkpoint(checkpoint, device=device, batch=_batch(batch_size, max_batch_size))
        self._device = torch.device(device)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """`(log p(continuation | context), whether it is greedy)` for each request's (context, continuation)."""
        pairs = [request.args for request in requests]
        answers = [(found.log_p, found.greedy) for found in self.scorer.likelihoods(pairs)]
        return self._kept("loglikelihood", requests, answers)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """`log p(text)` for each request's (text,), read as one document however long."""
        answers = self.scorer.document_likelihoods([request.args[0] for request in requests])
        return self._kept("loglikelihood_rolling", requests, answers)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What follows each request's (context, settings).

        Settings: until, max_gen_toks or its other names, do_sample, temperature, top_p, seed. Raises InvalidValue for
        any other.
        """
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            settings = _settings(requests[numbers[0]].args[1])
            texts = self.scorer.continuations([requests[number].args[0] for number in numbers], **settings)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
        return self._kept("generate_until", requests, answers)

    def _kept(self, what: str, requests: list[Instance], answers: list[Any]) -> list[Any]:
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(what, request.args, answer)
        return answers


def evaluate(
    model: HarnessModel,
    tasks: Sequence[str],
    *,
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """What the harness measures on these tasks: its own record, without the single answers.

    include: a folder with YAML files of further tasks. shots: solved examples before each question; as each task says
    if None. limit: questions of each task at most. Raises InvalidValue for a task that the harness does not know.
    """
    expect(bool(tasks), "name at least one task.")
    manager = TaskManager(include_path=None if include is None else str(include))
    for name in tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=1)
        hint = f"did you mean {near[0]}?" if near else "give the folder of its YAML file."
        expect(name in manager.all_tasks, f"the harness has no task called {name!r}; {hint}")
    found = simple_evaluate(
        model, tasks=list(tasks), num_fewshot=shots, limit=limit, task_manager=manager, log_samples=False
    )
    assert found is not None  # only other processes than the first get nothing
    return found


def table(found: Mapping[str, Any]) -> str:
    """What `evaluate` returned, for the terminal: the tasks, and groups of tasks below."""
    parts = [make_table(found), *([make_table(found, "groups")] if found.get("groups") else [])]
    return "\n".join(parts)


def _batch(size: int | str, most: int | None) -> int:
    if isinstance(size, str) and size.split(":")[0] == "auto":
        return min(16, int(most)) if most else 16
    try:
        return int(size)
    except ValueError:
        raise InvalidValue(f"batch_size counts texts read together, or is auto; got {size!r}.") from None


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's settings of a generation, as those of `Scorer.continuations`."""
    rest = dict(given)
    until = rest.pop("until", None) or []
    lengths = [length for name in LIMITS if (length := rest.pop(name, None)) is not None]
    temperature, sampled = rest.pop("temperature", None), rest.pop("do_sample", None)
    if sampled is False or temperature is None:
        temperature = 1.0 if sampled else 0.0
    top_p = rest.pop("top_p", None)
    found = {
        "length": int(lengths[0]) if lengths else NEW_TOKENS,
        "stops": [until] if isinstance(until, str) else [stop for stop in until if stop],
        "temperature": float(temperature),
        "top_p": top_p if temperature else None,
        "seed": int(rest.pop("seed", 0)),
    }
    if rest:
        raise InvalidValue(
            f"a task asks for {', '.join(f'{name}={value!r}' for name, value in rest.items())} in generation; mnemos "
            f"knows until, {LIMITS[0]}, do_sample, temperature, top_p and seed. Change the task's generation_kwargs."
        )
    return found
