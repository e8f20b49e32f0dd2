"""Scores by a network."""

from __future__ import annotations

import torch
from torch import Tensor

from mnemos.memory.control import Controls
from mnemos.memory.read import MLPScores


def mlp_scores(
    rule: MLPScores, q: Tensor, keys: Tensor, values: Tensor, lag: Tensor, controls: Controls
) -> tuple[Tensor, Tensor]:
    f = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu}[rule.activation]
    matrix = controls["second_weight"].view(rule.hidden, len(q))
    scores = []
    for key in keys:
        first = f(q + key + controls["first_bias"])
        scores.append(controls["third_weight"] @ f(matrix @ first + controls["second_bias"]))
    weights = torch.softmax(torch.stack(scores), 0)
    return weights @ values, weights
