"""What is missing, damaged, hostile or of another version is refused; the error says what to download."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.io import loadmat, savemat
from tests import fixtures_benchmarks as mini

from fieldmark.data.benchmarks import matlab
from fieldmark.data.benchmarks.archives import UnpackLimits, unpack
from fieldmark.data.benchmarks.catalogue import BENCHMARKS, read_benchmark
from fieldmark.data.collection import load_collection


def delete(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            (root / name).unlink()

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text) and None  # type: ignore[func-returns-value]


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


def cut(name: str) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / name, (root / name).stat().st_size // 2)


CUB, AIR, BIRD = "CUB_200_2011", "fgvc-aircraft-2013b/data", "CUB_200_2011.tgz"
FIRST = f"{CUB}/images/001.Black_footed_Albatross/Black_footed_Albatross_0000_17.jpg"


@pytest.mark.parametrize(
    ("writer", "change", "message", "download"),
    [
        (mini.write_cub, delete(f"{CUB}/image_class_labels.txt"), "lacks image_class_labels.txt", BIRD),
        (mini.write_cub, delete(f"{CUB}/images.txt", f"{CUB}/classes.txt"), "lacks classes.txt, images.txt", BIRD),
        (mini.write_cub, delete(FIRST), "1 of 8 pictures that are not in .*first 001.Black", BIRD),
        (mini.write_cub, cut(f"{CUB}/image_class_labels.txt"), "a file was cut off", BIRD),
        (mini.write_cub, cut(f"{CUB}/images.txt"), "not two columns|not in|cut off", BIRD),
        (mini.write_cub, replace(f"{CUB}/classes.txt", "4 ", "0 "), "class id 0, but ids run from 1 to 4", BIRD),
        (mini.write_cub, replace(f"{CUB}/image_class_labels.txt", "1 1", "1 5"), "class id 5", BIRD),
        (mini.write_cub, replace(f"{CUB}/image_class_labels.txt", "1 1", "1 2"), "not of one version", BIRD),
        (mini.write_cub, replace(f"{CUB}/image_class_labels.txt", "1 1", "1 x"), "'x' where a class id", BIRD),
        (mini.write_cub, replace(f"{CUB}/images.txt", "2 ", "1 "), "'1' comes twice", BIRD),
        (mini.write_cub, replace(f"{CUB}/images.txt", "2 ", "b "), "'b' is no number", BIRD),
        (mini.write_cub, replace(f"{CUB}/images.txt", "1 001", "1 ../001"), "not in", BIRD),
        (mini.write_cars_old, delete("cars_annos.mat"), "lacks cars_annos.mat, which belongs beside it", "car_ims.tgz"),
        (mini.write_cars_old, delete("car_ims/000002.jpg"), "first car_ims/000002.jpg", "car_ims.tgz"),
        (mini.write_cars_old, cut("cars_annos.mat"), "cannot be read as a MATLAB file", "cars_annos.mat"),
        (mini.write_cars_old, write("cars_annos.mat", "<html>"), "cannot be read as a MATLAB file", "cars_annos.mat"),
        (mini.write_cars_devkit, delete("cars_test_annos_withlabels.mat"), "cars_test_annos.mat has no classes",
         "beside cars_test or into devkit/"),
        (mini.write_cars_devkit, delete("devkit/cars_meta.mat"), "lacks cars_meta.mat", "car_devkit.tgz holds it"),
        (mini.write_cars_devkit, delete("cars_train/00001.jpg"), "first cars_train/00001.jpg", "cars_train.tgz"),
        (mini.write_aircraft, delete(f"{AIR}/variants.txt"), "lacks variants.txt", "fgvc-aircraft-2013b.tar.gz"),
        (mini.write_aircraft, delete(f"{AIR}/images_variant_test.txt"), "lacks images_variant_test.txt", "2013b"),
        (mini.write_aircraft, replace(f"{AIR}/variants.txt", "Cessna 172", "Cessna"), "not know 'Cessna 172'", "2013b"),
        (mini.write_aircraft, write(f"{AIR}/images_variant_test.txt", "0034309 An-12\n"), "34309 is listed already",
         "2013b"),
        (mini.write_aircraft, write(f"{AIR}/images_variant_test.txt", "0034310"), "not two columns", "2013b"),
    ],
)  # fmt: skip
def test_damaged_folders(
    tmp_path: Path, writer: Callable[[Path], Path], change: Callable[[Path], None], message: str, download: str
) -> None:
    writer(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        load_collection(tmp_path)
    assert download in str(caught.value)


def test_cars_with_ids_from_zero(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class id 0, but ids run from 1 to 4 \(they are 1-based\)"):
        load_collection(mini.write_cars_old(tmp_path, first_id=0))


def test_a_table_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.write_cars_old(tmp_path)
    table = tmp_path / "cars_annos.mat"
    content = loadmat(table)
    savemat(table, {name: content[name] for name in ("annotations", "class_names")}, do_compression=True)
    assert len(load_collection(tmp_path)) == 8  # compressed, as the published table is
    monkeypatch.setattr(matlab, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ValueError, match=r"contents unpack to more than 1000 bytes.*cars_annos\.mat"):
        load_collection(tmp_path)
    monkeypatch.setattr(matlab, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        load_collection(tmp_path)


def test_cars_table_without_classes(tmp_path: Path) -> None:
    """The devkit's own table of test pictures under the name of the one with classes."""
    mini.write_cars_devkit(tmp_path)
    (tmp_path / "devkit/cars_test_annos.mat").rename(tmp_path / "cars_test_annos_withlabels.mat")
    with pytest.raises(ValueError, match="its table has no field class"):
        load_collection(tmp_path)


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        ("cub", ("lists/files.txt", "images/001.A/1.jpg"), "holds CUB-200 of 2010 .*Download CUB_200_2011.tgz"),
        ("cub", ("lists.tgz", "images.tgz"), "holds CUB-200 of 2010"),
        ("cub", ("a/1.jpg",), "holds no CUB-200-2011. Download CUB_200_2011.tgz"),
        ("cars", ("a/1.jpg",), "holds no Cars-196. Cars-196 is either car_ims.tgz and cars_annos.mat"),
        ("aircraft", ("fgvc-aircraft-2013/data/variants.txt",), "the published figures are of 2013b"),
        ("aircraft", ("a/1.jpg",), "holds no FGVC-Aircraft. Download fgvc-aircraft-2013b.tar.gz"),
        ("inat", ("train_val2018/Aves/3000/1.jpg",), "train_val2018 is another year.*Download train_mini.tar.gz"),
        ("inat", ("train.tar.gz",), "train is another year or the full training set"),
        ("inat", (f"train_mini/{mini.NO_BIRD}/1.jpg",), r"no folder's name has _Aves_ \(1 other"),
    ],
)
def test_wrong_versions(tmp_path: Path, key: str, names: tuple[str, ...], message: str) -> None:
    mini.write_files(tmp_path, dict.fromkeys(names, b"x"))
    with pytest.raises(ValueError, match=message):
        read_benchmark(BENCHMARKS[key], tmp_path)


