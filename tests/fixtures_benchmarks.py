"""Miniatures of the official benchmark archives, in their layout to the file name: extracted, or packed.

What the real ones are known for is in them: 1-based ids, grey and CMYK pictures, names with spaces and slashes,
variants whose order depends on the case of letters, species that are no birds.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CUB_CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross", "004.Groove_billed_Ani")
CAR_CLASSES = (
    "AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Acura TL Sedan 2012",
    "smart fortwo Convertible 2012",
)  # fmt: skip
VARIANTS = ("An-12", "ATR-72", "Cessna 172", "F/A-18")  # in this order in the file; bytewise ATR-72 comes first
SPECIES = (
    "03111_Animalia_Chordata_Aves_Accipitriformes_Accipitridae_Accipiter_badius",
    "03112_Animalia_Chordata_Aves_Accipitriformes_Accipitridae_Accipiter_cooperii",
    "04000_Animalia_Chordata_Aves_Passeriformes_Corvidae_Corvus_corax",
    "04001_Animalia_Chordata_Aves_Passeriformes_Corvidae_Corvus_cornix",
)
NO_BIRD = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"


def jpeg(key: str, mode: str = "RGB") -> bytes:
    """A picture of soft colour patches, decided by `key`; stored as RGB, L (grey) or CMYK."""
    patches = Image.fromarray(np.random.default_rng(list(key.encode())).integers(0, 256, (4, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    patches.resize((40, 36), Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def pack(archive: Path, *folders: Path) -> Path:
    """Packs folders as the publishers do: each under its own name; .tgz and .tar.gz are compressed."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as tar:
        for folder in folders:
            tar.add(folder, folder.name)
    return archive


def cub_files(per_class: int = 2, classes: Sequence[str] = CUB_CLASSES) -> dict[str, bytes | str]:
    """``CUB_200_2011/``: the first picture of each class is grey, the second CMYK."""
    names = [f"{c}/{c[4:]}_{n:04d}_{n + 17}.jpg" for c in classes for n in range(per_class)]
    labels = [i // per_class + 1 for i in range(len(names))]
    modes = ("L", "CMYK")
    return {
        "classes.txt": "".join(f"{i} {c}\n" for i, c in enumerate(classes, 1)),
        "images.txt": "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)),
        "image_class_labels.txt": "".join(f"{i} {label}\n" for i, label in enumerate(labels, 1)),
        "train_test_split.txt": "".join(f"{i} {i % 2}\n" for i in range(1, len(names) + 1)),
        "bounding_boxes.txt": "".join(f"{i} 1.0 1.0 30.0 30.0\n" for i in range(1, len(names) + 1)),
        "README": "miniature\n",
        **{
            f"images/{name}": jpeg(name, modes[i % per_class] if i % per_class < 2 else "RGB")
            for i, name in enumerate(names)
        },
        f"images/{classes[0]}/._{names[0].split('/')[1]}": b"\0\5\x16\7",  # as an archive made on a Mac has
    }


def write_cub(root: Path, per_class: int = 2, classes: Sequence[str] = CUB_CLASSES) -> Path:
    """``root/CUB_200_2011/``; returns that folder."""
    return write_files(root / "CUB_200_2011", cub_files(per_class, classes))


def _cell(names: Sequence[str]) -> np.ndarray:
    cell = np.empty((1, len(names)), dtype=object)
    cell[0, :] = names
    return cell


def _annotations(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    fields = list(rows[0])
    table = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        for field in fields:
            value = row[field]
            table[0, i][field] = value if isinstance(value, str) else np.array([[value]], dtype=np.uint8)
    return table


_BOX = {"bbox_x1": 1, "bbox_y1": 2, "bbox_x2": 30, "bbox_y2": 31}


def write_cars_old(root: Path, per_class: int = 2, classes: Sequence[str] = CAR_CLASSES, first_id: int = 1) -> Path:
    """``root/car_ims/`` and ``root/cars_annos.mat``; returns `root`."""
    rows: list[dict[str, object]] = []
    for i in range(per_class * len(classes)):
        name = f"car_ims/{i + 1:06d}.jpg"
        rows.append({"relative_im_path": name, **_BOX, "class": i // per_class + first_id, "test": i % 2})
        write_files(root, {name: jpeg(f"old{i}")})
    savemat(root / "cars_annos.mat", {"annotations": _annotations(rows), "class_names": _cell(classes)})
    return root


def write_cars_devkit(root: Path, per_class: int = 2, classes: Sequence[str] = CAR_CLASSES) -> Path:
    """``root/{cars_train,cars_test,devkit}/`` and the table of test classes beside; returns `root`."""
    rows: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for i in range(per_class * len(classes)):
        part = ("train", "test")[i % 2]
        name = f"{len(rows[part]) + 1:05d}.jpg"
        rows[part].append({**_BOX, "class": i // per_class + 1, "fname": name})
        write_files(root, {f"cars_{part}/{name}": jpeg(f"new{i}")})
    devkit = write_files(root / "devkit", {"README.txt": "miniature\n"})
    savemat(devkit / "cars_meta.mat", {"class_names": _cell(classes)})
    savemat(devkit / "cars_train_annos.mat", {"annotations": _annotations(rows["train"])})
    unlabelled = [{key: value for key, value in row.items() if key != "class"} for row in rows["test"]]
    savemat(devkit / "cars_test_annos.mat", {"annotations": _annotations(unlabelled)})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": _annotations(rows["test"])})
    return root


def write_aircraft(root: Path, per_class: int = 2, variants: Sequence[str] = VARIANTS) -> Path:
    """``root/fgvc-aircraft-2013b/``; every second picture is of the test partition. Returns that folder."""
    rows = [(f"{i + 34309:07d}", variants[i // per_class]) for i in range(per_class * len(variants))]
    lists = {
        "trainval": [row for i, row in enumerate(rows) if i % 2 == 0],
        "test": [row for i, row in enumerate(rows) if i % 2 == 1],
    }
    files: dict[str, bytes | str] = {f"data/images/{number}.jpg": jpeg(number) for number, _ in rows}
    files["data/variants.txt"] = "".join(f"{variant}\n" for variant in variants)
    for part, own in lists.items():
        files[f"data/images_variant_{part}.txt"] = "".join(f"{number} {variant}\n" for number, variant in own)
    files["README.md"] = "miniature\n"
    return write_files(root / "fgvc-aircraft-2013b", files)


def write_inat(root: Path, per_class: int = 2, species: Sequence[str] = (NO_BIRD, *SPECIES)) -> Path:
    """``root/train_mini/``; returns that folder."""
    names = [f"{one}/{i:02d}a{n}-4b.jpg" for i, one in enumerate(species) for n in range(per_class)]
    return write_files(root / "train_mini", {name: jpeg(name) for name in names})
