"""What the supervisor says about a few pairs of test pictures: material for its attention and its
completions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.samplers import Pair
from fieldmark.evaluation.pair_account import attribute_attention, published_layer
from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import Adjudicator
from fieldmark.policy.rollouts import PairType, Rollout, RolloutGroup
from fieldmark.report.inputs import Report
from fieldmark.report.measure import Measured
from fieldmark.report.pictures import Pictures

PAIR_ORDER: tuple[PairType, ...] = ("same", "hard", "same", "random")


@dataclass(frozen=True, eq=False)
class Asked:
    """One pair: the group of rollouts, its pictures in the collection, and the attention of one of its
    rollouts.

    ``maps``: attribute → (N,) over item 1's and item 2's patches, of rollout number ``mapped``; None where no
    rollout describes anything.
    """

    group: RolloutGroup
    pictures: tuple[int, int]
    mapped: int | None
    maps: tuple[dict[str, Tensor], dict[str, Tensor]]
    grids: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Interview:
    """The pairs that are shown, and what all pairs that were drawn have in common."""

    asked: tuple[Asked, ...]
    drawn: int
    mixed: int
    right: float
    """Share of right verdicts over all rollouts."""
    unparseable: float
    layer: int


def interview(report: Report, measured: Sequence[Measured], pictures: Pictures) -> Interview | str:
    """Ask about pairs of test pictures; or, in one sentence, why not.

    Three times as many pairs are drawn as are shown. Of each type those whose rollouts disagree come first,
    then the order in which they were drawn.
    """
    if report.supervisor is None or report.rollouts is None:
        return "The report was made without the supervisor, so what it sees and says is left out."
    encoders = [one.encoder for one in measured if one.encoder is not None]
    if not encoders:
        return "No row has an encoder, so the size at which pictures are shown to the supervisor is not known."
    labels = report.test.labels
    if not (np.bincount(labels) > 1).any() or len(np.unique(labels)) < 2:
        return "Pairs need two classes, and a class with two pictures."
    backbone = report.supervisor
    layer = published_layer(backbone) if report.attention_layer is None else report.attention_layer
    generator = torch.Generator().manual_seed(report.seed)
    embeddings = next((one.result.embeddings for one in measured if one.result is not None), None)
    pairs = draw_pairs(labels, embeddings, 3 * report.sizes.pairs, generator)
    indices = sorted({i for pair, _ in pairs for i in (pair.a, pair.b)})
    vision = _look(backbone, pictures.stack(indices, encoders[0].image_size))
    adjudicator = Adjudicator(backbone, report.rollouts)
    groups: list[RolloutGroup] = []
    for kind in ("hard", "random"):
        own = [pair for pair, pair_type in pairs if (pair_type == "random") == (kind == "random")]
        local = [Pair(indices.index(pair.a), indices.index(pair.b), pair.same) for pair in own]
        groups += adjudicator.judge(vision, local, "random" if kind == "random" else "hard", generator)
    shown = choose_groups(groups, report.sizes.pairs)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return Interview(
        asked=tuple(_asked(backbone, vision, group, indices, layer) for group in shown),
        drawn=len(groups),
        mixed=sum(group.is_mixed for group in groups),
        right=sum(sum(group.correct) for group in groups) / len(rollouts),
        unparseable=sum(rollout.verdict.answer is None for rollout in rollouts) / len(rollouts),
        layer=layer,
    )


def draw_pairs(
    labels: np.ndarray, embeddings: Tensor | None, count: int, generator: torch.Generator
) -> list[tuple[Pair, PairType]]:
    """Pairs in the order same, look-alike, same, random, …, all different.

    A look-alike is the nearest picture of another class in ``embeddings`` (any other picture for None).
    """
    by_class = [own for c in np.unique(labels) if len(own := np.flatnonzero(labels == c)) > 1]

    def below(limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=generator))

    pairs: list[tuple[Pair, PairType]] = []
    seen: set[frozenset[int]] = set()
    for attempt in range(20 * count):
        kind = PAIR_ORDER[len(pairs) % len(PAIR_ORDER)]
        if kind == "same":
            own = by_class[below(len(by_class))]
            first, second = (int(own[i]) for i in torch.randperm(len(own), generator=generator)[:2].tolist())
        else:
            first = below(len(labels))
            others = np.flatnonzero(labels != labels[first])
            if kind == "hard" and embeddings is not None:
                second = int(others[int((embeddings[others] @ embeddings[first]).argmax())])
            else:
                second = int(others[below(len(others))])
        if frozenset((first, second)) in seen and attempt < 19 * count:
            continue
        seen.add(frozenset((first, second)))
        pairs.append((Pair(first, second, kind == "same"), kind))
        if len(pairs) == count:
            break
    return pairs


def choose_groups(groups: Sequence[RolloutGroup], count: int) -> list[RolloutGroup]:
    """Groups to show, by type in ``PAIR_ORDER``, mixed ones first."""
    waiting = {
        kind: sorted((g for g in groups if g.pair_type == kind), key=lambda g: not g.is_mixed) for kind in PAIR_ORDER
    }
    chosen: list[RolloutGroup] = []
    for turn in range(len(groups) * len(PAIR_ORDER)):
        own = waiting[PAIR_ORDER[turn % len(PAIR_ORDER)]]
        if own and len(chosen) < count:
            chosen.append(own.pop(0))
    return chosen


@torch.no_grad()
def _look(backbone: Backbone, images: Tensor) -> VisionTokens:
    return backbone.vision(backbone.pixels(images))


@torch.no_grad()
def _asked(backbone: Backbone, vision: VisionTokens, group: RolloutGroup, indices: list[int], layer: int) -> Asked:
    grids = [vision.grids[i] for i in group.pair]
    mapped = described(group)
    maps: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    if mapped is not None:
        maps = attribute_attention(backbone, vision, group.prompt, group.pair, group.rollouts[mapped], layer)
    return Asked(group, (indices[group.pair[0]], indices[group.pair[1]]), mapped, maps, (grids[0], grids[1]))


def described(group: RolloutGroup) -> int | None:
    """The first rollout with a right verdict that describes attributes, else the first that describes any."""

    def describes(rollout: Rollout) -> bool:
        return any(rollout.attribute_tokens)

    numbers = [i for i, rollout in enumerate(group.rollouts) if describes(rollout)]
    return next((i for i in numbers if group.correct[i]), numbers[0] if numbers else None)
