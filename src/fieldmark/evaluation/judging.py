"""Pairs of a whole collection put to a supervisor, some pictures at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fieldmark.data.samplers import Pair
from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import Adjudicator
from fieldmark.policy.alignment import attribute_maps
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.rollouts import PairType, RolloutGroup


@dataclass(frozen=True, eq=False)
class JudgedPairs:
    """Some pairs with what the supervisor said.

    index: positions in the collection of the batch's pictures. vision: their tokens, with graph if grad mode was on.
    pairs, groups: count positions in the batch.
    """

    index: tuple[int, ...]
    vision: VisionTokens
    pairs: tuple[Pair, ...]
    groups: tuple[RolloutGroup, ...]

    @property
    def global_groups(self) -> list[RolloutGroup]:
        """The groups with their pairs counted in the whole collection."""
        return [replace(g, pair=(self.index[g.pair[0]], self.index[g.pair[1]])) for g in self.groups]


def judge_pairs(
    backbone: Backbone,
    adjudicator: Adjudicator,
    pictures: Tensor,
    pairs: Sequence[Pair],
    different: PairType,
    generator: torch.Generator,
    pictures_per_batch: int,
) -> Iterator[JudgedPairs]:
    """Yield pairs of a collection with their rollouts, at most ``pictures_per_batch`` pictures at a time.

    Args:
        pictures: uint8 (n, H, W, 3), the whole collection.
        pairs: positions in ``pictures``.
        different: how pairs of different classes were drawn.
    """
    for start in range(0, len(pairs), pictures_per_batch // 2):
        some = pairs[start : start + pictures_per_batch // 2]
        index = sorted({i for p in some for i in (p.a, p.b)})
        place = {i: k for k, i in enumerate(index)}
        local = [Pair(place[p.a], place[p.b], p.same) for p in some]
        vision = backbone.vision(backbone.pixels(pictures[index].to(backbone.device)))
        judged = adjudicator.judge(vision, local, different, generator)
        yield JudgedPairs(tuple(index), vision, tuple(local), tuple(judged))


@dataclass(frozen=True, eq=False)
class HeardDescription:
    """Attention of one layer while a rollout described one attribute of one picture.

    picture: position in the collection. item: 0 or 1. own_share: attention on the picture's patches over that on both
    pictures'. attention: (N,) over its patches, sums to 1.
    """

    picture: int
    item: int
    attribute: str
    own_share: float
    attention: Tensor


@torch.no_grad()
def heard_descriptions(
    backbone: Backbone, judged: JudgedPairs, layer: int, *, right_only: bool = True, prompts_per_chunk: int = 4
) -> list[HeardDescription]:
    """Replay the rollouts and read one layer's attention from every description, mean over heads and tokens.

    Args:
        layer: decoder layer, from 0.
        right_only: only rollouts with the right verdict, as the alignment loss has it.
    """
    tasks = [
        ReplayGroup(backbone.chat_prompt(g.prompt.text, 2), g.pair, tuple(r.ids for r in g.rollouts))
        for g in judged.groups
    ]
    found = []
    for chunk in replay(
        backbone, judged.vision.detach(), tasks, attention_layer=layer, prompts_per_chunk=prompts_per_chunk
    ):
        assert chunk.attention is not None
        for number, rows, spans in zip(chunk.groups, chunk.attention, chunk.image_spans, strict=True):
            group = judged.groups[number]
            patches = [torch.arange(span.start, span.stop) for span in spans]
            for rollout, right, row in zip(group.rollouts, group.correct, rows, strict=True):
                if right_only and not right:
                    continue
                maps = attribute_maps(row, rollout, patches[0], patches[1])
                for item in (0, 1):
                    for name, attention in maps[item].items():
                        tokens = list(rollout.attribute_tokens[item][name])
                        mass = [float(row[tokens][:, p.to(row.device)].sum()) for p in patches]
                        share = mass[item] / (mass[0] + mass[1])
                        picture = judged.index[group.pair[item]]
                        found.append(HeardDescription(picture, item, name, share, attention.cpu()))
    return found
