"""RNNs and linear recurrences approach the Bayes-optimal predictor of a switching source."""

from __future__ import annotations

import torch

import mnemos as mn
from mnemos.claims.base import Bench, Findings, Line, Panel, Statement, best_rate, claim, over_seeds
from mnemos.evaluate.trial import Trial
from mnemos.tasks import Task, make
from mnemos.train import Optimiser
