"""Data with an answer: seeded generators of sequences with questions, one task a file.

`make("mqar", pairs=16)` gives a task, `entries()` lists them. Beside them stand generators for networks that are no
sequence models: convex hulls, paired associates, stories; and codes that switching sources are measured against.
"""

from mnemos.tasks.base import UNKNOWN, Batch, Task, TokenTask, VectorTask
from mnemos.tasks.convex_hull import Hulls, HullScore, convex_hulls, score_hulls
from mnemos.tasks.paired_associates import Associations, paired_associates
from mnemos.tasks.partition_tree import krichevsky_trofimov, partition_tree_weighting
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
    "krichevsky_trofimov",
    "make",
    "paired_associates",
    "partition_tree_weighting",
    "score_hulls",
    "stories",
]
