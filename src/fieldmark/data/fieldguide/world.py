"""Write a Fieldguide collection to disk: class folders, attributes, masks, split, contact sheet.

``habitat`` is the dial ρ of the Waterbirds kind of shortcut: with probability ρ a *training* species is photographed in
its own habitat; test species are photographed anywhere. Class labels cannot warn of it.
"""

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.fieldguide.picture import PICTURE_SIZE, take_picture
from fieldmark.data.fieldguide.species import Species, draw_species, random_plumage


@dataclass(frozen=True)
class FieldguideConfig:
    """Settings of a Fieldguide world; the same settings give the same bytes."""

    species: int = 200
    """Number of species, training and test together."""
    per: int = 24
    """Pictures per species."""
    nuisance: float = 0.35
    """0 (plate of a book) to 1 (bad day): camera, leaves, light, tint, blur, noise."""
    habitat: float = 1.0
    """ρ: probability that a training species is photographed in its own habitat."""
    seed: int = 0
    """Seed of the world: species, habitats and pictures."""
    train_share: float = 0.5
    """Share of the species that is for training; the rest is for evaluation, from the reserved combinations."""
    siblings: int = 4
    """Look-alike species per genus; siblings differ in one or two field marks."""
    size: int = PICTURE_SIZE
    """Side of the pictures in pixels."""

    def __post_init__(self) -> None:
        if self.species < 2 or self.per < 1 or self.siblings < 1 or self.size < 16:
            raise ValueError(
                f"a world needs at least 2 species, 1 picture each, 1 sibling and 16 pixels; "
                f"got species={self.species}, per={self.per}, siblings={self.siblings}, size={self.size}"
            )
        for name in ("nuisance", "habitat"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a dial from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.train_share < 1 or not 1 <= round(self.species * self.train_share) < self.species:
            raise ValueError(f"train_share must leave species on both sides, got {self.train_share} of {self.species}")


@dataclass(frozen=True)
class Sighting:
    """One picture to take: where it goes, what it shows, where, and its own random seed."""

    id: str
    species: str
    split: str
    attributes: dict[str, str]
    habitat: int
    seed: tuple[int, int, int]


def world_species(config: FieldguideConfig) -> list[Species]:
    """The species of a world: training species first (free combinations), then evaluation species (reserved ones)."""
    train = round(config.species * config.train_share)
    rng = np.random.default_rng([config.seed, 1])
    return draw_species(train, evaluation=False, siblings=config.siblings, rng=rng) + draw_species(
        config.species - train, evaluation=True, siblings=config.siblings, rng=rng, first=train
    )


def plan_sightings(config: FieldguideConfig) -> list[Sighting]:
    """Every picture of the world, in order."""
    species = world_species(config)
    sightings = []
    for number, one in enumerate(species):
        rng = np.random.default_rng([config.seed, 2, number])
        for k in range(config.per):
            own = not one.evaluation and rng.random() < config.habitat
            habitat = one.habitat if own else int(rng.integers(2**31))
            sightings.append(
                Sighting(
                    id=f"{one.name}/{k:03d}.png",
                    species=one.name,
                    split="test" if one.evaluation else "train",
                    attributes={**one.marks, **random_plumage(rng)},
                    habitat=habitat,
                    seed=(config.seed, number, k),
                )
            )
    return sightings


def write_fieldguide(config: FieldguideConfig, out: Path, *, workers: int | None = None, force: bool = False) -> Path:
    """Write the collection to ``out`` (made whole in a temporary folder beside it, then renamed).

    Layout: ``<class>/<n>.png``, ``masks/<class>/<n>.png`` (values index ``drawing.PARTS``), ``attributes.jsonl``,
    ``split.json``, ``fieldguide.json``, ``contact_sheet.png``.

    Raises:
        ValueError: if ``out`` exists and ``force`` is not said.
    """
    out = Path(out)
    if out.exists() and not force:
        raise ValueError(f"{out} exists: choose another --out, or say --force to replace it")
    sightings = plan_sightings(config)
    temporary = out.with_name(out.name + ".writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    for name in {s.species for s in sightings}:
        (temporary / name).mkdir(parents=True)
        (temporary / "masks" / name).mkdir(parents=True)
    workers = workers if workers is not None else os.cpu_count() or 1
    chunks = [sightings[i : i + 64] for i in range(0, len(sightings), 64)]
    jobs = [(chunk, config.nuisance, config.size, str(temporary)) for chunk in chunks]
    if workers > 1 and len(chunks) > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_take_all, jobs))
    else:
        for job in jobs:
            _take_all(job)
    with (temporary / "attributes.jsonl").open("w") as file:
        for s in sightings:
            record = {
                "id": s.id,
                "species": s.species,
                "split": s.split,
                "attributes": s.attributes,
                "habitat": s.habitat,
            }
            file.write(json.dumps(record) + "\n")
    split = {part: sorted({s.species for s in sightings if s.split == part}) for part in ("train", "test")}
    (temporary / "split.json").write_text(json.dumps(split, indent=1) + "\n")
    (temporary / "fieldguide.json").write_text(json.dumps({"format": 1, **asdict(config)}, indent=1) + "\n")
    contact_sheet(temporary, sightings).save(temporary / "contact_sheet.png")
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
    return out


