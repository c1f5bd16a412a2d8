"""What a supervisor says about two pictures, and where it looks while it says it.

For pictures whose classes nobody knows: nothing is right or wrong here. Attributes are asked for in as many prompts as
the configuration's ``attributes_per_prompt`` makes of the vocabulary, so that all are described.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.models.backbone import Backbone
from fieldmark.models.sampling import sample
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.alignment import attribute_maps
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.rewards import resolve_reward
from fieldmark.policy.rollouts import Prompt, Rollout, build_prompt, read_rollout
from fieldmark.policy.vocabulary import Vocabulary, load_vocabulary

PUBLISHED_DEPTH = 26 / 36
"""Depth of the decoder layer whose attention is read, arXiv 2606.15134: layer 26 of 36."""


@dataclass(frozen=True, eq=False)
class DescribedAttribute:
    """One attribute of both pictures.

    Attributes:
        values: per picture, what was written and by how many completions, most frequent first; upper and lower case
            count as one.
        shown: per picture, the value whose attention follows; None if that completion left it out.
        attention: per picture, (H, W) over its patches while that value was written, sums to 1.
    """

    name: str
    values: tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]
    shown: tuple[str | None, str | None]
    attention: tuple[np.ndarray | None, np.ndarray | None]

    @property
    def differs(self) -> bool:
        """Whether the most frequent values are others."""
        first, second = self.values
        return bool(first and second) and first[0][0].casefold() != second[0][0].casefold()


@dataclass(frozen=True)
class PromptAnswer:
    """What the completions of one prompt say.

    Attributes:
        attributes: asked for; empty for the generic style.
        same, different, unreadable: completions by verdict.
        remarks: differences, confidence and reasoning of the completion whose attention is shown; empty without one.
    """

    attributes: tuple[str, ...]
    same: int
    different: int
    unreadable: int
    remarks: Mapping[str, str]

    @property
    def verdict(self) -> bool | None:
        """What most readable completions say; None for a draw, or if none can be read."""
        return None if self.same == self.different else self.same > self.different


@dataclass(frozen=True, eq=False)
class PairAccount:
    """A supervisor's account of two pictures.

    Attributes:
        question: what the verdict answers ("same species").
        answers: one per prompt.
        attributes: in the vocabulary's order; empty for the generic style.
        layer: decoder layer of the attention, from 0.
    """

    question: str
    answers: tuple[PromptAnswer, ...]
    attributes: tuple[DescribedAttribute, ...]
    layer: int

    @property
    def verdict(self) -> bool | None:
        """Of one prompt its verdict. Of several, each of which looks at some attributes only: no, if any says no; yes,
        if all say yes; else None.
        """
        verdicts = [one.verdict for one in self.answers]
        return False if False in verdicts else True if all(verdicts) else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "question": self.question,
            "verdict": {True: "yes", False: "no", None: None}[self.verdict],
            "answers": [{**asdict(one), "remarks": dict(one.remarks)} for one in self.answers],
            "attributes": [
                {
                    "name": one.name,
                    "differs": one.differs,
                    "values": [[{"text": text, "completions": count} for text, count in v] for v in one.values],
                    "shown": list(one.shown),
                    "attention": [None if a is None else np.round(a, 9).tolist() for a in one.attention],
                }
                for one in self.attributes
            ],
            "attention_layer": self.layer,
        }


def published_layer(backbone: Backbone) -> int:
    """The decoder layer, from 0, at the published share of this model's depth."""
    return round(PUBLISHED_DEPTH * backbone.num_layers)


