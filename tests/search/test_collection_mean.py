"""The mean of an index: against all its rows, of cut embeddings, of few and of equal pictures, after changes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.fixtures_search import colour_id, colour_index

from fieldmark.search import collection_mean as module
from fieldmark.search.collection_mean import RememberedMean, collection_mean
from fieldmark.search.index import Index
from fieldmark.search.recall import sample_ids


def all_vectors(index: Index) -> np.ndarray:
    return index.vectors(sample_ids(index, 10_000)).astype(np.float64)


def test_of_a_small_index_it_is_the_mean_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = colour_index(tmp_path, copies=3)
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 5)
    mean = collection_mean(index)
    assert mean.dtype == np.float64 and mean.shape == (4,)
    np.testing.assert_allclose(mean, all_vectors(index).mean(0), atol=1e-7)
    assert np.linalg.norm(mean) < 1, "a mean of embeddings that differ is shorter than they"
    cut = all_vectors(index)[:, :3]
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(collection_mean(index, 3), cut.mean(0), atol=1e-7)
    for dimensions in (0, 5):
        with pytest.raises(ValueError, match="choose a size from 1 to 4"):
            collection_mean(index, dimensions)


def test_a_large_one_is_sampled_and_always_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = colour_index(tmp_path, copies=4)
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    mean = collection_mean(index)
    np.testing.assert_allclose(mean, index.vectors(sample_ids(index, 10)).mean(0), atol=1e-7)
    np.testing.assert_array_equal(mean, collection_mean(index))


def test_few_or_equal_pictures_share_nothing_that_could_be_told(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few, _ = colour_index(tmp_path / "few")
    assert len(few) == 7 and collection_mean(few) is None
    few.delete(sample_ids(few, 7))
    assert collection_mean(few) is None, "an empty index"
    (tmp_path / "equal").mkdir()
    equal, _ = colour_index(tmp_path / "equal", copies=9)
    equal.delete([id for id in sample_ids(equal, 63) if id not in {colour_id("red", n) for n in range(9)}])
    assert len(equal) == 9 and collection_mean(equal) is None


def test_it_is_worked_out_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = colour_index(tmp_path, copies=2)
    asked: list[Index] = []

    def counting(of: Index) -> np.ndarray | None:
        asked.append(of)
        return collection_mean(of)

    monkeypatch.setattr(module, "collection_mean", counting)
    remembered = RememberedMean(index, seconds=0)
    before = remembered.get()
    assert remembered.get() is before and len(asked) == 1
    Index.open(index.path).delete([colour_id("white")])  # as another process would
    after = remembered.get()
    assert len(asked) == 2
    np.testing.assert_allclose(after, all_vectors(index).mean(0), atol=1e-7)
    assert np.abs(after - before).max() > 1e-3
    index.delete(sample_ids(index, 6))
    assert remembered.get() is None and remembered.get() is None and len(asked) == 3, "none is remembered, too"


def test_many_small_changes_cost_one_reading_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = colour_index(tmp_path, copies=2)
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    remembered = RememberedMean(index, seconds=60)
    before = remembered.get()
    index.delete([colour_id("white")])
    now[0] += 59
    assert remembered.get() is before, "an old mean is near enough"
    now[0] += 1
    after = remembered.get()
    np.testing.assert_allclose(after, all_vectors(index).mean(0), atol=1e-7)
    now[0] += 100
    assert remembered.get() is after, "without a change there is nothing to read"
