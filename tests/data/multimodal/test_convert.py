import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.multimodal.convert import ConvertConfig, convert
from fieldmark.data.multimodal.inspection import inspect_mbeir
from fieldmark.data.multimodal.mbeir import read_mbeir_task, read_mbeir_training


class Own:
    """Two JSONL files and their pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "img").mkdir(parents=True)
        for n in range(3):
            Image.fromarray(np.full((6, 8, 3), 20 * n, dtype=np.uint8)).save(folder / "img" / f"{n}.png")
        self.candidates: list[dict[str, Any]] = [
            {"id": "red-shoe", "image": "img/0.png", "facts": ["color red"]},
            {"id": "blue-shoe", "image": "img/1.png", "text": None},
            {"id": "manual", "text": "How to lace."},
        ]
        self.queries: list[dict[str, Any]] = [
            {
                "id": "q1",
                "text": "a red shoe",
                "positives": ["red-shoe"],
                "negatives": ["blue-shoe"],
                "grains": ["color red"],
            },
            {"id": "q2", "text": "lacing", "positives": {"manual": 2}, "instruction": "Find the manual."},
            {"id": "q3", "image": "img/2.png", "text": "in blue", "positives": ["blue-shoe"]},
            {"id": "q4", "text": "shoe", "positives": ["red-shoe", "blue-shoe"], "split": "train"},
        ]

    def config(self, **more: Any) -> ConvertConfig:
        for name in ("queries", "candidates"):
            lines = (json.dumps(one) + "\n" for one in getattr(self, name))
            (self.folder / f"{name}.jsonl").write_text("".join(lines))
        return ConvertConfig(str(self.folder / "queries.jsonl"), str(self.folder / "candidates.jsonl"), "shop", **more)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path / "own")


def test_what_is_converted_can_be_read(own: Own, tmp_path: Path) -> None:
    out = tmp_path / "shop"
    done = convert(own.config(), out)
    assert done.queries == {"task0 test": 1, "task1 test": 1, "task7 test": 1, "task0 train": 1}
    task = read_mbeir_task(out, "shop_task0")
    query = task.queries[0]
    assert (query.id, query.item.text, query.grains, query.negatives) == (
        "10:1",
        "a red shoe",
        ("color red",),
        ("10:2",),
    )
    assert [c.id for c in task.candidates] == ["10:1", "10:2"] and task.candidates[0].facts == ("color red",)
    assert task.candidates[0].image is not None and task.candidates[0].image.is_file()
    assert query.instruction == "Find a picture that fits this text."
    manual = read_mbeir_task(out, "shop_task1")
    assert manual.queries[0].instruction == "Find the manual." and manual.relevance == {"10:2": {"10:3": 2.0}}
    assert len(read_mbeir_task(out, "shop_task7", pool="global").candidates) == 3
    training = read_mbeir_training(out)
    assert training.relevance[training.queries[0].id] == {"10:1": 1.0, "10:2": 1.0}
    assert inspect_mbeir(out).complete
    first = json.loads((out / "cand_pool/global/mbeir_union_test_cand_pool.jsonl").read_text().splitlines()[0])
    assert json.loads(first["src_content"]) == {"id": "red-shoe"}


def test_same_files_same_bytes(own: Own, tmp_path: Path) -> None:
    def digest(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    convert(own.config(), tmp_path / "a")
    convert(own.config(), tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_pictures_may_be_linked(own: Own, tmp_path: Path) -> None:
    convert(own.config(link=True, number=12), tmp_path / "shop")
    picture = tmp_path / "shop/mbeir_images/shop_images/img/0.png"
    assert picture.is_symlink() and picture.is_file()
    assert read_mbeir_task(tmp_path / "shop", "shop_task0").queries[0].id == "12:1"


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("queries", {"positives": []}, "'q1' needs positives"),
        ("queries", {"positives": ["nothing"]}, "'q1' names 'nothing', which no candidate has"),
        ("queries", {"positives": ["red-shoe", "manual"]}, "different kinds"),
        ("queries", {"positives": {"red-shoe": 0}}, "at least 1, got 'red-shoe': 0"),
        ("queries", {"split": "dev"}, "got 'dev'"),
        ("queries", {"postives": ["red-shoe"]}, "unknown field 'postives'"),
        ("queries", {"text": ""}, "neither text nor image"),
        ("queries", {"grains": "color red"}, "'grains' of 'q1' must be a list"),
        ("queries", {"id": "q2"}, "twice"),
        ("candidates", {"id": "manual"}, "twice"),
        ("candidates", {"image": "img/7.png"}, "1 of 3 pictures are not there:"),
        ("candidates", {"image": "candidates.jsonl"}, "1 of 3 pictures cannot be read or are in no known format:"),
        ("candidates", {"image": "../secret.png"}, "must lie below"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    own: Own, tmp_path: Path, where: str, change: dict[str, Any], message: str
) -> None:
    getattr(own, where)[0].update(change)
    with pytest.raises(ValueError, match=message):
        convert(own.config(), tmp_path / "shop")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def test_unused_task_and_bad_names(own: Own, tmp_path: Path) -> None:
    own.candidates.append({"id": "both", "text": "t", "image": "img/0.png"})
    own.queries.append({"id": "q5", "image": "img/0.png", "positives": ["both"]})
    with pytest.raises(ValueError, match="image → image,text, which M-BEIR has no task for"):
        convert(own.config(), tmp_path / "shop")
    own.queries.pop()
    with pytest.raises(ValueError, match="numbers below 10"):
        convert(own.config(number=9), tmp_path / "shop")
    (tmp_path / "shop").mkdir()
    with pytest.raises(ValueError, match="exists"):
        convert(own.config(), tmp_path / "shop")
