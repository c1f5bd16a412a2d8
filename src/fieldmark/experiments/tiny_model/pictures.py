"""Pictures that the bundled MLLM learns from: drawn from the free mark combinations only, never the reserved ones."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.picture import PICTURE_SIZE, take_picture
from fieldmark.data.fieldguide.species import (
    FIELD_MARKS,
    PLUMAGE,
    is_reserved,
    random_marks,
    random_plumage,
    sibling_marks,
)

ATTRIBUTES: tuple[str, ...] = (*FIELD_MARKS, *PLUMAGE)
VALUES: dict[str, tuple[str, ...]] = {**FIELD_MARKS, **PLUMAGE}


@dataclass(frozen=True)
class PicturePool:
    """Pictures grouped by species and genus.

    images: uint8 (n, H, W, 3). masks: uint8 (n, H, W), values index PARTS. values: int64 (n, 11), index of each of
    ATTRIBUTES' value. species, genus: int64 (n,).
    """

    images: np.ndarray
    masks: np.ndarray
    values: np.ndarray
    species: np.ndarray
    genus: np.ndarray

    def attributes(self, i: int) -> dict[str, str]:
        """Attribute → value of picture i."""
        return {name: VALUES[name][v] for name, v in zip(ATTRIBUTES, self.values[i], strict=True)}


def draw_pool(
    genera: int,
    siblings: int,
    per_species: int,
    max_nuisance: float,
    habitat_share: float,
    seed: int,
    workers: int | None = None,
) -> PicturePool:
    """Draw ``genera * siblings * per_species`` pictures; nuisance uniform up to ``max_nuisance``.

    A share ``habitat_share`` stands in a habitat, each its own; the rest are plates on plain paper.
    """
    jobs = [(seed, g, siblings, per_species, max_nuisance, habitat_share) for g in range(genera)]
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_draw_genus, jobs, chunksize=8))
    images, masks, values = (np.concatenate([p[k] for p in parts]) for k in range(3))
    per_genus = siblings * per_species
    number = np.arange(len(images))
    return PicturePool(images, masks, values, number // per_species, number // per_genus)


def _draw_genus(job: tuple[int, int, int, int, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seed, genus, siblings, per_species, max_nuisance, habitat_share = job
    rng = np.random.default_rng([5, seed, genus])
    base = random_marks(rng, reserved=False)
    images, masks, values = [], [], []
    for k in range(siblings):
        marks = base if k == 0 else sibling_marks(rng, base, reserved=False)
        assert not is_reserved(marks)
        for _ in range(per_species):
            attributes = {**marks, **random_plumage(rng)}
            habitat = int(rng.integers(2**31)) if rng.random() < habitat_share else None
            picture = take_picture(attributes, habitat, rng.uniform(0, max_nuisance), rng, PICTURE_SIZE)
            images.append(picture.image)
            masks.append(picture.mask)
            values.append([VALUES[name].index(attributes[name]) for name in ATTRIBUTES])
    return np.stack(images), np.stack(masks), np.asarray(values)


def patch_parts(masks: np.ndarray, patch: int) -> np.ndarray:
    """Share of every part in every patch: uint8 (n, H, W) → float32 (n, H/patch * W/patch, len(PARTS))."""
    n, h, w = masks.shape
    blocks = (
        masks.reshape(n, h // patch, patch, w // patch, patch).transpose(0, 1, 3, 2, 4).reshape(n, -1, patch * patch)
    )
    return np.stack([(blocks == part).mean(-1, dtype=np.float32) for part in range(len(PARTS))], axis=-1)


PART_INDEX: np.ndarray = np.asarray([PARTS.index(PART_OF_ATTRIBUTE[name]) for name in ATTRIBUTES])
"""For each of ATTRIBUTES the part in which it is seen."""
