"""From a declaration and a request to an algorithm: the only room that chooses."""

from mnemos.execute import Request
from mnemos.lowering.divergence import Failures, checked_over_documents
from mnemos.lowering.lower import EXECUTORS, candidates, lower
from mnemos.lowering.plan import Plan
from mnemos.lowering.run import run, run_rows

__all__ = [
    "EXECUTORS",
    "Failures",
    "Plan",
    "Request",
    "candidates",
    "checked_over_documents",
    "lower",
    "run",
    "run_rows",
]
