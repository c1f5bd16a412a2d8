"""Show pairs to the supervisor and read what it says: pairs in, rollout groups out (SAGA, Algorithm 1, block B)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from fieldmark.data.samplers import Pair
from fieldmark.models.backbone import Backbone
from fieldmark.models.sampling import Completion, sample
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.grpo import Baseline, Scale
from fieldmark.policy.prompts import PromptStyle, reference_answer
from fieldmark.policy.rewards import resolve_reward
from fieldmark.policy.rollouts import (
    PairType,
    Prompt,
    RolloutGroup,
    build_group,
    build_prompt,
    read_rollout,
    verdict_words,
)
from fieldmark.policy.vocabulary import Vocabulary, load_vocabulary

TokenWeighting = Literal["all", "decision"]


@dataclass(frozen=True)
class RolloutConfig:
    """How the supervisor is asked, how its answers are sampled, and what they earn."""

    vocabulary: str = "birds"
    """Bundled vocabulary (birds, cars, aircraft, fieldguide) or path of a YAML file."""
    style: PromptStyle = "structured"
    """structured: attribute by attribute; generic: differences and verdict only (no attention alignment)."""
    attributes_per_prompt: int | None = None
    """Ask each pair about so many attributes, drawn at random; None asks about the whole vocabulary (published).
    Fewer attributes spread a group's one bit of reward over fewer choices."""
    group_size: int = 8
    """G, completions per pair."""
    temperature: float = 0.7
    """Of sampling; 0 is greedy."""
    top_p: float = 0.95
    """Nucleus of sampling; 1 samples the full distribution."""
    max_new_tokens: int = 1024
    """Completions are cut here; a cut answer earns 0."""
    reward: str = "verdict_correct"
    """Name of a registered reward, or import path package.module:function of your own."""
    reward_options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the reward function."""
    baseline: Baseline = "group_mean"
    """Advantage baseline: group_mean (published) or leave_one_out."""
    scale: Scale = "std"
    """Advantage scale: std (published) or none."""
    tokens: TokenWeighting = "all"
    """Tokens that carry the advantage: all (published), or decision: attribute values and the verdict word only."""
    replay_temperature: float = 1.0
    """Temperature of the replayed distribution (published: 1, whatever was sampled at)."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2 for a group baseline, got {self.group_size}")
        if self.attributes_per_prompt is not None and self.attributes_per_prompt < 1:
            raise ValueError(f"attributes_per_prompt must be at least 1 or null, got {self.attributes_per_prompt}")
        if self.style == "generic" and self.attributes_per_prompt is not None:
            raise ValueError("the generic prompt names no attributes: set attributes_per_prompt to null")
        if self.tokens not in get_args(TokenWeighting):
            raise ValueError(f"tokens must be one of {get_args(TokenWeighting)}, got {self.tokens!r}")
        if self.tokens == "decision" and self.style == "generic":
            raise ValueError("tokens='decision' needs attribute values: use style='structured'")
        if self.temperature < 0 or self.replay_temperature <= 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise ValueError(
                "need temperature >= 0, replay_temperature > 0, 0 < top_p <= 1 and max_new_tokens >= 1, got "
                f"{self.temperature}, {self.replay_temperature}, {self.top_p}, {self.max_new_tokens}"
            )


class Adjudicator:
    """Asks one supervisor about pairs, by one configuration.

    Raises:
        ValueError: for an unknown vocabulary, reward, or more attributes per prompt than the vocabulary has.
    """

    def __init__(self, backbone: Backbone, config: RolloutConfig) -> None:
        self.backbone = backbone
        self.config = config
        self.vocabulary: Vocabulary = load_vocabulary(config.vocabulary)
        count = config.attributes_per_prompt
        if count is not None and count > len(self.vocabulary.attributes):
            raise ValueError(
                f"attributes_per_prompt is {count}, but {config.vocabulary} has {len(self.vocabulary.attributes)}"
            )
        self.reward = resolve_reward(config.reward, options=config.reward_options)
        self.words = verdict_words(backbone.tokenizer) if "answer_logprobs" in self.reward.arguments else None
        self.longest_prompt_tokens = len(backbone.chat_prompt(build_prompt(self.vocabulary, config.style).text, 2).ids)

    def prompt(self, generator: torch.Generator) -> Prompt:
        """The prompt of one pair; draws its attributes if the configuration asks about some only."""
        names = self.vocabulary.attributes
        count = self.config.attributes_per_prompt
        if self.config.style == "generic" or count is None:
            return build_prompt(self.vocabulary, self.config.style)
        chosen = sorted(torch.randperm(len(names), generator=generator)[:count].tolist())
        return build_prompt(self.vocabulary, self.config.style, tuple(names[i] for i in chosen))

    @torch.no_grad()
    def judge(
        self, vision: VisionTokens, pairs: Sequence[Pair], different_type: PairType, generator: torch.Generator
    ) -> list[RolloutGroup]:
        """Sample G completions for every pair and read them.

        Args:
            vision: tokens of the pictures that the pairs count.
            pairs: positions in ``vision``.
            different_type: how the pairs of different classes were drawn ("random" or "hard").
            generator: of prompts' attributes and of sampling.
        """
        if not pairs:
            return []
        c = self.config
        prompts = [self.prompt(generator) for _ in pairs]
        completions = sample(
            self.backbone,
            vision.detach(),
            [self.backbone.chat_prompt(p.text, 2) for p in prompts],
            [(pair.a, pair.b) for pair in pairs],
            num_samples=c.group_size,
            temperature=c.temperature,
            top_p=c.top_p,
            max_new_tokens=c.max_new_tokens,
            generator=generator,
            tracked_ids=self.words.tracked_ids if self.words else (),
        )
        return [
            build_group(
                self.backbone.tokenizer,
                group,
                prompt,
                (pair.a, pair.b),
                pair.same,
                "same" if pair.same else different_type,
                self.reward,
                words=self.words,
                baseline=c.baseline,
                scale=c.scale,
            )
            for pair, prompt, group in zip(pairs, prompts, completions, strict=True)
        ]

    def reference(
        self,
        pairs: Sequence[Pair],
        attributes: Sequence[Mapping[str, str]],
        different_type: PairType,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        """The oracle: in place of rollouts, for each pair the one true answer, with advantage 1.

        Its policy loss is the plain cross-entropy of the true answer: the ceiling of what any reward on these texts can
        deliver.

        Args:
            attributes: true descriptions of the pictures that the pairs count (attribute → value).
        """
        groups = []
        for pair in pairs:
            prompt = self.prompt(generator)
            asked = prompt.attributes or None
            text = reference_answer(
                self.vocabulary, attributes[pair.a], attributes[pair.b], pair.same, self.config.style, asked
            )
            ids = torch.tensor(
                [*self.backbone.tokenizer(text, add_special_tokens=False)["input_ids"], self.backbone.stop_ids[0]]
            )
            nothing = torch.zeros(len(ids))
            completion = Completion(ids, nothing, nothing, torch.zeros(len(ids), 0), "stop")
            kind: PairType = "same" if pair.same else different_type
            rollout = read_rollout(
                self.backbone.tokenizer, completion, prompt, pair.same, kind, resolve_reward("verdict_correct"), None
            )
            ones = torch.ones(1)
            groups.append(RolloutGroup((pair.a, pair.b), pair.same, kind, prompt, (rollout,), ones, ones))
        return groups
