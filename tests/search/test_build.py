"""Pictures become rows once each, whatever happens to the files in between."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.search.index_worlds import Deadly, GridEncoder, draw, draw_folder

from fieldmark.search import build as building
from fieldmark.search.build import BuildConfig, BuildReport, build_index
from fieldmark.search.encoders import EncoderInput
from fieldmark.search.index import Index
from fieldmark.search.maintenance import FAILURES, VectorIndexConfig
from fieldmark.search.schema import ADDED, picture_id


def build(images: Path, index: Path, encoder: GridEncoder | None = None, **options: object) -> BuildReport:
    config = BuildConfig(images=str(images), index=str(index), **{"workers": 0, "batch_size": 4} | options)
    return build_index(config, encoder or GridEncoder())


def paths(index: Path) -> list[str]:
    return sorted(path for batch in Index.open(index).scan(("path",)) for path in batch.column("path").to_pylist())


def failures(index: Path) -> dict[str, str]:
    lines = (index / FAILURES).read_text().splitlines()
    return {one["path"]: one["reason"] for one in map(json.loads, lines)}


def test_rows_say_what_the_files_are(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    draw(root / "turned.jpg", 9, (30, 10), exif=exif)
    (root / "kind-0" / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes((root / "kind-0" / "0.png").read_bytes())
    report = build(root, tmp_path / "index")
    assert (report.added, report.failed, report.rows) == (6, 0, 6)

    index, encoder = Index.open(tmp_path / "index"), GridEncoder()
    assert index.root == root.resolve() and index.encoder_name == "grid" and len(index) == 6
    turned = index.get(picture_id("turned.jpg"))
    assert turned is not None and (turned.width, turned.height) == (10, 30)
    row = index.get(picture_id("kind-1/4.png"))
    assert row is not None
    file = root / "kind-1" / "4.png"
    assert (row.path, row.size, row.width, row.height) == ("kind-1/4.png", file.stat().st_size, 20, 12)
    assert index.file(row) == file.resolve() and index.content(row) == file.read_bytes()
    pixels = np.asarray(Image.open(file).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(index.vectors([row.id]), encoder.embed([EncoderInput(pixels)]), atol=1e-6)


def test_second_run_does_nothing(tmp_path: Path) -> None:
    root, encoder = draw_folder(tmp_path / "birds", 7), GridEncoder()
    build(root, tmp_path / "index", encoder)
    version = Index.open(tmp_path / "index").table.version
    told: list[tuple[int, int]] = []
    config = BuildConfig(images=str(root), index=str(tmp_path / "index"), workers=0)
    report = build_index(config, encoder, lambda report, total: told.append((report.done, total)))
    assert (report.added, report.unchanged, encoder.count) == (0, 7, 7) and told[0] == (7, 7)
    assert Index.open(tmp_path / "index").table.version == version


def test_new_changed_and_vanished_files(tmp_path: Path) -> None:
    root, encoder, folder = draw_folder(tmp_path / "birds", 6), GridEncoder(), tmp_path / "index"
    build(root, folder, encoder)
    draw(root / "kind-0" / "3.png", 77)
    (root / "kind-1" / "1.png").unlink()
    shutil.move(root / "kind-2" / "2.png", root / "kind-2" / "moved.png")
    draw_folder(root, 2, first=6)
    before = Index.open(folder).vectors([picture_id("kind-0/3.png")])

    report = build(root, folder, encoder)
    assert (report.added, report.changed, report.unchanged, report.removed, report.rows) == (3, 1, 3, 0, 9)
    assert encoder.count == 6 + 4
    assert not np.allclose(Index.open(folder).vectors([picture_id("kind-0/3.png")]), before)

    report = build(root, folder, encoder, prune=True)
    assert (report.removed, report.rows, encoder.count) == (2, 7, 10)
    assert paths(folder) == sorted(one.relative_to(root).as_posix() for one in root.rglob("*.png"))


def test_pruning_keeps_what_came_through_the_service(tmp_path: Path) -> None:
    root, folder, encoder = draw_folder(tmp_path / "birds", 3), tmp_path / "index", GridEncoder()
    listed = sorted(one.relative_to(root).as_posix() for one in root.rglob("*.png"))
    (root / ADDED).mkdir()
    for name, seed in (("a.png", 90), ("b.png", 91)):
        draw(root / ADDED / name, seed)
    file = root / "list.jsonl"

    def write(names: list[str]) -> None:
        file.write_text("".join(json.dumps({"path": name, "genus": "Larus"}) + "\n" for name in names))

    write([*listed, f"{ADDED}/a.png", f"{ADDED}/b.png"])  # as the service would have added them
    build(file, folder, encoder)
    write(listed[:2])
    (root / ADDED / "b.png").unlink()
    report = build(file, folder, encoder, prune=True)
    assert report.removed == 2 and paths(folder) == sorted([*listed[:2], f"{ADDED}/a.png"])


def test_bad_files_are_told_and_stop_nothing(tmp_path: Path) -> None:
    root, folder = draw_folder(tmp_path / "birds", 6), tmp_path / "index"
    (root / "empty.png").touch()
    (root / "torn.png").write_bytes((root / "kind-0" / "0.png").read_bytes()[:60])
    (root / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret.png").write_bytes((root / "kind-0" / "0.png").read_bytes())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to(root / "kind-0" / "0.png")
    Path(os.fsdecode(bytes(root) + b"/\xff.png")).write_bytes((root / "kind-0" / "0.png").read_bytes())
    report = build(root, folder)
    told = failures(folder)
    assert report.failed == len(told) == 5 and report.rows == 7
    assert "empty" in told["empty.png"] and "damaged" in told["torn.png"] and "SVG" in told["drawing.svg"]
    assert "leads out" in told["link.png"] and "UTF-8" in told["\\xff.png"]
    assert "inside.png" in paths(folder)

    # a picture that breaks later keeps its row, and that is said
    (root / "kind-0" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert build(root, folder, prune=True).rows == 7
    assert "keeps the picture that was there before" in failures(folder)["kind-0/0.png"]


def test_a_picture_that_kills_or_blocks_its_process_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = draw_folder(tmp_path / "birds", 12), tmp_path / "index"
    real = building.open_source

    def with_deadly(*arguments: object) -> object:
        source = real(*arguments)
        pictures = list(source.pictures())
        for picture in pictures:
            if picture.path in ("kind-0/6.png", "kind-1/7.png"):
                object.__setattr__(picture, "content", Deadly(hang=picture.path == "kind-1/7.png"))
        source.pictures = lambda: iter(pictures)
        return source

    monkeypatch.setattr(building, "open_source", with_deadly)
    report = build(root, folder, workers=1, decode_seconds=3.0)
    told = failures(folder)
    assert (report.added, set(told)) == (10, {"kind-0/6.png", "kind-1/7.png"})
    assert "exit code -9" in told["kind-0/6.png"] and "more than 3 seconds" in told["kind-1/7.png"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 20)
    build(root, tmp_path / "one")
    build(root, tmp_path / "two", workers=2)
    ids = [picture_id(path) for path in paths(tmp_path / "one")]
    np.testing.assert_array_equal(Index.open(tmp_path / "one").vectors(ids), Index.open(tmp_path / "two").vectors(ids))


# ---- lists of pictures


def write_list(root: Path, lines: list[dict[str, object]]) -> Path:
    path = root / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_metadata_of_a_list_can_be_filtered_and_changed(tmp_path: Path) -> None:
    root, folder, encoder = draw_folder(tmp_path / "birds", 4), tmp_path / "index", GridEncoder()
    lines = [
        {"path": f"kind-{n % 3}/{n}.png", "genus": "Larus" if n else None, "price": [1, 2.5][n % 2], "sold": n > 1}
        for n in range(4)
    ]
    build(write_list(root, lines), folder, encoder)
    index = Index.open(folder)
    assert dict(index.facts.metadata) == {"genus": "string", "price": "float64", "sold": "bool"}
    row = index.get(picture_id("kind-1/1.png"))
    assert row is not None and dict(row.metadata) == {"genus": "Larus", "price": 2.5, "sold": False}
    found = index.nearest(index.vectors([row.id])[0], 5, where="genus = 'Larus' AND price > 2")
    assert sorted(one.path for one, _ in found) == ["kind-0/3.png", "kind-1/1.png"]

    lines[1]["genus"] = "Sterna"
    before = index.vectors([row.id])
    report = build(write_list(root, lines), folder, encoder)
    assert (report.relabelled, report.unchanged, encoder.count) == (1, 3, 4)
    row = Index.open(folder).get(row.id)
    assert row is not None and row.metadata["genus"] == "Sterna"
    np.testing.assert_array_equal(Index.open(folder).vectors([row.id]), before)


def test_what_is_wrong_with_lines_is_told(tmp_path: Path) -> None:
    root, folder = draw_folder(tmp_path / "birds", 3), tmp_path / "index"
    (tmp_path / "secret.png").write_bytes(b"x")
    names = ["kind-0/0.png", "./kind-0/0.png", "../secret.png", str(tmp_path / "secret.png"), "gone.png", None]
    report = build(write_list(root, [{"file_name": name} for name in names]), folder)
    told = failures(folder)
    assert report.rows == 1 and report.failed == 5
    assert "twice" in told["kind-0/0.png"] and "leads out" in told["../secret.png"]
    assert "leads out" in told[str(tmp_path / "secret.png")] and "not there" in told["gone.png"]
    assert "names no picture" in told["line 6"]


def test_rows_whose_pictures_fail_now_are_counted(tmp_path: Path) -> None:
    root, folder = draw_folder(tmp_path / "birds", 4), tmp_path / "index"
    names = [f"kind-{number % 3}/{number}.png" for number in range(4)]
    images = write_list(root, [{"file_name": name} for name in (*names, "never.png")])
    assert build(images, folder).kept == 0
    (root / names[0]).unlink()
    (root / names[1]).write_bytes(b"x")
    report = build(images, folder)
    assert (report.failed, report.kept, report.rows) == (3, 2, 4)
    kept = "(the index keeps the picture that was there before)"
    assert [name for name, reason in failures(folder).items() if kept in reason] == names[:2]
    report = build(images, folder, prune=True)
    assert (report.failed, report.kept, report.rows) == (3, 1, 3), "what is gone goes, what is damaged stays"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"path": "a.png", "id": "7"}, "'id'"),
        ({"path": "a.png", "a b": 1, "c/d": 2}, "'a b', 'c/d' cannot stand in a filter.*Rename them"),
        ({"path": "a.png", "tags": ["x"]}, "nested"),
        ({"path": "a.png", "n": 2**63}, "64 bits"),
        ({"path": "a.png", "n": "one"}, "is string, but int64 before"),
        ({"name": "a.png"}, "path_column"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused_before_work(
    tmp_path: Path, line: dict[str, object], message: str
) -> None:
    root = draw_folder(tmp_path / "birds", 1)
    first = [{"path": "kind-0/0.png", "n": 1}] if "path" in line else []
    with pytest.raises(ValueError, match=message):
        build(write_list(root, [*first, line]), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 1)
    images = write_list(root, [{"path": "kind-0/0.png", "n": 1, "tags": ["x"]}])
    build(images, tmp_path / "index", columns=("n",))
    assert Index.open(tmp_path / "index").metadata_columns == ("n",)
    with pytest.raises(ValueError, match="'m'"):
        build(images, tmp_path / "other", columns=("m",))


def test_pictures_inside_of_parquet(tmp_path: Path) -> None:
    root, folder, encoder = draw_folder(tmp_path / "birds", 5), tmp_path / "index", GridEncoder()
    contents = [path.read_bytes() for path in sorted(root.rglob("*.png"))]
    contents[3] = b"broken"

    def write() -> Path:
        images = [{"bytes": content, "path": None} for content in contents]
        table = pa.table({"image": images, "label": pa.array([0, 1, 0, 1, 1], pa.int32()), "n": range(5)})
        names = {"info": {"features": {"label": {"names": ["gull", "tern"]}}}}
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(names)}), root / "a.parquet", row_group_size=2
        )
        return root / "a.parquet"

    report = build(write(), folder, encoder)
    assert (report.added, report.failed) == (4, 1) and "a.parquet#3" in failures(folder)
    index = Index.open(folder)
    row = index.get(picture_id("a.parquet#4"))
    assert row is not None and dict(row.metadata) == {"label": "tern", "n": 4}
    assert index.content(row) == contents[4]
    contents[4], contents[3] = contents[3], contents[0]
    draw(root / "other.png", 55)
    contents[1] = (root / "other.png").read_bytes()
    report = build(write(), folder, encoder)
    assert (report.added, report.changed, report.unchanged, report.failed) == (1, 1, 2, 1)


# ---- what is refused


def test_an_index_stays_with_its_encoder_columns_and_root(tmp_path: Path) -> None:
    root, folder = draw_folder(tmp_path / "birds", 3), tmp_path / "index"
    build(root, folder)
    with pytest.raises(ValueError, match=r"encoder grid \(6d6d6d6d6d6d\), not with other \(010101010101\)"):
        build(root, folder, GridEncoder("other", "01" * 32))
    with pytest.raises(ValueError, match=r"\(none\).*n \(int64\)"):
        build(write_list(root, [{"path": "kind-0/0.png", "n": 1}]), folder)
    moved = shutil.move(root, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="--moved"):
        build(Path(moved), folder)
    report = build(Path(moved), folder, moved=True)
    assert (report.unchanged, report.added) == (3, 0)
    index = Index.open(folder)
    row = index.get(picture_id("kind-0/0.png"))
    assert row is not None and index.file(row).is_relative_to(tmp_path / "elsewhere")


def test_nothing_is_pruned_for_an_empty_or_unreadable_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = draw_folder(tmp_path / "birds", 6), tmp_path / "index"
    build(root, folder)
    real = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "kind-1":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        with pytest.raises(ValueError, match=r"nothing was pruned.*kind-1"):
            build(root, folder, prune=True)
    assert len(Index.open(folder)) == 6
    shutil.rmtree(root)
    root.mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        build(root, folder, prune=True)
    assert len(Index.open(folder)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"commit_seconds": 0.0}, "commit_seconds"),
        ({"vectors": {"m": 0}}, "m must"),
    ],
)
def test_numbers_out_of_range(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        if "vectors" in change:
            VectorIndexConfig(m=0)
        BuildConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "index", "message"),
    [("", "i", "--images"), ("birds", "", "--index"), ("gone", "i", "there is no"), ("birds/a.txt", "i", "neither")],
)
def test_missing_input(tmp_path: Path, images: str, index: str, message: str) -> None:
    draw_folder(tmp_path / "birds", 1)
    (tmp_path / "birds" / "a.txt").touch()
    config = BuildConfig(images=images and str(tmp_path / images), index=index and str(tmp_path / index))
    with pytest.raises(ValueError, match=message):
        build_index(config, GridEncoder())
    with pytest.raises(ValueError, match="--encoder"):
        build_index(dataclasses.replace(config, images="x", index="y"))


def test_a_folder_with_something_else_is_not_taken(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 1)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "letter.txt").touch()
    with pytest.raises(ValueError, match=r"letter\.txt"):
        build(root, tmp_path / "index")


# ---- commits


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    root, folder = draw_folder(tmp_path / "birds", 20), tmp_path / "index"

    class Interrupted(GridEncoder):
        def embed(self, items: list[EncoderInput]) -> np.ndarray:
            if self.count >= 12:
                raise KeyboardInterrupt
            return super().embed(items)

    with pytest.raises(KeyboardInterrupt):
        build(root, folder, Interrupted(), commit_rows=4)
    assert len(Index.open(folder)) == 12
    encoder = GridEncoder()
    report = build(root, folder, encoder, commit_rows=4)
    assert (report.unchanged, report.added, encoder.count) == (12, 8, 8)
    assert paths(folder) == sorted(one.relative_to(root).as_posix() for one in root.rglob("*.png"))


def test_rows_are_committed_in_time(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "birds", 12)
    committed: list[int] = []
    config = BuildConfig(images=str(root), index=str(tmp_path / "index"), workers=0, batch_size=2, commit_seconds=1e-9)
    build_index(config, GridEncoder(), lambda report, total: committed.append(report.added))
    assert sorted(set(committed)) == [2, 4, 6, 8, 10, 12]
