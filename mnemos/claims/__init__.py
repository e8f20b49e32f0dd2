"""Published claims, one a file: what the paper says, how it is measured here, and what was found.

`claims()` lists them; `run(name, folder)` measures one; `mnemos claims` does both from the command line. The findings
that come with the package are in `results/`.
"""

from mnemos.claims.base import Bench, Claim, Findings, Line, Panel, Report, Statement, claim, difference, over_seeds
from mnemos.claims.registry import claims, find, kept, run

__all__ = [
    "Bench",
    "Claim",
    "Findings",
    "Line",
    "Panel",
    "Report",
    "Statement",
    "claim",
    "claims",
    "difference",
    "find",
    "kept",
    "over_seeds",
    "run",
]
