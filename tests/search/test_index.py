"""Rows, look-ups, neighbours, confinement, one writer at a time, and what a full disk leaves."""

import contextlib
import multiprocessing
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.search.index_worlds import GridEncoder, draw_folder
from tests.search.writers import CONTEXT, append_to_small_files, hold_lock

from fieldmark.search.build import BuildConfig, BuildReport, build_index
from fieldmark.search.disk import DiskFull
from fieldmark.search.index import Index, SearchEffort
from fieldmark.search.schema import Row, picture_id, rows_table

METADATA = {"genus": "string", "n": "int64"}


def empty(folder: Path) -> Index:
    (folder / "root").mkdir(exist_ok=True)
    return Index.create(folder / "index", GridEncoder(), folder / "root", METADATA)  # type: ignore[arg-type]


def some(index: Index, numbers: range, seed: int = 0) -> pa.Table:
    """Rows "p<number>" with random embeddings."""
    vectors = np.random.default_rng(seed).normal(size=(len(numbers), index.embedding_size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [
        Row(picture_id(f"p{n}"), f"p{n}", n, f"{n:064x}", 4, 3, {"genus": f"g{n % 3}", "n": None if n == 5 else n})
        for n in numbers
    ]
    return rows_table(index.table.schema, rows, vectors)


def vectors_of(rows: pa.Table) -> np.ndarray:
    return np.stack(rows.column("embedding").to_pylist()).astype(np.float32)


# ---- reading


def test_ids_are_of_paths() -> None:
    # sha256 of "kind/a.png" by another program
    assert picture_id("kind/a.png") == "0bc09176ab24594f"


def test_what_was_appended_is_there(tmp_path: Path) -> None:
    index = empty(tmp_path)
    rows = some(index, range(10))
    index.append(rows)
    index = Index.open(tmp_path / "index")
    assert (index.encoder_name, index.encoder_fingerprint, index.embedding_size) == ("grid", "6d" * 32, 13)
    assert index.metadata_columns == ("genus", "n") and index.root == (tmp_path / "root").resolve()
    row = index.get(picture_id("p5"))
    assert row == Row(picture_id("p5"), "p5", 5, f"{5:064x}", 4, 3, {"genus": "g2", "n": None})
    ids = [picture_id(f"p{n}") for n in (7, 0, 7)]
    np.testing.assert_array_equal(index.vectors(ids), vectors_of(rows)[[7, 0, 7]])
    assert index.get("0" * 16) is None and index.get("' OR 1=1 --") is None
    with pytest.raises(ValueError, match="no row with the id"):
        index.vectors([ids[0], "0" * 16])


def test_nearest_is_the_plain_computation(tmp_path: Path) -> None:
    index = empty(tmp_path)
    rows = some(index, range(40))
    index.append(rows)
    query = np.random.default_rng(9).normal(size=13).astype(np.float32)
    similarity = vectors_of(rows) @ query / np.linalg.norm(query)
    found = index.nearest(query, 40)
    assert [row.path for row, _ in found] == [f"p{n}" for n in np.argsort(-similarity)]
    np.testing.assert_allclose([score for _, score in found], np.sort(similarity)[::-1], atol=1e-6)
    allowed = np.flatnonzero(np.arange(40) % 3 == 1)
    found = index.nearest(query, 5, where="genus = 'g1'")
    assert [row.path for row, _ in found] == [f"p{n}" for n in allowed[np.argsort(-similarity[allowed])][:5]]


@pytest.mark.parametrize(
    ("vector", "k", "where", "message"),
    [
        (np.ones(12), 3, None, r"shape \(13,\)"),
        (np.zeros(13), 3, None, "zeros"),
        (np.full(13, np.nan), 3, None, "finite"),
        (np.ones(13), 0, None, "k must"),
        (np.ones(13), 3, "genus = ", "cannot be applied"),
        (np.ones(13), 3, "species = 'x'", "cannot be applied"),
    ],
)
def test_wrong_questions(tmp_path: Path, vector: np.ndarray, k: int, where: str | None, message: str) -> None:
    index = empty(tmp_path)
    index.append(some(index, range(3)))
    with pytest.raises(ValueError, match=message):
        index.nearest(vector, k, where)


def test_effort_is_checked() -> None:
    with pytest.raises(ValueError, match="nprobes"):
        SearchEffort(nprobes=0)


def test_another_encoder_is_refused_by_both_names(tmp_path: Path) -> None:
    index = empty(tmp_path)
    index.check_encoder(GridEncoder("copied elsewhere"))
    with pytest.raises(ValueError, match=r"grid .*other "):
        index.check_encoder(GridEncoder("other", "ab" * 32))


@pytest.mark.parametrize("name", ["nothing", "file", "folder", "damaged"])
def test_what_is_no_index(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "file":
        path.touch()
    elif name == "folder":
        path.mkdir()
    elif name == "damaged":
        empty(tmp_path)
        (tmp_path / "index").rename(path)
        for manifest in (path / "pictures.lance" / "_versions").glob("*.manifest"):
            manifest.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{name}.*(no index|cannot be opened)"):
        Index.open(path)


def test_a_creation_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "index" / "pictures.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "index" / "pictures.lance" / "_versions" / "half").touch()
    assert len(empty(tmp_path)) == 0
    with pytest.raises(ValueError, match="index already"):
        empty(tmp_path)


# ---- files


def test_files_never_leave_the_root(tmp_path: Path) -> None:
    index = empty(tmp_path)
    root = tmp_path / "root"
    (root / "a.png").write_bytes(b"a")
    (tmp_path / "secret.png").write_bytes(b"s")
    (tmp_path / "rooted").mkdir()  # begins like the root
    (tmp_path / "rooted" / "b.png").write_bytes(b"b")
    (root / "in.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "near.png").symlink_to(tmp_path / "rooted" / "b.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "folder").symlink_to(tmp_path)

    def row(path: str) -> Row:
        return Row(picture_id(path), path, 1, "", 1, 1)

    assert index.content(row("a.png")) == b"a" and index.file(row("in.png")) == (root / "a.png").resolve()
    for path in (
        "../secret.png", "a/../../secret.png", str(tmp_path / "secret.png"), "out.png", "near.png", "folder/secret.png",
        "loop.png", "", ".", "..", "a.png\0", "..\\secret.png", "C:\\a.png", "gone.png", "a.png/b",
    ):  # fmt: skip
        with pytest.raises(ValueError):
            index.file(row(path))
        with pytest.raises(ValueError):
            index.content(row(path))


# ---- writing


def test_append_replaces_and_delete_removes(tmp_path: Path) -> None:
    index = empty(tmp_path)
    index.append(some(index, range(10)))
    replaced = some(index, range(8, 12), seed=1)
    index.append(replaced)
    assert len(index) == 12
    np.testing.assert_array_equal(index.vectors([picture_id("p9")])[0], vectors_of(replaced)[1])
    assert index.delete([picture_id("p0"), picture_id("p0"), picture_id("p99"), "' OR 1=1 --"]) == 1
    assert index.delete([]) == 0 and len(index) == 11 and index.get(picture_id("p0")) is None
    index.append(some(index, range(0)))
    assert len(index) == 11


def test_rows_that_would_spoil_the_index_are_refused(tmp_path: Path) -> None:
    index = empty(tmp_path)
    good = some(index, range(4))
    ids = good.column("id").to_pylist()

    def with_column(name: str, values: list[object]) -> pa.Table:
        place = good.schema.get_field_index(name)
        return good.set_column(place, good.schema.field(name), pa.array(values, good.schema.field(name).type))

    long = vectors_of(good) * 2
    for rows, message in (
        (good.drop_columns(["hash"]), "hash"),
        (with_column("id", [ids[0], ids[0], *ids[2:]]), "twice"),
        (with_column("id", ["0" * 16, *ids[1:]]), "not that of the path"),
        (with_column("embedding", list(long)), "length 2"),
        (with_column("embedding", [[float("nan")] * 13, *vectors_of(good)[1:]]), "length nan"),
        (good.append_column("extra", pa.array([1] * 4)).select(["id"]), "columns"),
    ):
        with pytest.raises(ValueError, match=message):
            index.append(rows)
    assert len(index) == 0


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[tuple[Index, Event, multiprocessing.process.BaseProcess]]:
    """An index, and another process that holds its lock until it is told to stop."""
    index = empty(tmp_path)
    held, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=hold_lock, args=(index.path, held, release), daemon=True)
    process.start()
    assert held.wait(60)
    yield index, release, process
    process.kill()
    process.join()


def test_two_writers(other_writer: tuple[Index, Event, multiprocessing.process.BaseProcess]) -> None:
    index, release, process = other_writer
    began = time.monotonic()
    with pytest.raises(ValueError, match=f"being written by process {process.pid}"), index.writing(wait=0.2):
        raise AssertionError
    assert 0.2 <= time.monotonic() - began < 5
    assert index.nearest(np.ones(13), 3) == []  # reading needs no lock
    release.set()
    index.append(some(index, range(3)))  # waits
    assert len(index) == 3


def test_a_killed_writer_gives_the_lock_back(
    other_writer: tuple[Index, Event, multiprocessing.process.BaseProcess],
) -> None:
    index, _, process = other_writer
    process.kill()
    process.join()
    with index.writing(wait=0), index.writing(wait=0):  # may be nested
        index.append(some(index, range(3)))
    assert len(index) == 3


def test_readers_see_what_others_write(tmp_path: Path) -> None:
    index = empty(tmp_path)
    reader = Index.open(index.path)
    index.append(some(index, range(3)))
    assert len(reader) == 3 and reader.get(picture_id("p1")) is not None
    index.delete([picture_id("p1")])
    assert len(reader) == 2 and reader.get(picture_id("p1")) is None


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_disk_full_leaves_the_index_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    index = Index.create(small_disk / "index", GridEncoder(), tmp_path, METADATA)  # type: ignore[arg-type]
    index.append(some(index, range(50)))
    fill(small_disk)
    for attempt in (
        lambda: index.append(some(index, range(50, 3000))),
        lambda: index.append(some(index, range(3000), seed=2)),
        lambda: index.delete([picture_id("p1")]),
    ):
        with pytest.raises(DiskFull, match="free some space"):
            attempt()
        again = Index.open(small_disk / "index")
        assert len(again) == 50 and len(again.nearest(np.ones(13), 60)) == 50
        np.testing.assert_array_equal(again.vectors([picture_id("p7")])[0], vectors_of(some(index, range(50)))[7])
    (small_disk / "ballast").unlink()
    index.append(some(index, range(50, 60)))
    assert len(index) == 60


def test_disk_full_during_a_build(small_disk: Path, tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 30)
    config = BuildConfig(images=str(root), index=str(small_disk / "index"), workers=0, batch_size=5, commit_rows=5)

    def fill_after_ten(report: BuildReport, total: int) -> None:
        if report.added == 10 and not (small_disk / "ballast").exists():
            fill(small_disk)

    with pytest.raises(DiskFull, match="give the same command again"):
        build_index(config, GridEncoder(), fill_after_ten)
    assert len(Index.open(small_disk / "index")) == 10
    (small_disk / "ballast").unlink()
    encoder = GridEncoder()
    report = build_index(config, encoder)
    assert (report.rows, report.unchanged, encoder.count) == (30, 10, 20)


def test_a_limit_on_files_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    index = empty(tmp_path)
    index.append(some(index, range(50)))
    rows, found = some(index, range(50, 3000)), tmp_path / "found.txt"
    with pa.ipc.new_stream(tmp_path / "rows.arrow", rows.schema) as stream:
        stream.write_table(rows)
    process = CONTEXT.Process(target=append_to_small_files, args=(index.path, tmp_path / "rows.arrow", found))
    process.start()
    process.join()
    assert found.read_text() == "DiskFull, 50 rows"
    assert len(index) == 50
