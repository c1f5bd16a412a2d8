"""How much of what exact search finds the approximate index finds, too."""

import hashlib
import heapq
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fieldmark.search.index import Index

_TIE = 1e-6


@dataclass(frozen=True)
class MeasuredRecall:
    """recall: mean share of the k exact neighbours that the index finds. Milliseconds are per query, one at a time."""

    k: int
    num_queries: int
    recall: float
    lowest: float
    """Of the query that did worst."""
    approximate_ms: float
    exact_ms: float

    def as_text(self) -> str:
        """One line."""
        return (
            f"recall@{self.k} {self.recall:.4f} against exact search (worst query {self.lowest:.2f}; "
            f"{self.num_queries} rows as queries; {self.approximate_ms:.1f} ms a query, exact {self.exact_ms:.1f} ms)"
        )


def measure_recall(index: "Index", k: int = 10, num_queries: int = 200, seed: int = 0) -> MeasuredRecall:
    """Search for rows of the index as it would, and exactly; the row itself does not count.

    Rows at the same distance as the last of the k are as good as it. The same seed chooses the same rows.

    Raises:
        ValueError: k or num_queries below 1, or an index of fewer than two rows.
    """
    if k < 1 or num_queries < 1:
        raise ValueError(f"k and num_queries must be at least 1, got {k} and {num_queries}")
    ids = sample_ids(index, num_queries, seed)
    if len(ids) < 2:
        raise ValueError(f"{index.path} has {len(ids)} rows: recall is measured on two or more")
    shares: list[float] = []
    seconds = np.zeros(2)
    for id, vector in zip(ids, index.vectors(ids), strict=True):
        started = time.perf_counter()
        found = index.nearest(vector, k + 1)
        middle = time.perf_counter()
        true = index.nearest(vector, 2 * k + 1, exact=True)  # more than k, for the ties
        seconds += middle - started, time.perf_counter() - middle
        true = [(row, score) for row, score in true if row.id != id]
        wanted = min(k, len(true))
        good = {row.id for row, score in true if score >= true[wanted - 1][1] - _TIE}
        hits = [row.id for row, _ in found if row.id != id][:k]
        shares.append(min(wanted, sum(hit in good for hit in hits)) / wanted)
    milliseconds = 1000 * seconds / len(ids)
    return MeasuredRecall(
        k, len(ids), float(np.mean(shares)), min(shares), float(milliseconds[0]), float(milliseconds[1])
    )


def sample_ids(index: "Index", count: int, seed: int = 0) -> list[str]:
    """Ids of rows, drawn evenly: the same rows for the same seed, in whatever order they are stored."""
    key = seed.to_bytes(8, "little")
    ids = (id for batch in index.scan(("id",)) for id in batch.column("id").to_pylist())
    drawn = heapq.nsmallest(count, ((hashlib.blake2b(id.encode(), key=key, digest_size=8).digest(), id) for id in ids))
    return [id for _, id in drawn]
