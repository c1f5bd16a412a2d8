"""Groups of near-duplicates against comparing every pair by hand."""

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures_search import colour_index

from fieldmark.search.duplicates import linked, near_duplicates


def twin(vectors: np.ndarray, threshold: float) -> set[frozenset[int]]:
    """Groups by following every link from every vector."""
    similar = vectors @ vectors.T >= threshold
    groups = set()
    for one in range(len(vectors)):
        reached, waiting = {one}, [one]
        while waiting:
            new = set(np.flatnonzero(similar[waiting.pop()]).tolist()) - reached
            reached |= new
            waiting += new
        groups.add(frozenset(reached))
    return {group for group in groups if len(group) > 1}


@pytest.mark.parametrize("block", [1, 7, 16, 100])
@pytest.mark.parametrize("threshold", [0.8, 0.92, 0.99])
def test_groups_are_those_of_comparing_every_pair(block: int, threshold: float) -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(12, 8))
    vectors = centres[generator.integers(0, 12, 60)] + 0.35 * generator.normal(size=(60, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    expected = twin(vectors, threshold)
    found = linked(vectors, threshold, block=block)
    assert {frozenset(group) for group in found} == expected and len(found) == len(expected)
    if threshold < 0.99:
        assert 1 < len(expected) < 30  # the case says something


def test_a_chain_is_one_group_over_blocks() -> None:
    angles = np.arange(40) * 0.1
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert [sorted(group) for group in linked(vectors, np.cos(0.11), block=6)] == [list(range(40))]
    assert linked(vectors, np.cos(0.09), block=6) == []


def test_equal_vectors_are_duplicates_at_one() -> None:
    vectors = np.tile(np.float32([[0.6, 0.8, 1e-3]]) / np.float32(1.0000005), (5, 1))
    assert [sorted(group) for group in linked(vectors, 1.0)] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="choose a cosine similarity"):
        linked(np.eye(2, dtype=np.float32), threshold)


def test_duplicates_of_an_index(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path, copies=3)
    done: list[float] = []
    found = near_duplicates(index, 0.999, progress=done.append)
    assert found.num_rows == 21 and len(found.groups) == 7 and found.num_superfluous == 14 and found.threshold == 0.999
    assert done[-1] == 1.0 and found.seconds > 0
    group = next(one for one in found.groups if one.rows[0].path.startswith("green"))
    assert [row.path for row in group.rows] == ["green-2.png", "green-0.png", "green-1.png"]  # the widest first
    assert group.scores == pytest.approx((1.0, 1.0, 1.0)) and max(group.scores) <= 1.0

    wide = near_duplicates(index, 0.8, where="colour IN ('red', 'orange', 'green')")
    assert [len(one.rows) for one in wide.groups] == [6, 3] and wide.num_rows == 9
    assert wide.groups[0].scores[:3] == pytest.approx((1, 1, 1)) and wide.groups[0].scores[3] < 0.95
    with pytest.raises(ValueError, match="no column"):
        near_duplicates(index, where="embedding IS NULL")
