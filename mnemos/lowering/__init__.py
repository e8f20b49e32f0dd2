"""From a declaration and a request to an algorithm: the only room that chooses."""

from mnemos.execute import Request
from mnemos.lowering.lower import EXECUTORS, candidates, lower
from mnemos.lowering.plan import Plan
from mnemos.lowering.run import run, run_rows

__all__ = ["EXECUTORS", "Plan", "Request", "candidates", "lower", "run", "run_rows"]