@torch.no_grad()
def account_of_pair(
    backbone: Backbone,
    pictures: Tensor,
    config: RolloutConfig,
    generator: torch.Generator,
    *,
    completions: int = 8,
    layer: int | None = None,
) -> PairAccount:
    """Ask about two pictures and read the answers.

    Args:
        pictures: uint8 (2, H, W, 3).
        config: how to ask and sample; what it says of groups, rewards and advantages is not used.
        generator: of sampling.
        completions: answers per prompt.
        layer: decoder layer whose attention is read, from 0; None for the published depth.

    Raises:
        ValueError: other than two pictures, a layer that the model does not have, or an unknown vocabulary.
    """
    if pictures.dim() != 4 or len(pictures) != 2:
        raise ValueError(f"an account is of two pictures, uint8 (2, H, W, 3); got {tuple(pictures.shape)}")
    layer = published_layer(backbone) if layer is None else layer
    if not 0 <= layer < backbone.num_layers:
        raise ValueError(f"attention layer {layer} is not one of 0..{backbone.num_layers - 1}")
    vocabulary = load_vocabulary(config.vocabulary)
    prompts = _prompts(vocabulary, config)
    vision = backbone.vision(backbone.pixels(pictures.to(backbone.device)))
    sampled = sample(
        backbone,
        vision,
        [backbone.chat_prompt(prompt.text, 2) for prompt in prompts],
        [(0, 1)] * len(prompts),
        num_samples=completions,
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        generator=generator,
    )
    # A reading needs a class and a reward; neither is looked at afterwards.
    unused = resolve_reward("verdict_correct")
    read = [
        [read_rollout(backbone.tokenizer, one, prompt, True, "same", unused, None) for one in group]
        for prompt, group in zip(prompts, sampled, strict=True)
    ]
    attributes: list[DescribedAttribute] = []
    answers: list[PromptAnswer] = []
    for prompt, rollouts in zip(prompts, read, strict=True):
        chosen = representative(rollouts)
        maps: list[dict[str, np.ndarray]] = [{}, {}]
        if chosen is not None:
            flat = attribute_attention(backbone, vision, prompt, (0, 1), chosen, layer)
            maps = [
                {name: one.double().numpy().reshape(grid) for name, one in side.items()}
                for side, grid in zip(flat, vision.grids, strict=True)
            ]
        attributes += [_described(name, rollouts, chosen, maps) for name in prompt.attributes]
        said = Counter(rollout.verdict.answer for rollout in rollouts)
        remarks = {} if chosen is None else {key: span.text for key, span in chosen.verdict.remarks.items()}
        answers.append(PromptAnswer(prompt.attributes, said[True], said[False], said[None], remarks))
    return PairAccount(vocabulary.verdict_question, tuple(answers), tuple(attributes), layer)


def representative(rollouts: Sequence[Rollout]) -> Rollout | None:
    """The completion to show: with the more frequent verdict and, of those, most values that most completions give.

    The first of equals; None if none can be read.
    """
    readable = [one for one in rollouts if one.verdict.answer is not None]
    if not readable:
        return None
    said = Counter(one.verdict.answer for one in readable)
    top = max(said.values())
    usual: dict[tuple[int, str], str] = {
        (side, name): values[0][0].casefold()
        for side in (0, 1)
        for name in {name for one in readable for name in one.verdict.descriptions[side]}
        if (values := _values(readable, side, name))
    }

    def agreeing(one: Rollout) -> int:
        return sum(
            span.text.strip().casefold() == usual[side, name]
            for side in (0, 1)
            for name, span in one.verdict.descriptions[side].items()
        )

    return max((one for one in readable if said[one.verdict.answer] == top), key=agreeing)


@torch.no_grad()
def attribute_attention(
    backbone: Backbone, vision: VisionTokens, prompt: Prompt, pair: tuple[int, int], rollout: Rollout, layer: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Replay one completion and read one layer's attention: attribute → (N,) over item 1's and item 2's patches."""
    task = ReplayGroup(backbone.chat_prompt(prompt.text, 2), pair, (rollout.ids,))
    (chunk,) = replay(backbone, vision, [task], attention_layer=layer)
    assert chunk.attention is not None
    first, second = (torch.arange(span.start, span.stop) for span in chunk.image_spans[0])
    return attribute_maps(chunk.attention[0][0].cpu(), rollout, first, second)


def _prompts(vocabulary: Vocabulary, config: RolloutConfig) -> list[Prompt]:
    names, size = vocabulary.attributes, config.attributes_per_prompt
    if config.style == "generic" or size is None:
        return [build_prompt(vocabulary, config.style)]
    return [build_prompt(vocabulary, config.style, names[i : i + size]) for i in range(0, len(names), size)]


def _described(
    name: str,
    rollouts: Sequence[Rollout],
    chosen: Rollout | None,
    maps: Sequence[Mapping[str, np.ndarray]],
) -> DescribedAttribute:
    spans = ({}, {}) if chosen is None else chosen.verdict.descriptions
    return DescribedAttribute(
        name=name,
        values=(_values(rollouts, 0, name), _values(rollouts, 1, name)),
        shown=tuple(s[name].text.strip() if name in s else None for s in spans),  # type: ignore[arg-type]
        attention=(maps[0].get(name), maps[1].get(name)),
    )


def _values(rollouts: Sequence[Rollout], side: int, name: str) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    written: dict[str, str] = {}
    for one in rollouts:
        span = one.verdict.descriptions[side].get(name)
        if span is not None:
            text = " ".join(span.text.split())
            counts[text.casefold()] += 1
            written.setdefault(text.casefold(), text)
    return tuple((written[key], count) for key, count in counts.most_common())
