"""The pointing game: does the highest patch of a map lie where it should? Beside what a patch drawn by lot would do.

Targets are given as coverage: which share of each patch's area the target takes (`attention_share.part_coverage`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOUCH = 0.1
"""A patch lies on a target from this share of its area on."""


@dataclass(frozen=True)
class Pointing:
    """Means over n maps.

    Attributes:
        maps: n. Maps whose target is not visible at all are not counted.
        share: share of the highest patch's area that the target takes.
        area: the same of a patch drawn by lot: the target's share of the picture.
        best: the same of the patch that holds most of the target: nothing points better.
        hits: share of maps whose highest patch lies on the target (with at least ``TOUCH`` of its area).
        chance: the same of a patch drawn by lot.
    """

    maps: int
    share: float
    area: float
    best: float
    hits: float
    chance: float

    @property
    def lift(self) -> float:
        """How many times as much of the target the highest patch holds as a patch drawn by lot; 1: no preference."""
        return self.share / self.area

    def as_json(self) -> dict[str, Any]:
        """Plain values, the lift among them."""
        return {**asdict(self), "lift": self.lift}


def pointing(maps: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Pointing:
    """Play the game.

    Args:
        maps: values per patch, of any shape; the first of equal highest ones counts.
        targets: of as many patches each, the share of their area that the target takes, in [0, 1].

    Raises:
        ValueError: lists of different lengths, a target that does not fit its map, or no visible target.
    """
    if len(maps) != len(targets):
        raise ValueError(f"there are {len(maps)} maps, but {len(targets)} targets")
    rows = []
    for values, target in zip(maps, targets, strict=True):
        values, target = np.ravel(values), np.ravel(target)
        if values.shape != target.shape or values.size == 0:
            raise ValueError(f"a map of {values.size} patches does not fit a target over {target.size}")
        if target.max() <= 0:
            continue
        top = target[values.argmax()]
        rows.append((top, target.mean(), target.max(), top >= TOUCH, (target >= TOUCH).mean()))
    if not rows:
        raise ValueError("no map has a visible target: there is nothing to point at")
    share, area, best, hits, chance = (float(column) for column in np.mean(np.array(rows, dtype=np.float64), axis=0))
    return Pointing(len(rows), share, area, best, hits, chance)
