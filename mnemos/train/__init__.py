"""Training: one configuration, one loop, and a folder from which a run can always go on."""

from mnemos.train.checkpoint import Checkpoint, find_checkpoint, load_model
from mnemos.train.config import Optimiser, TrainConfig
from mnemos.train.corpus import Corpus, open_corpus
from mnemos.train.loop import Run, train
from mnemos.train.run import read_metrics
from mnemos.train.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, make_tokenizer

__all__ = [
    "ByteTokenizer",
    "Checkpoint",
    "Corpus",
    "Optimiser",
    "Run",
    "Tokenizer",
    "TrainConfig",
    "find_checkpoint",
    "load_model",
    "load_tokenizer",
    "make_tokenizer",
    "open_corpus",
    "read_metrics",
    "train",
]
