"""The nearest of many vectors."""

from __future__ import annotations

import importlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mnemos.errors import InvalidType, InvalidValue, expect

PIECE = 1 << 16
"""Vectors compared at once."""


class KeyIndex:
    """Vectors by number, in the order in which they were added, and those of them that are nearest to a query by the
    cosine of their angle.

    channels: their width. method: "exact" compares a query with all of them; "usearch" looks through a graph of
    neighbours (HNSW, arXiv 1603.09320) by the library of that name, the extra `mnemos[retrieval]`, which pays from
    about 100,000 vectors on and may miss some. Vectors lie in the host's memory.

    Raises InvalidValue for sizes that cannot be, and where the library is missing.
    """

    def __init__(self, channels: int, method: Literal["exact", "usearch"] = "exact"):
        expect(isinstance(channels, int) and channels >= 1, f"KeyIndex(channels=) is at least 1; got {channels!r}.")
        expect(method in ("exact", "usearch"), f'KeyIndex(method=) is "exact" or "usearch"; got {method!r}.')
        self.channels, self.method = channels, method
        self.vectors = torch.zeros(0, channels)
        self._graph: Any = None
        if method == "usearch":
            try:
                library = importlib.import_module("usearch.index")
            except ImportError as error:
                raise InvalidValue(
                    'KeyIndex(method="usearch") needs the library usearch: install mnemos[retrieval], or use '
                    'method="exact".'
                ) from error
            self._graph = library.Index(ndim=channels, metric="cos", dtype="f32")

    def __len__(self) -> int:
        return len(self.vectors)

    def add(self, vectors: Tensor) -> range:
        """Takes up vectors (n, channels); returns their numbers. Raises InvalidType or InvalidValue for others."""
        vectors = self._checked(vectors)
        numbers = range(len(self), len(self) + len(vectors))
        self.vectors = torch.cat([self.vectors, vectors])
        if self._graph is not None and len(vectors):
            self._graph.add(torch.arange(numbers.start, numbers.stop).numpy(), vectors.numpy())
        return numbers

    def search(self, queries: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The numbers and cosines, (m, number) each, best first, of the vectors nearest to queries (m, channels).

        Raises InvalidType or InvalidValue for other queries, or for more than there are.
        """
        queries = self._checked(queries)
        expect(
            isinstance(number, int) and 1 <= number <= len(self),
            f"search(number=) lies between 1 and the {len(self)} vectors there are; got {number!r}.",
        )
        if self._graph is not None:
            found = self._graph.search(queries.numpy(), number)
            numbers = torch.from_numpy(found.keys.astype("int64")).view(len(queries), number)
            return numbers, 1 - torch.from_numpy(found.distances.astype("float32")).view(len(queries), number)
        best, numbers = queries.new_zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(self), PIECE):
            here = queries @ self.vectors[start : start + PIECE].T
            places = torch.arange(start, start + here.shape[1]).expand(len(queries), -1)
            best, chosen = torch.cat([best, here], 1).topk(min(number, best.shape[1] + here.shape[1]), 1)
            numbers = torch.cat([numbers, places], 1).gather(1, chosen)
        return numbers, best

    def _checked(self, vectors: Tensor) -> Tensor:
        """In the host's memory, of length 1."""
        if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
            given = getattr(vectors, "dtype", type(vectors).__name__)
            raise InvalidType(f"KeyIndex takes floating point tensors; got {given}.")
        if vectors.ndim != 2 or vectors.shape[1] != self.channels:
            raise InvalidValue(f"KeyIndex takes vectors (n, {self.channels}); got shape {tuple(vectors.shape)}.")
        expect(bool(torch.isfinite(vectors).all()), "KeyIndex takes finite vectors; got NaN or infinity.")
        return F.normalize(vectors.detach().cpu().float(), dim=-1)
