import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.emoji.miniature import miniature, write_installed, write_packed

from fieldmark.data.emoji import collection as module
from fieldmark.data.emoji.collection import EmojiConfig, EmojiSummary, write_emoji
from fieldmark.data.emoji.packages import STYLES
from fieldmark.data.multimodal.mbeir import read_mbeir_task, read_mbeir_training
from fieldmark.data.multimodal.mbeir_layout import find_tasks
from fieldmark.data.retrieval import share_of_grains

CONFIG = EmojiConfig(size=16, languages=("en", "de"), val_share=0.2, test_share=0.4)


def all_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EmojiSummary]:
    out = tmp_path_factory.mktemp("emoji") / "out"
    return out, write_emoji(CONFIG, out, packages=installed)


def test_reads_as_mbeir_without_a_warning(written: tuple[Path, EmojiSummary]) -> None:
    root, summary = written
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for split in ("val", "test"):
            for name in find_tasks(root, split):
                task = read_mbeir_task(root, name, split)
                assert len(task.queries) == summary.queries[f"{name} {split}"]
                assert all(query.grains and query.instruction for query in task.queries)
        training = read_mbeir_training(root)
    assert len(training.queries) == sum(n for name, n in summary.queries.items() if name.endswith("train"))
    assert {query.item.modality for query in training.queries} == {"text", "image", "image,text"}


def test_relevance_is_what_the_grains_say(written: tuple[Path, EmojiSummary]) -> None:
    """Text queries: exactly the candidates all of whose grains hold, and near misses are there."""
    task = read_mbeir_task(written[0], "emoji_task0", "test")
    near = 0
    for query in task.queries:
        shares = {one.id: share_of_grains(query, one) for one in task.candidates}
        assert {name for name, share in shares.items() if share == 1} == task.relevance[query.id].keys()
        near += any(0 < share < 1 for share in shares.values())
    assert near > len(task.queries) / 2


def test_pictures_are_there_and_are_what_the_package_draws(written: tuple[Path, EmojiSummary]) -> None:
    root, summary = written
    task = read_mbeir_task(root, "emoji-openmoji_task4", "test", pool="local")
    for item in (*task.candidates, *(query.item for query in task.queries)):
        assert item.image is not None
        with Image.open(item.image) as picture:
            assert (picture.size, picture.mode) == ((16, 16), "RGB")
            assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 1
    counts = {style: len(list((root / "mbeir_images" / style).iterdir())) for style in STYLES}
    assert counts == dict(summary.pictures)
    assert counts["fluent"] == counts["noto"] - 1 == summary.concepts - 1


def test_the_pool_of_all_tasks_holds_each_picture_once(written: tuple[Path, EmojiSummary]) -> None:
    lines = (written[0] / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl").read_text().splitlines()
    pictures = [json.loads(line)["img_path"] for line in lines if json.loads(line)["img_path"]]
    assert len(set(pictures)) == len(pictures)
    assert {path.split("/")[1] for path in pictures} == set(STYLES)
    training = (written[0] / "cand_pool" / "global" / "mbeir_union_train_cand_pool.jsonl").read_text()
    assert "mbeir_images/noto" in training and "openmoji" not in training


def test_summary_and_what_lies_beside(written: tuple[Path, EmojiSummary]) -> None:
    root, summary = written
    facts = json.loads((root / "emoji.json").read_text())
    assert facts["concepts"] == summary.concepts == 35 and facts["settings"]["held_out"] == "openmoji"
    assert sum(summary.concepts_by_split.values()) == 35 and summary.concepts_by_split.keys() == {
        "train",
        "val",
        "test",
    }
    assert summary.shared_pictures == 2
    assert (root / "skipped.jsonl").read_text() == ""
    licences = (root / "licences" / "LICENCES.txt").read_text()
    for style, package in STYLES.items():
        assert package in licences and f"Makers of {style}" in licences
        assert json.loads((root / "licences" / f"{style}.json").read_text())["license"]["spdx"] == "CC-BY-4.0"
    assert (root / "licences" / "emojibase-data.LICENSE").read_text() == "All may use it.\n"
    with Image.open(root / "contact_sheet.png") as sheet:
        assert sheet.size == (20 * 16, 2 * 4 * 16 + 4)
    assert "35 concepts" in summary.as_text() and "139 pictures" in summary.as_text()


def test_same_packages_same_bytes(written: tuple[Path, EmojiSummary], tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "packed", miniature())
    write_emoji(CONFIG, tmp_path / "again", packages=packed)
    assert all_files(tmp_path / "again") == all_files(written[0])


def test_drawings_that_cannot_be_used_are_listed_and_the_rest_is_made(tmp_path: Path) -> None:
    packages = miniature()
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    icons = packages["@iconify-json/noto"]["icons.json"]["icons"]
    icons["cat"]["body"] = f'<image href="{secret}" width="32" height="32"/>'
    icons["dog"]["body"] = ""
    summary = write_emoji(CONFIG, tmp_path / "out", packages=write_installed(tmp_path / "in", packages))
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [(one["style"], one["emoji"]) for one in skipped] == [("noto", "1F408"), ("noto", "1F415")]
    assert "<image>" in skipped[0]["reason"] and "draws nothing" in skipped[1]["reason"]
    assert summary.skipped == 2 and summary.concepts == 35, "the other styles have cat and dog"
    assert not (tmp_path / "out" / "mbeir_images" / "noto" / "1F408.png").exists()


def test_what_exists_is_replaced_only_on_demand_and_only_if_it_is_ours(
    written: tuple[Path, EmojiSummary], installed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="--force"):
        write_emoji(CONFIG, written[0], packages=installed)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no emoji collection"):
        write_emoji(CONFIG, mine, packages=installed, force=True)
    assert (mine / "thesis.tex").read_text() == "years of work"
    out = tmp_path / "out"
    out.mkdir()
    (out / "emoji.json").write_text("{}")
    write_emoji(CONFIG, out, packages=installed, force=True)
    assert (out / "contact_sheet.png").is_file()


def test_nothing_half_written_is_left(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module, "write_mbeir", full)
    with pytest.raises(OSError, match="no space left"):
        write_emoji(CONFIG, tmp_path / "out", packages=installed)
    assert list(tmp_path.iterdir()) == []


def test_packages_without_emoji_are_told(tmp_path: Path) -> None:
    packages = miniature()
    for package in STYLES.values():
        packages[package]["chars.json"] = {}
    with pytest.raises(ValueError, match="are these the right packages"):
        write_emoji(CONFIG, tmp_path / "out", packages=write_installed(tmp_path / "in", packages))


def test_other_versions_are_said(tmp_path: Path) -> None:
    packages = miniature()
    packages["@iconify-json/noto"]["package.json"]["version"] = "1.9.9"
    summary = write_emoji(CONFIG, tmp_path / "out", packages=write_installed(tmp_path / "in", packages))
    assert "@iconify-json/noto is version 1.9.9, not 1.2.9" in summary.as_text()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 4}, "size must be"),
        ({"background": "see-through"}, "background must be a colour"),
        ({"languages": ("de", "en")}, "must begin with en"),
        ({"languages": ("en", "de", "de")}, "each language once"),
        ({"held_out": "emojione"}, "held_out must be one of noto"),
        ({"test_share": 0.9, "val_share": 0.2}, "leave something to train on"),
        ({"test_share": -0.1}, "leave something to train on"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        EmojiConfig(**settings)  # type: ignore[arg-type]
