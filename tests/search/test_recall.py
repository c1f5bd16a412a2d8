"""Recall of a search that misses on purpose."""

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures_search import colour_index

from fieldmark.search.index import Index
from fieldmark.search.recall import measure_recall, sample_ids
from fieldmark.search.schema import Row


class Forgetful:
    """An index that never finds every third of the exact neighbours."""

    def __init__(self, index: Index) -> None:
        self.inner, self.path, self.vectors, self.scan = index, index.path, index.vectors, index.scan

    def nearest(self, vector: np.ndarray, k: int, exact: bool = False) -> list[tuple[Row, float]]:
        found = self.inner.nearest(vector, k, exact=True)
        return found if exact else [one for place, one in enumerate(found) if place % 3 != 2]


def test_exact_search_finds_all_and_a_forgetful_one_what_it_finds(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)
    exact = measure_recall(index, k=3)
    assert exact.recall == exact.lowest == 1.0 and exact.num_queries == 7 and exact.exact_ms > 0
    # of self and three others, place 2 is missing: two of three are found
    forgetful = measure_recall(Forgetful(index), k=3)  # type: ignore[arg-type]
    assert forgetful.recall == pytest.approx(2 / 3) and forgetful.lowest == pytest.approx(2 / 3)
    assert "recall@3 0.6667 against exact search" in forgetful.as_text()
    assert measure_recall(index, k=50).recall == 1.0  # fewer rows than k


def test_ties_are_as_good_as_one_another(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path, copies=4)
    assert measure_recall(index, k=2, num_queries=28).recall == 1.0
    # Two of the three copies of itself, whichever they are, are right answers; a third is not missed.
    assert measure_recall(Forgetful(index), k=1, num_queries=28).recall == 1.0  # type: ignore[arg-type]


def test_the_same_seed_draws_the_same_rows(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)
    assert sample_ids(index, 3) == sample_ids(index, 3) and len(set(sample_ids(index, 3))) == 3
    assert {tuple(sample_ids(index, 3, seed)) for seed in range(6)} != {tuple(sample_ids(index, 3))}
    assert len(sample_ids(index, 100)) == 7


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        measure_recall(index, k=0)
    index.delete(sample_ids(index, 6))
    with pytest.raises(ValueError, match="has 1 rows"):
        measure_recall(index)
