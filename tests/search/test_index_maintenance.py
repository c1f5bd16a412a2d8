"""The approximate index, compaction, verification, export, and what is told about an index."""

import dataclasses
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.search.index_worlds import GridEncoder, draw, draw_folder

from fieldmark.search.build import BuildConfig, BuildReport, build_index
from fieldmark.search.export import export_rows
from fieldmark.search.index import Index
from fieldmark.search.maintenance import VectorIndexConfig, bytes_on_disk, compact, describe, is_behind, make_indices
from fieldmark.search.schema import Row, picture_id, rows_table
from fieldmark.search.verify import REMEDIES, Verification, verify_index


def built(tmp_path: Path, count: int = 12, **options: object) -> tuple[Index, BuildReport]:
    root = draw_folder(tmp_path / "birds", count)
    config = BuildConfig(images=str(root), index=str(tmp_path / "index"), workers=0, **options)
    report = build_index(config, GridEncoder())
    return Index.open(tmp_path / "index"), report


def verified(index: Index, encoder: GridEncoder | None = None, **options: object) -> Verification:
    return verify_index(index, encoder or GridEncoder(), np.random.default_rng(0), **options)


def filled(tmp_path: Path, count: int) -> Index:
    """Random rows of one folder."""
    index = Index.create(tmp_path / "index", GridEncoder(), tmp_path)
    vectors = np.random.default_rng(0).normal(size=(count, 13)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [Row(picture_id(f"{n}"), f"{n}", 1, "0" * 64, 1, 1) for n in range(count)]
    for start in range(0, count, 100):
        part = slice(start, start + 100)
        index.append(rows_table(index.table.schema, rows[part], vectors[part]))
    return index


# ---- the approximate index


def test_small_indices_are_exact_and_large_ones_approximate(tmp_path: Path) -> None:
    assert not VectorIndexConfig().wanted(49_999) and VectorIndexConfig().wanted(50_000)
    assert VectorIndexConfig("approximate").wanted(1) and not VectorIndexConfig("exact").wanted(10**9)
    index, _ = built(tmp_path, vectors=VectorIndexConfig(exact_below=13))
    assert describe(index).vector_index == "exact"
    draw_folder(tmp_path / "birds", 3, first=12)
    index, _ = built(tmp_path, vectors=VectorIndexConfig(exact_below=13))
    info = describe(index)
    assert "Hnsw" in info.vector_index and info.rows_in_vector_index == len(index) == 15


def test_approximate_search_finds_what_exact_search_finds(tmp_path: Path) -> None:
    index = filled(tmp_path, 500)
    assert make_indices(index, VectorIndexConfig("approximate")) and not is_behind(index)
    vectors = np.random.default_rng(1).normal(size=(10, 13)).astype(np.float32)
    for vector in vectors:
        near, exact = index.nearest(vector, 10), index.nearest(vector, 10, exact=True)
        assert len({row.id for row, _ in near} & {row.id for row, _ in exact}) >= 9
        np.testing.assert_allclose(near[0][1], exact[0][1], atol=1e-5)  # refined: true cosines
    index.effort = dataclasses.replace(index.effort, nprobes=1, ef=30, refine_factor=None)
    assert len(index.nearest(vectors[0], 20)) == 20


def test_new_rows_are_found_before_and_after_they_are_in_the_approximate_index(tmp_path: Path) -> None:
    index = filled(tmp_path, 300)
    make_indices(index, VectorIndexConfig("approximate"))
    vector = np.eye(13, dtype=np.float32)[:1]
    index.append(rows_table(index.table.schema, [Row(picture_id("new"), "new", 1, "0" * 64, 1, 1)], vector))
    assert is_behind(index) and index.nearest(vector[0], 1)[0][0].path == "new"
    compact(index)
    assert not is_behind(index) and index.nearest(vector[0], 1)[0][0].path == "new"
    index.delete([picture_id("new")])
    assert index.nearest(vector[0], 1)[0][0].path != "new"
    make_indices(index, VectorIndexConfig("exact"))
    assert describe(index).vector_index == "exact"


# ---- compaction


def test_compaction_merges_and_frees_and_keeps_every_row(tmp_path: Path) -> None:
    index = filled(tmp_path, 1000)
    ids = [picture_id(f"{n}") for n in range(1000)]
    index.delete(ids[:500])
    (index.path / "pictures.lance" / "data" / "left-by-a-killed-writer.lance").write_bytes(b"x" * 100_000)
    before = index.vectors(ids[500:])
    done = compact(index, keep=timedelta(0))
    assert done.fragments_before == 5 and done.fragments_after == 1
    assert done.bytes_after == bytes_on_disk(index.path) < done.bytes_before - 100_000
    np.testing.assert_array_equal(Index.open(index.path).vectors(ids[500:]), before)


def test_readers_of_young_versions_are_not_disturbed(tmp_path: Path) -> None:
    index = filled(tmp_path, 1000)
    batches = index.scan(("id",), batch_size=50)
    next(batches)
    index.delete([picture_id(f"{n}") for n in range(900)])
    compact(index)
    assert 50 + sum(batch.num_rows for batch in batches) == 1000 and len(index) == 100


# ---- verification


def test_a_good_index_is_good(tmp_path: Path) -> None:
    index, _ = built(tmp_path)
    found = verified(index, sample=5)
    assert found.good and (found.rows, found.recomputed) == (12, 5) and found.worst_similarity > 0.99999
    assert verified(index, sample=100).recomputed == 12


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    index, _ = built(tmp_path)
    root = tmp_path / "birds"
    draw(root / "kind-0" / "0.png", 99)
    (root / "kind-1" / "1.png").unlink()
    (root / "kind-0" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    stray = Row(picture_id("elsewhere.png"), "kind-2/2.png", 1, "0" * 64, 1, 1)
    twin = index.get(picture_id("kind-2/5.png"))
    assert twin is not None
    vectors = np.concatenate([2 * index.vectors([twin.id]), index.vectors([twin.id])])
    index.table.add(rows_table(index.table.schema, [stray, twin], vectors))  # past all checks
    found = verified(index)
    told = {(one.kind, one.path, one.reason.split(" (")[0]) for one in found.problems}
    assert told == {
        ("changed", "kind-0/0.png", "the picture has other bytes than when it was indexed: build again"),
        ("unreadable", "kind-0/3.png", next(one.reason for one in found.problems if one.path == "kind-0/3.png")),
        ("missing", "kind-1/1.png", f"{root / 'kind-1' / '1.png'} is not there"),
        ("row", "kind-2/2.png", "its embedding has length 2.0, not 1"),
        ("row", "kind-2/2.png", "its id does not belong to its path"),
        ("row", "kind-2/5.png", "there are two rows with this id"),
    }
    assert found.counts == {"changed": 1, "missing": 1, "unreadable": 1, "row": 3} and found.rows == 14
    assert set(found.counts) <= set(REMEDIES)


def test_other_embeddings_are_found(tmp_path: Path) -> None:
    index, _ = built(tmp_path)

    class Drifted(GridEncoder):
        def embed(self, items: list) -> np.ndarray:  # type: ignore[type-arg,override]
            return super().embed(items)[:, ::-1]

    found = verified(index, Drifted(), sample=4)
    assert found.counts == {"embedding": 4} and found.worst_similarity < 0.99
    with pytest.raises(ValueError, match="other"):
        verified(index, GridEncoder("other", "01" * 32))


# ---- export and information


def test_export_holds_everything(tmp_path: Path) -> None:
    index, _ = built(tmp_path)
    ids = [picture_id(f"kind-{n % 3}/{n}.png") for n in range(12)]
    assert export_rows(index, tmp_path / "out" / "rows.parquet") == 12
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()}
    np.testing.assert_array_equal(np.array([rows[id]["embedding"] for id in ids], np.float32), index.vectors(ids))
    assert export_rows(index, tmp_path / "rows.jsonl", where="path LIKE 'kind-1/%'", embeddings=False) == 4
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {f"kind-1/{n}.png" for n in (1, 4, 7, 10)}
    assert lines[0].keys() == {"id", "path", "size", "hash", "width", "height"}
    with pytest.raises(ValueError, match=r"\.parquet or \.jsonl"):
        export_rows(index, tmp_path / "rows.csv")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["rows.parquet"]


def test_information(tmp_path: Path) -> None:
    draw_folder(tmp_path / "birds", 3)
    (tmp_path / "birds" / "bad.png").touch()
    index, _ = built(tmp_path)
    info = describe(index)
    assert (info.rows, info.encoder_name, info.embedding_size, info.failures) == (12, "grid", 13, 1)
    assert info.root == (tmp_path / "birds").resolve() and info.metadata == {} and info.bytes_on_disk > 0
