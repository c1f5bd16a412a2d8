"""`fieldmark data inspect cub --root PATH`: counts hold or the difference is told; odd files are named."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests import fixtures_benchmarks as mini

from fieldmark.cli import main
from fieldmark.data.benchmarks.catalogue import BENCHMARKS
from fieldmark.data.benchmarks.inspection import inspect_benchmark
from fieldmark.data.collection import load_collection, screen_images
from fieldmark.data.decode import BadImage
from fieldmark.data.inspection import OddFile
from fieldmark.data.published import Counts

CUB = BENCHMARKS["cub"]
SMALL = replace(CUB, counts=Counts(2, 2, 4, 4))
WRITERS = {
    "cub": mini.write_cub,
    "cars": mini.write_cars_devkit,
    "aircraft": mini.write_aircraft,
    "inat": mini.write_inat,
}


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("cub", (100, 100, 5864, 5924)),
        ("cars", (98, 98, 8054, 8131)),
        ("aircraft", (50, 50, 5000, 5000)),
        ("inat", (743, 743, 37150, 37150)),
    ],
)
def test_published_counts(key: str, counts: tuple[int, ...]) -> None:
    assert BENCHMARKS[key].counts == Counts(*counts)


def test_a_complete_benchmark(tmp_path: Path) -> None:
    folder = mini.write_cub(tmp_path)
    found = inspect_benchmark(SMALL, folder)
    text = found.as_text()
    assert text.startswith("CUB-200-2011, complete: 8 pictures of 4 classes, as published\n")
    assert "training half        4 pictures of 2 classes" in text and "test half            4 pictures of 2" in text
    assert "formats              JPEG 8" in text and "Nothing odd." in text
    record = json.loads(found.as_json())
    assert record["counts"]["train_images"] == 4 and record["inspection"]["splits"]["test"] == [2, 4]


def test_odd_files_are_named(tmp_path: Path) -> None:
    folder = mini.write_cub(tmp_path)
    picture = folder / "images/002.Laysan_Albatross/Laysan_Albatross_0001_18.jpg"
    os.truncate(picture, picture.stat().st_size // 2)
    (folder / "images/002.Laysan_Albatross/extra.jpg").write_bytes(mini.jpeg("extra"))
    leak = folder / "images/004.Groove_billed_Ani/Groove_billed_Ani_0000_17.jpg"
    leak.write_bytes(mini.jpeg("001.Black_footed_Albatross/Black_footed_Albatross_0000_17.jpg", "L"))
    found = inspect_benchmark(SMALL, folder).inspection
    assert [(one.name, "truncated" in one.reason) for one in found.bad] == [
        ("002.Laysan_Albatross/Laysan_Albatross_0001_18.jpg", True)
    ]
    assert found.ignored == (OddFile("002.Laysan_Albatross/extra.jpg", "not listed in images.txt"),)
    assert [one.across_splits for one in found.duplicates] == [True]  # between the protocol's halves
    with pytest.raises(BadImage, match=r"Laysan_Albatross_0001_18\.jpg.*truncated"):
        load_collection(folder).decode(3)
    with pytest.raises(ValueError, match="1 of 8 pictures"):
        screen_images(load_collection(folder), skip_bad=False)


@pytest.mark.parametrize(
    ("counts", "differences"),
    [
        (Counts(2, 2, 5, 4), ["training pictures: 4 instead of 5 (-1)"]),
        (Counts(2, 2, 4, 2), ["test pictures: 4 instead of 2 (+2)"]),
        (Counts(1, 3, 4, 4), ["training classes: 2 instead of 1 (+1)", "test classes: 2 instead of 3 (-1)"]),
    ],
)
def test_differences(tmp_path: Path, counts: Counts, differences: list[str]) -> None:
    folder = mini.write_cub(tmp_path)
    with pytest.raises(ValueError, match=r"is not the complete CUB-200-2011") as caught:
        inspect_benchmark(replace(CUB, counts=counts), folder)
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == differences
    assert lines[-1] == CUB.download


def test_a_listed_class_without_pictures_is_a_difference(tmp_path: Path) -> None:
    folder = mini.write_aircraft(tmp_path)
    with (folder / "data/variants.txt").open("a") as file:
        file.write("Yak-42\nZ-1\n")
    with pytest.raises(ValueError, match=r"test classes: 1 instead of 3 \(-2\)"):
        inspect_benchmark(replace(BENCHMARKS["aircraft"], counts=Counts(3, 3, 6, 2)), folder)


@pytest.mark.parametrize("key", WRITERS)
def test_the_command_refuses_a_miniature(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    WRITERS[key](tmp_path)
    assert main(["data", "inspect", key, "--root", str(tmp_path), "--workers", "0"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"is not the complete {BENCHMARKS[key].title}" in said.err
    assert f"test classes: 2 instead of {BENCHMARKS[key].counts.test_classes}" in said.err
    assert BENCHMARKS[key].download in said.err


def test_the_command_prints_a_complete_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "cub", SMALL)
    archive = mini.pack(tmp_path / "d/CUB_200_2011.tgz", mini.write_cub(tmp_path))
    words = ["data", "inspect", "cub", "--root", str(archive), "--workers", "0"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("CUB-200-2011, complete: 8 pictures of 4 classes")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["benchmark"] == "CUB-200-2011"


def test_the_command_on_a_path_points_to_the_named_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mini.write_cub(tmp_path)
    assert main(["data", "inspect", str(folder), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "split train          4 pictures of 2 classes" in said
    assert f"This is CUB-200-2011. Is it complete? fieldmark data inspect cub --root {folder}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cub"], "say where cub lies: fieldmark data inspect cub --root PATH"),
        (["cup", "--root", "x"], "there is no benchmark 'cup': --root goes with cub, cars, aircraft, inat"),
        (["cub", "--root", "nowhere"], "nowhere does not exist. Download CUB_200_2011.tgz"),
    ],
)
def test_wrong_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "inspect", *words]) == 2
    assert message in capsys.readouterr().err
