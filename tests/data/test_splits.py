"""Parts share no class; split.json wins; a part with a single class is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fieldmark.data.collection import LabelledImages, load_collection
from fieldmark.data.splits import split_classes


@pytest.fixture
def twenty(write_pictures: Callable[..., Path]) -> LabelledImages:
    return load_collection(write_pictures(*(f"{c:02d}/{n}.png" for c in range(20) for n in range(2))))


def test_the_first_half_trains_and_gives_validation_classes(twenty: LabelledImages) -> None:
    split = split_classes(twenty)
    names = [f"{c:02d}" for c in range(20)]
    assert list(split.test.class_names) == names[10:]
    assert sorted(split.train.class_names + split.validation.class_names) == names[:10]
    assert split.validation.num_classes == 2 and len(split.validation) == 4
    for part in (split.train, split.validation, split.test):
        assert part.labels.tolist() == [c for c in range(part.num_classes) for _ in range(2)]
        assert {i.split("/")[0] for i in part.ids} == set(part.class_names)


def test_validation_depends_on_the_seed_and_on_nothing_else(twenty: LabelledImages) -> None:
    drawn = {split_classes(twenty, seed=seed).validation.class_names for seed in range(8)}
    assert len(drawn) > 3
    assert split_classes(twenty, seed=5).validation.class_names == split_classes(twenty, seed=5).validation.class_names
    assert {split_classes(twenty, seed=seed).test.class_names for seed in range(8)} == {
        split_classes(twenty).test.class_names
    }


@pytest.mark.parametrize(
    ("train", "validation", "sizes"),
    [
        (0.5, 0, (10, 0, 10)),
        (1.0, 0.2, (16, 4, 0)),
        (0.2, 0.01, (2, 2, 16)),
        (0.9, 0.5, (9, 9, 2)),
        (0.125, 0, (3, 0, 17)),
    ],
)
def test_fractions(twenty: LabelledImages, train: float, validation: float, sizes: tuple[int, ...]) -> None:
    split = split_classes(twenty, train, validation)
    assert tuple(part.num_classes for part in (split.train, split.validation, split.test)) == sizes


def test_odd_numbers_of_classes_round_up(twenty: LabelledImages) -> None:
    split = split_classes(twenty.of_classes(range(5)), validation_fraction=0)
    assert (split.train.num_classes, split.test.num_classes) == (3, 2)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (0, 0.2, "train_fraction"),
        (1.1, 0.2, "train_fraction"),
        (0.5, 1, "validation_fraction"),
        (0.5, -0.1, "validation_fraction"),
        (0.05, 0, "Training needs at least 2"),
        (0.15, 0.2, "Training needs at least 2"),
        (0.95, 0, "With a single class everything found is right"),
    ],
)
def test_senseless_fractions(twenty: LabelledImages, train: float, validation: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_classes(twenty, train, validation)


def test_the_split_file_wins(twenty: LabelledImages) -> None:
    names = list(twenty.class_names)
    content = {"train": names[::-1][:4], "test": names[:16]}
    (twenty.root / "split.json").write_text(json.dumps(content))
    split = split_classes(twenty, train_fraction=0.9, validation_fraction=0.5)
    assert split.test.class_names == tuple(names[:16])
    assert sorted(split.train.class_names + split.validation.class_names) == names[16:]
    assert split.validation.num_classes == 2
    content["validation"], content["train"] = content["train"][:2], content["train"][2:]
    (twenty.root / "split.json").write_text(json.dumps(content))
    split = split_classes(twenty)
    assert split.validation.class_names == ("18", "19") and split.train.class_names == ("16", "17")


def test_the_split_file_must_know_every_class_but_may_know_more(twenty: LabelledImages) -> None:
    names = list(twenty.class_names)
    (twenty.root / "split.json").write_text(json.dumps({"train": [*names[:10], "gone"], "test": names[10:19]}))
    with pytest.raises(ValueError, match="does not say where 1 classes belong, first 19"):
        split_classes(twenty)
    assert split_classes(twenty.of_classes(range(19))).test.num_classes == 9
    with pytest.raises(ValueError, match=r"0 for testing|Training needs at least 2|single class"):
        split_classes(twenty.of_classes(range(11)))
