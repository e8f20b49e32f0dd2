"""Measuring: one small file per measurement, each a function from a model to a frozen result."""

from mnemos.evaluate.bits_per_byte import BitsPerByte, bits_per_byte
from mnemos.evaluate.continuation import Continuation, save_and_continue
from mnemos.evaluate.estimate import Estimate
from mnemos.evaluate.loss_by_position import Bucket, LossByPosition, loss_by_position
from mnemos.evaluate.streaming import Piece, Streaming, held_out_stream, streaming

__all__ = [
    "BitsPerByte",
    "Bucket",
    "Continuation",
    "Estimate",
    "LossByPosition",
    "Piece",
    "Streaming",
    "bits_per_byte",
    "held_out_stream",
    "loss_by_position",
    "save_and_continue",
    "streaming",
]
