"""Data with an answer: seeded generators of sequences with questions, one task a file.

`make("mqar", pairs=16)` gives a task, `entries()` lists them. Beside them stand generators for networks that are no
sequence models: convex hulls, paired associates, stories.
"""

from mnemos.tasks.base import UNKNOWN, Batch, Task, TokenTask, VectorTask
from mnemos.tasks.convex_hull import Hulls, HullScore, convex_hulls, score_hulls
from mnemos.tasks.paired_associates import Associations, paired_associates
from mnemos.tasks.registry import Entry, entries, entry, make
from mnemos.tasks.stories import WORDS, Stories, stories

__all__ = [
    "UNKNOWN",
    "WORDS",
    "Associations",
    "Batch",
    "Entry",
    "HullScore",
    "Hulls",
    "Stories",
    "Task",
    "TokenTask",
    "VectorTask",
    "convex_hulls",
    "entries",
    "entry",
    "make",
    "paired_associates",
    "score_hulls",
    "stories",
]
