"""Which pictures a Fieldguide retrieval collection has: the world's own, and near misses drawn beside them.

Species are split in three: test species have reserved combinations of field marks, as everywhere in Fieldguide;
validation species are whole genera of the others. Every species gets *variants*: two of its marks are changed, one
alone, the other alone, and both (as far as such combinations are free). No combination of marks, of a species or of a
variant, belongs to two splits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fieldmark.data.fieldguide.species import FIELD_MARKS, Species, is_reserved, random_plumage
from fieldmark.data.fieldguide.world import FieldguideConfig, plan_sightings, world_species

_NAMES = tuple(FIELD_MARKS)
_TRIES = 1000


@dataclass(frozen=True)
class Shot:
    """One picture to draw."""

    path: str
    """Relative to the collection's root."""
    split: str
    """train, val or test."""
    species: str
    """Of a variant, the species that it departs from."""
    is_query: bool
    """It is searched with, and is in no pool."""
    attributes: Mapping[str, str]
    """Field marks and plumage."""
    habitat: int
    seed: tuple[int, ...]

    @property
    def marks(self) -> dict[str, str]:
        """The field marks alone."""
        return {name: self.attributes[name] for name in FIELD_MARKS}


@dataclass(frozen=True)
class Variant:
    """A bird that differs from a species in the marks `changed`."""

    species: str
    split: str
    changed: Mapping[str, str]
    marks: Mapping[str, str]


@dataclass(frozen=True)
class PicturePlan:
    """Everything that will be drawn, in order, and the variants that queries ask for."""

    shots: tuple[Shot, ...]
    variants: tuple[Variant, ...]


def plan_pictures(world: FieldguideConfig, variants: int, validation_share: float) -> PicturePlan:
    """The pictures of a collection; the same settings give the same plan.

    A third of a species' pictures, at least one, are queries; the others are in the pool of its split.

    Args:
        world: species, pictures and dials; the base pictures are the same as those of `write_fieldguide`.
        variants: pairs of marks that are changed for each species; three pictures each.
        validation_share: of the training species' genera.

    Raises:
        ValueError: fewer than two pictures a species, or no genus is left on one side.
    """
    if world.per < 2:
        raise ValueError(f"a retrieval collection needs at least 2 pictures a species (per), got {world.per}")
    species = world_species(world)
    splits = _splits(species, validation_share)
    queries = max(1, world.per // 3)
    shots = []
    for sighting in plan_sightings(world):
        number, k = sighting.seed[1], sighting.seed[2]
        shots.append(
            Shot(
                _path(splits[number], f"{sighting.species}-{k:03d}"), splits[number], sighting.species, k < queries,
                sighting.attributes, sighting.habitat, (3, *sighting.seed),
            )
        )  # fmt: skip
    owner = {tuple(one.marks.values()): split for one, split in zip(species, splits, strict=True)}
    found: list[Variant] = []
    for number, (one, split) in enumerate(zip(species, splits, strict=True)):
        rng = np.random.default_rng([world.seed, 11, number])
        for pair in range(variants):
            for k, variant in enumerate(_draw_variants(one, split, owner, rng)):
                habitat = one.habitat if split != "test" and rng.random() < world.habitat else int(rng.integers(2**31))
                attributes = {**variant.marks, **random_plumage(rng)}
                path = _path(split, f"{one.name}-variant{pair}{'abc'[k]}")
                shots.append(Shot(path, split, one.name, False, attributes, habitat, (12, world.seed, number, pair, k)))
                found.append(variant)
    return PicturePlan(tuple(shots), tuple(found))


def _splits(species: list[Species], validation_share: float) -> list[str]:
    genera = sorted({one.genus for one in species if not one.evaluation})
    kept = len(genera) - round(validation_share * len(genera))
    if not 0 < kept < len(genera):
        raise ValueError(
            f"validation_share={validation_share} of {len(genera)} training genera leaves one side empty: "
            "change it, or have more species"
        )
    train = set(genera[:kept])
    return ["test" if one.evaluation else "train" if one.genus in train else "val" for one in species]


def _draw_variants(
    one: Species, split: str, owner: dict[tuple[str, ...], str], rng: np.random.Generator
) -> tuple[Variant, ...]:
    """First mark changed, second mark changed, both changed. Notes in `owner` whose combinations they are.

    Around one species in a hundred there is no such pair within the split's combinations: then none.
    """
    for _ in range(_TRIES):
        names = [_NAMES[i] for i in rng.permutation(len(_NAMES))[:2]]
        changed = {}
        for name in names:
            others = [value for value in FIELD_MARKS[name] if value != one.marks[name]]
            changed[name] = others[rng.integers(len(others))]
        parts = [{names[0]: changed[names[0]]}, {names[1]: changed[names[1]]}, changed]
        marks = [{**one.marks, **part} for part in parts]
        keys = [tuple(each.values()) for each in marks]
        if all(is_reserved(m) == (split == "test") and owner.get(k, split) == split for m, k in zip(marks, keys)):
            owner.update(dict.fromkeys(keys, split))
            return tuple(Variant(one.name, split, part, own) for part, own in zip(parts, marks, strict=True))
    return ()


def _path(split: str, name: str) -> str:
    return f"mbeir_images/fieldguide_images/{split}/{name}.png"
