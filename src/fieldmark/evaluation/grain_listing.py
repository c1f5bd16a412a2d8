"""A multimodal LLM is asked for the grains of queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fieldmark.data.multimodal.item_loader import ItemLoader
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.data.retrieval import Item
from fieldmark.models.backbone import Backbone
from fieldmark.models.sampling import sample
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.grain_answers import grain_prompt

Ask = Callable[[Sequence[Item]], list[str]]
"""Queries' items → what a model answers to `grain_prompt` about each."""


@dataclass(frozen=True)
class AskingConfig:
    """How a model is asked for the grains. Greedy."""

    image_size: int = 448
    """Side in pixels at which it sees the queries' pictures."""
    max_new_tokens: int = 256
    """Answers are cut here; a cut one cannot be read."""
    batch_size: int = 8
    """Queries asked at a time."""

    def __post_init__(self) -> None:
        for name in ("image_size", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def model_asker(backbone: Backbone, config: AskingConfig) -> Ask:
    """A multimodal LLM, greedy.

    The result raises:
        ValueError: a question that does not fit into its context.
        BadImage: a query's picture cannot be read.
    """

    @torch.no_grad()
    def ask(items: Sequence[Item]) -> list[str]:
        pictures = ItemLoader(ItemPictures(items), config.image_size).load(range(len(items)))
        shown = [one for one in pictures if one is not None]
        images, number = [], 0
        for one in pictures:
            images.append(() if one is None else (number,))
            number += one is not None
        prompts = [backbone.chat_prompt(grain_prompt(item), len(own)) for item, own in zip(items, images, strict=True)]
        if shown:
            vision = backbone.vision(backbone.pixels(torch.stack(shown).to(backbone.device)))
        else:
            vision = VisionTokens.none(backbone.hidden_size, backbone.preprocessing.merge_size, backbone.device)
        patches = max((tokens.shape[0] for tokens in vision.split()), default=0)
        needed = max(len(prompt.ids) for prompt in prompts) + patches + config.max_new_tokens
        if needed > backbone.context_length:
            raise ValueError(
                f"a question and {config.max_new_tokens} new tokens need {needed} positions, but the model has "
                f"{backbone.context_length}: lower asking.max_new_tokens or asking.image_size"
            )
        completions = sample(
            backbone,
            vision.detach(),
            prompts,
            images,
            num_samples=1,
            temperature=0.0,
            top_p=1.0,
            max_new_tokens=config.max_new_tokens,
            generator=torch.Generator(),
        )
        return [str(backbone.tokenizer.decode(one.ids, skip_special_tokens=True)) for (one,) in completions]

    return ask
