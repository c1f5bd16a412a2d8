"""Which decoder layer points best at what it describes: the teacher layer ℓ for a model whose ℓ is not published.

SAGA (arXiv 2606.15134, section 3.4) chose layer 26 of Qwen3-VL-8B's 36 by looking at maps, and found the last layer
spoilt by attention sinks. Here a number takes the eye's place, without training. For every description written about
one picture of a pair there is a map over that picture's patches. A layer points well if

- where part masks are known: the map lies on the described part (``part_lift``: its share of attention minus of area);
- where they are not: maps of one attribute agree when the picture is the same and differ when it is another
  (``specificity``). Flat maps and sinks are equal for all pictures, so both have specificity 0, however sharp they are.

Shown beside it, but no part of the score, is whether the attention goes to the described picture rather than to the
other one (``own_share``, 0.5 by chance): the teacher's map is renormalised over the described picture anyway.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean

import torch
from torch import Tensor

from fieldmark.evaluation.judging import HeardDescription


@dataclass(frozen=True)
class LayerPointing:
    """How well one layer points."""

    layer: int
    maps: int
    own_share: float
    """Mean; 0.5 is what a layer gives that does not know which picture is meant."""
    entropy: float
    """Mean entropy of the maps over that of a flat one, 0 to 1. Shown, but no part of the score: sinks are sharp."""
    specificity: float | None
    """Overlap of maps of the same attribute and picture, minus that of other pictures; None without both kinds."""
    part_lift: float | None
    """Mean share of attention on the described part minus its share of the area; None without masks."""

    @property
    def score(self) -> float:
        """What layers are compared by: ``part_lift``, else ``specificity``, not below 0."""
        if self.part_lift is not None:
            return self.part_lift
        return max(0.0, self.specificity or 0.0)


def layer_pointing(
    layer: int, maps: Sequence[HeardDescription], part_coverage: Mapping[tuple[int, str], Tensor] | None = None
) -> LayerPointing:
    """Measure one layer.

    Args:
        maps: of this layer.
        part_coverage: (picture, attribute) → (N,) share of each patch that the attribute's part covers; descriptions
            of parts that are not seen (all 0) or not listed are left out of ``part_lift``. None: masks are not known.

    Raises:
        ValueError: without maps, or if coverage and map have different lengths.
    """
    if not maps:
        raise ValueError(f"layer {layer} has no maps: no rollout described an attribute")
    lifts = []
    for m in maps if part_coverage is not None else ():
        covered = part_coverage.get((m.picture, m.attribute)) if part_coverage is not None else None
        if covered is None or float(covered.sum()) == 0:
            continue
        if covered.shape != m.attention.shape:
            raise ValueError(f"map {tuple(m.attention.shape)} and coverage {tuple(covered.shape)} differ in patches")
        lifts.append(float((m.attention.double() * covered.double()).sum() - covered.double().mean()))
    return LayerPointing(
        layer=layer,
        maps=len(maps),
        own_share=mean(m.own_share for m in maps),
        entropy=mean(_relative_entropy(m.attention) for m in maps),
        specificity=_specificity(maps),
        part_lift=mean(lifts) if lifts else None,
    )


def propose_layer(layers: Sequence[LayerPointing]) -> int:
    """The layer with the highest score; of equal ones the later.

    Raises:
        ValueError: without layers, if they were measured in different ways, or if none points at all.
    """
    if not layers:
        raise ValueError("no layer was measured")
    if len({one.part_lift is None for one in layers}) > 1:
        raise ValueError("some layers were measured with part masks and some without: their scores do not compare")
    best = max(layers, key=lambda one: (one.score, one.layer))
    if best.score <= 0:
        raise ValueError("no layer points at what it describes: set alignment_layer by other means, or leave it null")
    return best.layer


def _relative_entropy(attention: Tensor) -> float:
    p = attention.double()
    if p.numel() < 2:
        return 1.0
    return float(-torch.xlogy(p, p).sum() / torch.log(torch.tensor(float(p.numel()), dtype=torch.float64)))


def _specificity(maps: Sequence[HeardDescription]) -> float | None:
    """Mean overlap Σ min(p, q) of maps of one attribute: same picture minus other pictures; attributes weigh alike.

    Only maps of the same place in the prompt are compared: a layer may look elsewhere in the second picture for no
    better reason than its position.
    """
    by_attribute: dict[tuple[str, int], list[HeardDescription]] = defaultdict(list)
    for m in maps:
        by_attribute[m.attribute, m.item].append(m)
    differences = []
    for some in by_attribute.values():
        same: list[float] = []
        other: list[float] = []
        for a, b in combinations(some, 2):
            if a.attention.shape == b.attention.shape:
                overlap = float(torch.minimum(a.attention, b.attention).sum())
                (same if a.picture == b.picture else other).append(overlap)
        if same and other:
            differences.append(mean(same) - mean(other))
    return mean(differences) if differences else None
