"""Generated tasks with known answers, for models that are no language models."""

from mnemos.tasks.convex_hull import Hulls, HullScore, convex_hulls, score_hulls
from mnemos.tasks.paired_associates import Associations, paired_associates
from mnemos.tasks.stories import WORDS, Stories, stories

__all__ = [
    "WORDS",
    "Associations",
    "HullScore",
    "Hulls",
    "Stories",
    "convex_hulls",
    "paired_associates",
    "score_hulls",
    "stories",
]
