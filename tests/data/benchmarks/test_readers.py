"""Miniature archives in the official layout → pictures, classes and halves as the protocol has them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests import fixtures_benchmarks as mini

from fieldmark.data.collection import LabelledImages, load_collection, screen_images
from fieldmark.data.splits import split_classes

WRITERS: dict[str, Callable[[Path], Path]] = {
    "cub": mini.write_cub,
    "cars_old": mini.write_cars_old,
    "cars_devkit": mini.write_cars_devkit,
    "aircraft": mini.write_aircraft,
    "inat": mini.write_inat,
}


def by_class(images: LabelledImages) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in images.class_names}
    for name, label in zip(images.ids, images.labels, strict=True):
        found[images.class_names[label]].append(name)
    return found


def test_cub(tmp_path: Path) -> None:
    images = load_collection(mini.write_cub(tmp_path))
    assert images.class_names == mini.CUB_CLASSES
    assert by_class(images)["003.Sooty_Albatross"] == [
        "003.Sooty_Albatross/Sooty_Albatross_0000_17.jpg",
        "003.Sooty_Albatross/Sooty_Albatross_0001_18.jpg",
    ]
    assert images.ignored == ()  # what a Mac leaves in archives is not worth a line
    assert [images.decode_picture(i).mode for i in range(2)] == ["L", "CMYK"]
    assert images.decode(0).mode == images.decode(1).mode == "RGB"
    red, green, blue = images.decode(0).getpixel((3, 3))  # type: ignore[misc]
    assert red == green == blue


def test_cub_classes_go_by_id_and_not_by_name(tmp_path: Path) -> None:
    folder = mini.write_cub(tmp_path, classes=("001.Zebra_Finch", "002.Auk", "003.Yellowthroat", "004.Bunting"))
    lines = (folder / "classes.txt").read_text().splitlines()
    (folder / "classes.txt").write_text("\n".join(reversed(lines)))
    split = split_classes(load_collection(folder), validation_fraction=0)
    assert split.train.class_names == ("001.Zebra_Finch", "002.Auk")


@pytest.mark.parametrize("write", [mini.write_cars_old, mini.write_cars_devkit])
def test_cars(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    images = load_collection(write(tmp_path))
    assert images.class_names == mini.CAR_CLASSES  # the table's order, not the alphabet's
    assert [len(own) for own in by_class(images).values()] == [2, 2, 2, 2]
    old = write is mini.write_cars_old
    assert by_class(images)["Ram C/V Cargo Van Minivan 2012"] == (
        ["car_ims/000003.jpg", "car_ims/000004.jpg"] if old else ["cars_test/00002.jpg", "cars_train/00002.jpg"]
    )
    key = "old2" if old else "new3"
    assert images.sources[2].path.read_bytes() == mini.jpeg(key)


def test_cars_table_of_test_classes_may_lie_in_the_devkit(tmp_path: Path) -> None:
    name = "cars_test_annos_withlabels.mat"
    mini.write_cars_devkit(tmp_path)
    (tmp_path / name).rename(tmp_path / "devkit" / name)
    assert len(load_collection(tmp_path)) == 8


def test_cars_in_both_layouts_are_read_once(tmp_path: Path) -> None:
    mini.write_cars_devkit(tmp_path)
    images = load_collection(mini.write_cars_old(tmp_path))
    assert {name.split("/")[0] for name in images.ids} == {"car_ims"}
    assert [entry.reason for entry in images.ignored] == ["the same pictures in the other layout"]


def test_aircraft_variants_are_sorted_bytewise(tmp_path: Path) -> None:
    images = load_collection(mini.write_aircraft(tmp_path))
    assert images.class_names == ("ATR-72", "An-12", "Cessna 172", "F/A-18")
    assert by_class(images)["Cessna 172"] == ["0034313.jpg", "0034314.jpg"]  # both partitions are pooled
    assert images.sources[0].path.read_bytes() == mini.jpeg("0034311")


def test_aircraft_order_decides_the_halves(tmp_path: Path) -> None:
    """With folded case An-12 would train; bytewise it is the last of four."""
    folder = mini.write_aircraft(tmp_path, variants=("An-12", "ATR-42", "ATR-72", "A380"))
    split = split_classes(load_collection(folder), validation_fraction=0)
    assert split.train.class_names == ("A380", "ATR-42") and split.test.class_names == ("ATR-72", "An-12")


def test_inat_takes_the_birds(tmp_path: Path) -> None:
    images = load_collection(mini.write_inat(tmp_path))
    assert images.class_names == mini.SPECIES and len(images) == 8
    assert [entry.reason for entry in images.ignored] == ["1 folders whose names have no _Aves_: no birds"]


@pytest.mark.parametrize("name", WRITERS)
def test_halves_and_validation(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)  # given the folder that the official one lies in
    images, bad = screen_images(load_collection(tmp_path), skip_bad=False)
    assert bad == [] and images.published is not None
    assert images.splits == ("train",) * 4 + ("test",) * 4
    assert load_collection(tmp_path, "test").class_names == images.class_names[2:]
    split = split_classes(images, validation_fraction=0)
    assert split.train.class_names == images.class_names[:2] and split.test.class_names == images.class_names[2:]
    assert split.train.labels.tolist() == split.test.labels.tolist() == [0, 0, 1, 1]
    record = split.as_json()
    assert record["benchmark"] == images.published.benchmark and record["pictures"]["test"] == 4
    assert len(record["differs_from_published"]) == 4  # a miniature is never taken for the real one


def test_validation_comes_from_the_training_classes(tmp_path: Path) -> None:
    classes = tuple(f"{i:03d}.Bird_{i}" for i in range(1, 13))
    images = load_collection(mini.write_cub(tmp_path, classes=classes))
    for seed in range(5):
        split = split_classes(images, validation_fraction=0.4, seed=seed)
        assert split.test.class_names == classes[6:]
        assert split.validation.num_classes == 2
        assert set(split.train.class_names) | set(split.validation.class_names) == set(classes[:6])


def test_a_class_without_usable_pictures_moves_no_other_class(tmp_path: Path) -> None:
    classes = tuple(f"{i:03d}.Bird_{i}" for i in range(1, 9))
    folder = mini.write_cub(tmp_path, classes=classes)
    for picture in (folder / "images" / classes[0]).iterdir():
        picture.write_bytes(b"")
    images, bad = screen_images(load_collection(folder), skip_bad=True)
    assert len(bad) == 2 and images.num_classes == 7
    split = split_classes(images, validation_fraction=0)
    assert split.train.class_names == classes[1:4] and split.test.class_names == classes[4:]


def test_the_halves_cannot_be_changed(tmp_path: Path) -> None:
    folder = mini.write_cub(tmp_path)
    with pytest.raises(ValueError, match=r"train_fraction=0\.75, but CUB-200-2011 is split as published"):
        split_classes(load_collection(folder), train_fraction=0.75)
    (folder / "split.json").write_text('{"train": [], "test": []}')
    with pytest.raises(ValueError, match=r"split\.json, but CUB-200-2011 is split as published"):
        load_collection(folder)


def test_other_collections_are_not_mistaken(tmp_path: Path) -> None:
    """Class folders beside or under names that the benchmarks use too."""
    names = ("images/1.jpg", "lists/1.jpg", "devkit/1.jpg", "train/1.jpg")
    for folder in ("mine", "mine2/train_mini"):
        mini.write_files(tmp_path / folder, {name: mini.jpeg(name) for name in names})
    (tmp_path / "mine/variants.txt").write_text("a\n")
    (tmp_path / "mine/images.tar").write_bytes(b"x")
    for folder in ("mine", "mine2/train_mini"):
        images = load_collection(tmp_path / folder)
        assert images.published is None and images.class_names == ("devkit", "images", "lists", "train")


def test_two_benchmarks_in_one_folder(tmp_path: Path) -> None:
    mini.write_cub(tmp_path)
    mini.write_aircraft(tmp_path)
    with pytest.raises(ValueError, match="holds CUB-200-2011 and FGVC-Aircraft: give the folder of one"):
        load_collection(tmp_path)
