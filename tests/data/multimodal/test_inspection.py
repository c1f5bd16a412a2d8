import json
from pathlib import Path

import pytest
from tests.data.multimodal.conftest import change, write_text

from fieldmark.data.multimodal.inspection import inspect_mbeir


def test_counts_by_task(mini: Path) -> None:
    found = inspect_mbeir(mini)
    by_name = {one.name: one for one in found.tasks}
    assert list(by_name) == ["mscoco_task0", "mscoco_task3", "nights_task4", "fashioniq_task7"]
    coco = by_name["mscoco_task0"]
    assert (coco.direction, coco.queries, coco.candidates, coco.positives, coco.grains) == (
        "text → image",
        2,
        4,
        1.5,
        0,
    )
    assert by_name["fashioniq_task7"].grains == 2
    assert found.training == {"fashioniq task7": 1, "mscoco task0": 2, "nights task4": 1}
    assert found.pools == {"train": 13, "val": 13, "test": 13}
    assert (found.pictures, found.missing_pictures, found.problems) == (11, 0, ())
    assert json.loads(found.as_json())["pictures"] == 11


def test_published_files_that_are_missing(mini: Path) -> None:
    found = inspect_mbeir(mini)
    assert "query/test/mbeir_cirr_task7_test.jsonl" in found.missing_files
    assert "cand_pool/local/mbeir_visualnews_task0_cand_pool.jsonl" in found.missing_files
    assert len(found.missing_files) == 12 * 3 and not found.complete


def test_missing_pictures(mini: Path) -> None:
    (mini / "mbeir_images/nights_images/6.png").unlink()
    (mini / "mbeir_images/fashioniq_images/8.png").unlink()
    found = inspect_mbeir(mini)
    assert found.missing_pictures == 2 and "mbeir_images/nights_images/6.png" in found.examples
    assert "of them missing: 2" in found.as_text()
    assert inspect_mbeir(mini, pictures=False).pictures == 0


def test_what_cannot_be_read_is_told_and_the_rest_counted(mini: Path) -> None:
    write_text(mini / "cand_pool/local/mbeir_nights_task4_cand_pool.jsonl", "{")
    (mini / "qrels/test/mbeir_mscoco_task0_test_qrels.txt").unlink()
    change(mini / "qrels/test/mbeir_fashioniq_task7_test_qrels.txt", "7:9", "7:99")
    found = inspect_mbeir(mini)
    assert [one.name for one in found.tasks] == ["mscoco_task3", "fashioniq_task7"]
    assert len(found.problems) == 2 and "no JSON" in " ".join(found.problems)
    assert found.tasks[1].absent == 1 and "7:99" in found.as_text()


def test_no_mbeir_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is .* M-BEIR"):
        inspect_mbeir(tmp_path)
