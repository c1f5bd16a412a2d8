"""What the pictures of an index have in common: the mean of their embeddings, estimated from some of them."""

import math
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from fieldmark.search.recall import sample_ids

if TYPE_CHECKING:
    from fieldmark.search.index import Index

LEAST_ROWS = 8
"""Rows from which on there is a mean: that of a few pictures is those pictures rather than what they share."""
MOST_ROWS = 4096
"""Rows that are drawn: of embeddings of unit length, their mean is off by 1/64 on average, or less."""
LEAST_VARIANCE = 1e-4
"""Mean squared distance from the mean, below which nothing but rounding tells the pictures apart."""
_ROWS_AT_A_TIME = 1024


def collection_mean(index: "Index", dimensions: int | None = None) -> np.ndarray | None:
    """The mean embedding of the index's pictures, float64 (D,), not normalised: shorter the more they differ.

    Of at most `MOST_ROWS` rows, always the same ones of the same collection; no more are in memory.

    Args:
        dimensions: of embeddings cut to their first numbers and normalised again.

    Returns:
        None if the index has fewer than `LEAST_ROWS` rows or its pictures are all but the same.

    Raises:
        ValueError: dimensions that the embeddings do not have.
    """
    size = index.embedding_size if dimensions is None else dimensions
    if not 1 <= size <= index.embedding_size:
        raise ValueError(f"dimensions is {size}: choose a size from 1 to {index.embedding_size}")
    ids = sample_ids(index, MOST_ROWS)
    total, count = np.zeros(size), 0
    for start in range(0, len(ids), _ROWS_AT_A_TIME):
        # Asked for by a condition, unlike `Index.vectors`, so that a row that was deleted meanwhile is passed over.
        condition = "id IN (" + ", ".join(f"'{id}'" for id in ids[start : start + _ROWS_AT_A_TIME]) + ")"
        for batch in index.scan(("embedding",), condition):
            flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(batch.num_rows, index.embedding_size)[:, :size].astype(np.float64)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            total += (vectors / np.maximum(lengths, np.finfo(np.float64).tiny)).sum(0)
            count += batch.num_rows
    if count < LEAST_ROWS:
        return None
    mean: np.ndarray = total / count
    # Of vectors of unit length, the mean squared distance from the mean is 1 − |mean|². What passes is also at least
    # LEAST_VARIANCE / 2 away from every embedding there is, so that none is left without direction.
    return mean if 1 - mean @ mean >= LEAST_VARIANCE else None


class RememberedMean:
    """`collection_mean` of an index that others change: worked out again once the index has another version, but at
    most once in ``seconds``, for it reads all ids. What a few additions change of a mean is not worth that; that there
    is one now is.

    May be asked by many threads; one works it out while the others wait.
    """

    def __init__(self, index: "Index", seconds: float = 60.0) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._seconds = seconds
        self._at = -math.inf
        self._version: int | None = None
        self._mean: np.ndarray | None = None

    def get(self) -> np.ndarray | None:
        """As `collection_mean`."""
        with self._lock:
            version = self._index.table.version  # before the rows are read: a change in between is seen next time
            rests = self._mean is not None and time.monotonic() - self._at < self._seconds
            if version != self._version and not rests:
                self._mean, self._version = collection_mean(self._index), version
                self._at = time.monotonic()
            return self._mean