def _take_all(job: tuple[list[Sighting], float, int, str]) -> None:
    sightings, nuisance, size, folder = job
    for s in sightings:
        picture = take_picture(s.attributes, s.habitat, nuisance, np.random.default_rng([3, *s.seed]), size)
        Image.fromarray(picture.image).save(Path(folder) / s.id)
        Image.fromarray(picture.mask).save(Path(folder) / "masks" / s.id)


def contact_sheet(folder: Path, sightings: list[Sighting], columns: int = 12, rows: int = 8) -> Image.Image:
    """A sheet of species, two pictures each, genus by genus: half training, half test species."""
    by_species: dict[str, list[Sighting]] = {}
    for s in sightings:
        by_species.setdefault(s.species, []).append(s)
    halves = [[v for v in by_species.values() if v[0].split == part] for part in ("train", "test")]
    per_half = columns * rows // 4
    chosen = [s for half in halves for species in half[:per_half] for s in (species * 2)[:2]]
    tiles = [Image.open(folder / s.id).convert("RGB") for s in chosen]
    size = tiles[0].width
    sheet = Image.new("RGB", (columns * size, -(-len(tiles) // columns) * size), "white")
    for k, tile in enumerate(tiles):
        sheet.paste(tile, (k % columns * size, k // columns * size))
    return sheet


def is_fieldguide(folder: Path) -> bool:
    """Whether a folder holds a Fieldguide collection, whose attributes and part masks are known."""
    return (Path(folder) / "fieldguide.json").is_file()


def read_world(folder: Path) -> FieldguideConfig:
    """The settings that a Fieldguide collection was drawn with.

    Raises:
        ValueError: the folder holds none, or one of another version.
    """
    if not is_fieldguide(folder):
        raise ValueError(f"{folder} is no Fieldguide collection (see `fieldmark data fieldguide`)")
    stored = json.loads((Path(folder) / "fieldguide.json").read_text(encoding="utf-8"))
    written = stored.pop("format", None)
    if written != 1 or set(stored) != set(FieldguideConfig.__dataclass_fields__):
        raise ValueError(f"{folder} was drawn by another version (format {written}): draw it again")
    return FieldguideConfig(**stored)


def read_attributes(folder: Path) -> dict[str, dict[str, str]]:
    """Picture id → true attributes of a Fieldguide collection."""
    path = Path(folder) / "attributes.jsonl"
    if not path.is_file():
        raise ValueError(
            f"{folder} has no attributes.jsonl: it is not a Fieldguide collection (see `fieldmark data fieldguide`)"
        )
    return {r["id"]: r["attributes"] for r in map(json.loads, path.read_text().splitlines())}


def read_mask(folder: Path, picture_id: str) -> np.ndarray:
    """Part mask of one picture, uint8 (H, W), values index ``drawing.PARTS``."""
    return np.asarray(Image.open(Path(folder) / "masks" / picture_id))


__all__ = [
    "FieldguideConfig",
    "Sighting",
    "contact_sheet",
    "is_fieldguide",
    "plan_sightings",
    "read_attributes",
    "read_mask",
    "read_world",
    "world_species",
    "write_fieldguide",
]