def test_cub_of_2010_is_told_where_only_a_path_is_given(tmp_path: Path) -> None:
    mini.write_files(tmp_path, {"lists/files.txt": "x", "images/001.A/1.jpg": b"x"})
    with pytest.raises(ValueError, match="CUB-200 of 2010"):
        load_collection(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Download CUB_200_2011\.tgz"):
        read_benchmark(BENCHMARKS["cub"], tmp_path / "nowhere")


# --- packed


@pytest.mark.parametrize("ending", [".tgz", ".tar.gz", ".tar"])
def test_packed_is_as_extracted(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = load_collection(mini.write_cub(tmp_path / "plain"))
    archive = mini.pack(tmp_path / f"packed/CUB_200_2011{ending}", tmp_path / "plain/CUB_200_2011")
    images = load_collection(archive)
    assert images.ids == plain.ids and images.labels.tolist() == plain.labels.tolist()
    assert images.decode(7).tobytes() == plain.decode(7).tobytes()
    said = capsys.readouterr()
    assert said.out == "" and "unpacking" in said.err and "CUB_200_2011.unpacked" in said.err
    stamp = images.sources[0].path.stat().st_mtime_ns
    again = load_collection(archive.parent)  # the folder that it lies in does as well; nothing is unpacked twice
    assert again.ids == plain.ids and again.sources[0].path.stat().st_mtime_ns == stamp
    assert capsys.readouterr().err == ""
    archive.unlink()
    assert load_collection(archive.parent).ids == plain.ids
    assert sorted(p.name for p in archive.parent.iterdir()) == ["CUB_200_2011.unpacked"]


@pytest.mark.parametrize(
    ("write_all", "folders", "archives"),
    [
        (mini.write_cars_old, ("car_ims",), ("car_ims.tgz",)),
        (mini.write_cars_devkit, ("cars_train", "cars_test", "devkit"),
         ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz")),
        (mini.write_aircraft, ("fgvc-aircraft-2013b",), ("fgvc-aircraft-2013b.tar.gz",)),
        (mini.write_inat, ("train_mini",), ("train_mini.tar.gz",)),
    ],
)  # fmt: skip
def test_every_benchmark_packed(
    tmp_path: Path, write_all: Callable[[Path], Path], folders: tuple[str, ...], archives: tuple[str, ...]
) -> None:
    write_all(tmp_path / "plain")
    plain = load_collection(tmp_path / "plain")
    for folder, archive in zip(folders, archives, strict=True):
        mini.pack(tmp_path / "packed" / archive, tmp_path / "plain" / folder)
    for table in (tmp_path / "plain").glob("*.mat"):
        table.rename(tmp_path / "packed" / table.name)
    for path in (tmp_path / "packed", tmp_path / "packed" / archives[0]):
        images = load_collection(path)
        assert images.ids == plain.ids and images.class_names == plain.class_names
    assert images.decode(0).tobytes() == plain.decode(0).tobytes()
    assert not list((tmp_path / "packed").rglob("*Lumbricus*"))  # of iNat only the birds are unpacked


def tar_of(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    """An archive of (name, type, content or target of the link)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content.decode()
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "CUB_200_2011/../../evil.jpg", "/evil.jpg", "a/..\\evil.jpg", "C:/evil"]
)
def test_traversal_is_refused(tmp_path: Path, name: str) -> None:
    place = tmp_path / "in"
    place.mkdir()
    archive = tar_of(place / "CUB_200_2011.tgz", ("ok.txt", tarfile.REGTYPE, b"x"), (name, tarfile.REGTYPE, b"evil"))
    with pytest.raises(ValueError, match=r"is not safe: its member .* leads out of the folder"):
        load_collection(archive)
    assert [p for p in tmp_path.rglob("*") if p != place] == [archive]  # nothing is left, inside or outside


def test_links_and_devices_are_never_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("secret")
    archive = tar_of(
        tmp_path / "CUB_200_2011.tar",
        ("d", tarfile.SYMTYPE, str(tmp_path).encode()),
        ("hard", tarfile.LNKTYPE, b"secret"),
        ("pipe", tarfile.FIFOTYPE, b""),
        ("null", tarfile.CHRTYPE, b""),
        ("d/file.txt", tarfile.REGTYPE, b"x"),  # through the link it would land beside the archive
    )
    folder = unpack(archive)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.name.startswith(".")) == [
        "d", "d/file.txt",
    ]  # fmt: skip
    assert not (folder / "d").is_symlink() and not (tmp_path / "file.txt").exists()
    assert "unpacked 1 files; 4 links or devices passed over, first 'd'" in capsys.readouterr().err


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tar", ("a", tarfile.REGTYPE, b"1"), ("./a", tarfile.REGTYPE, b"2"))
    with pytest.raises(ValueError, match=r"names '\./a' twice"):
        unpack(archive)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (UnpackLimits(max_members=2), "more than 2 entries"),
        (UnpackLimits(max_member_bytes=999), r"more than 999 bytes in one file \('b'\)"),
        (UnpackLimits(max_total_bytes=1100), "more than 1100 bytes"),
    ],
)
def test_limits(tmp_path: Path, limits: UnpackLimits, message: str) -> None:
    sizes = {"a": 100, "b": 1000, "c": 1}
    archive = tar_of(tmp_path / "x.tgz", *((name, tarfile.REGTYPE, bytes(size)) for name, size in sizes.items()))
    with pytest.raises(ValueError, match=message):
        unpack(archive, limits=limits)
    assert list(tmp_path.iterdir()) == [archive]
    unpack(archive, limits=UnpackLimits(max_members=3, max_member_bytes=1000, max_total_bytes=1101))


@pytest.mark.parametrize("ending", [".tgz", ".tar"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, "a member"])
def test_a_truncated_archive_is_refused(tmp_path: Path, ending: str, share: float | str) -> None:
    content = [(f"f{i}", tarfile.REGTYPE, os.urandom(700)) for i in range(20)]
    archive = tar_of(tmp_path / f"CUB_200_2011{ending}", *content)
    if share == "a member":  # of a .tar: right between two members, where tarfile sees a proper end
        cut_at = 5 * (512 + 1024) if ending == ".tar" else archive.stat().st_size - 8
    else:
        cut_at = int(archive.stat().st_size * float(share))
    os.truncate(archive, cut_at)
    with pytest.raises(ValueError, match=r"is damaged or was cut off \(.+\): download it again"):
        unpack(archive)
    assert list(tmp_path.iterdir()) == [archive]


def test_flipped_bits_are_found_by_the_checksum(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tgz", ("a", tarfile.REGTYPE, b"A" * 3000))
    content = bytearray(gzip.decompress(archive.read_bytes()))
    packed = bytearray(gzip.compress(bytes(content), 0))  # stored, not compressed: a flip is no error to inflate
    packed[1500] ^= 1
    archive.write_bytes(packed)
    with pytest.raises(ValueError, match="damaged or was cut off"):
        unpack(archive)


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011.tgz").write_text("<!DOCTYPE html><html>not found</html>" * 40)
    with pytest.raises(ValueError, match="damaged or was cut off"):
        load_collection(tmp_path)


def test_another_archive_by_the_right_name(tmp_path: Path) -> None:
    mini.write_files(tmp_path / "lists", {"files.txt": "x"})
    archive = mini.pack(tmp_path / "d/CUB_200_2011.tgz", tmp_path / "lists")
    with pytest.raises(ValueError, match=r"holds no folder CUB_200_2011 \(it holds lists\): another version"):
        load_collection(archive)


def test_archives_that_are_not_known(tmp_path: Path) -> None:
    archive = mini.pack(tmp_path / "birds.tar", mini.write_cub(tmp_path))
    with pytest.raises(ValueError, match=r"not known by its name .*CUB_200_2011.tgz.*rename it, or unpack it"):
        load_collection(archive)
    mini.pack(tmp_path / "d/CUB_200_2011.tar", tmp_path / "CUB_200_2011")
    mini.pack(tmp_path / "d/CUB_200_2011.tgz", tmp_path / "CUB_200_2011")
    with pytest.raises(ValueError, match=r"holds CUB_200_2011.tgz and CUB_200_2011.tar: keep one"):
        load_collection(tmp_path / "d")


def test_a_changed_archive_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    archive = mini.pack(tmp_path / "d/CUB_200_2011.tar", mini.write_cub(tmp_path))
    load_collection(archive)
    mini.pack(archive, mini.write_cub(tmp_path, per_class=9))
    with pytest.raises(ValueError, match=r"unpacked from one of \d+: delete the folder"):
        load_collection(archive)
    (archive.parent / "CUB_200_2011.unpacked/.fieldmark-unpacked.json").unlink()
    with pytest.raises(ValueError, match="was not written by fieldmark"):
        load_collection(archive)


def test_a_link_to_the_archive_unpacks_beside_the_link(tmp_path: Path) -> None:
    archive = mini.pack(tmp_path / "shared/CUB_200_2011.tgz", mini.write_cub(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/CUB_200_2011.tgz").symlink_to(archive)
    assert len(load_collection(tmp_path / "mine")) == 8
    assert list(archive.parent.iterdir()) == [archive]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = mini.pack(tmp_path / "shared/CUB_200_2011.tgz", mini.write_cub(tmp_path))

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ValueError, match=r"cannot be unpacked beside itself \(Permission denied\).*link the archive"):
        unpack(archive)


def test_an_interrupted_unpacking_leaves_nothing(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tgz", ("a", tarfile.REGTYPE, b"1"), ("b", tarfile.REGTYPE, b"2"))

    def interrupt(name: str) -> bool:
        if name == "b":
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, interrupt)
    assert list(tmp_path.iterdir()) == [archive]


def test_two_processes_may_unpack_at_once(tmp_path: Path) -> None:
    """The slower one takes the folder of the faster one, and cleans up after itself."""
    archive = tar_of(tmp_path / "x.tgz", ("a", tarfile.REGTYPE, b"1"))
    faster: list[Path] = []

    def meanwhile(name: str) -> bool:
        if not faster:
            faster.append(archive)
            unpack(archive)
        return True

    folder = unpack(archive, meanwhile)
    assert (folder / "a").read_bytes() == b"1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.tgz", "x.unpacked"]
