"""Rollouts and groups of rollouts: what was asked, what was sampled, what it earned. Values only, no model.

``build_group`` turns the sampler's completions into a ``RolloutGroup``: decode, parse, reward, advantages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from fieldmark.policy.grpo import ADVANTAGE_EPS, Baseline, Scale, group_advantages
from fieldmark.policy.offsets import decode_with_offsets
from fieldmark.policy.prompts import PromptStyle, pair_prompt
from fieldmark.policy.rewards import AnswerLogprobs, Reward, verdict_correct
from fieldmark.policy.verdicts import Verdict, parse_verdict, token_spans
from fieldmark.policy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fieldmark.models.sampling import Completion

PairType = Literal["same", "random", "hard"]
PAIR_TYPES: tuple[str, ...] = get_args(PairType)


@dataclass(frozen=True)
class Prompt:
    """What a pair is asked: the text after the two pictures, and what is needed to read the answer."""

    text: str
    vocabulary: Vocabulary
    attributes: tuple[str, ...]
    """Attributes that were asked for; empty for the generic style."""
    style: PromptStyle


def build_prompt(
    vocabulary: Vocabulary, style: PromptStyle = "structured", attributes: Sequence[str] | None = None
) -> Prompt:
    """The pair prompt of a vocabulary; arguments and errors as ``prompts.pair_prompt``."""
    text = pair_prompt(vocabulary, style, attributes)
    return Prompt(text, vocabulary, () if style == "generic" else vocabulary.select(attributes), style)


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sampled completion, T tokens, and its reading."""

    ids: Tensor
    """int64 (T,), the stop token included if there is one."""
    logprobs: Tensor
    """float32 (T,), at temperature 1 over the full softmax: what a replay computes."""
    sampling_logprobs: Tensor
    """float32 (T,), in the distribution that was sampled from (temperature, top-p)."""
    text: str
    offsets: np.ndarray
    """int64 (T, 2), characters of ``text`` that each token wrote."""
    finish_reason: str
    """``"stop"`` or ``"length"``."""
    reward: float
    verdict: Verdict
    attribute_tokens: tuple[dict[str, range], dict[str, range]]
    """Attribute → token positions of its value, for item 1 and item 2."""
    verdict_tokens: range
    """Token positions of the verdict word; empty if unparseable."""
    answer_logprobs: AnswerLogprobs | None = None
    """Of both verdict words where the verdict was written; None if unparseable or not tracked."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.ids.numel()

    @property
    def decision_tokens(self) -> tuple[range, ...]:
        """Token positions of all attribute values and of the verdict word: see ``grpo.span_weights``.

        In order and disjoint: a token that writes parts of two values stands in one range only.
        """
        values = [span for spans in self.attribute_tokens for span in spans.values()]
        ranges: list[range] = []
        for span in sorted([*values, self.verdict_tokens], key=lambda span: span.start):
            start = max(span.start, ranges[-1].stop) if ranges else span.start
            if start < span.stop:
                ranges.append(range(start, span.stop))
        return tuple(ranges)


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """G rollouts of one pair of pictures. Picture ``pair[0]`` is item 1, ``pair[1]`` is item 2."""

    pair: tuple[int, int]
    """Positions of both pictures, as the caller counts them."""
    same: bool
    """Whether they are of one class."""
    pair_type: PairType
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    rewards: Tensor
    """float32 (G,)."""
    advantages: Tensor
    """float32 (G,)."""

    @cached_property
    def contributes(self) -> bool:
        """Whether the rewards differ: only then there is a gradient."""
        return bool(self.rewards.max() > self.rewards.min())

    @cached_property
    def correct(self) -> tuple[bool, ...]:
        """Whether each verdict is right; unparseable is not."""
        return tuple(rollout.verdict.answer is self.same for rollout in self.rollouts)

    @property
    def is_mixed(self) -> bool:
        """Whether some verdicts are right and some are not (whatever the reward function says)."""
        return len(set(self.correct)) == 2

    @property
    def num_unparseable(self) -> int:
        """Rollouts without a verdict."""
        return sum(rollout.verdict.answer is None for rollout in self.rollouts)

    @property
    def num_tokens(self) -> int:
        """All sampled tokens of the group."""
        return sum(rollout.num_tokens for rollout in self.rollouts)


@dataclass(frozen=True)
class VerdictWords:
    """Token ids by which the verdict words may be written, to be tracked while sampling."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @property
    def tracked_ids(self) -> tuple[int, ...]:
        """For ``models.sampling.sample(tracked_ids=...)``: columns of yes, then of no."""
        return self.yes + self.no


def verdict_words(tokenizer: Any) -> VerdictWords:
    """The single tokens that write yes and no, in lower case, capitalised and in capitals.

    Raises:
        ValueError: if the tokenizer cuts ``yes`` or ``no`` into several tokens: their probability cannot be
        tracked.
    """

    def single(word: str) -> tuple[int, ...]:
        spellings = (word, word.capitalize(), word.upper())
        encoded = [tokenizer.encode(spelling, add_special_tokens=False) for spelling in spellings]
        ids = [e[0] for e in encoded if len(e) == 1]
        if len(encoded[0]) != 1:
            raise ValueError(f"the tokenizer cuts {word!r} into {len(encoded[0])} tokens; use another reward")
        return tuple(dict.fromkeys(ids))

    return VerdictWords(single("yes"), single("no"))


def build_group(
    tokenizer: Any,
    completions: "Sequence[Completion]",
    prompt: Prompt,
    pair: tuple[int, int],
    same: bool,
    pair_type: PairType,
    reward: Reward = Reward(verdict_correct),  # noqa: B008  # stateless
    *,
    words: VerdictWords | None = None,
    baseline: Baseline = "group_mean",
    scale: Scale = "std",
    eps: float = ADVANTAGE_EPS,
) -> RolloutGroup:
    """Read the completions of one pair.

    Args:
        tokenizer: the one that the completions were sampled with.
        completions: G completions of the prompt.
        pair, same, pair_type: the two pictures; ``pair_type`` is ``same`` exactly if ``same``.
        reward: see ``rewards.resolve_reward``.
        words: the verdict words, if ``words.tracked_ids`` were tracked while sampling.
        baseline, scale, eps: see ``grpo.group_advantages``.

    Raises:
        ValueError: for a pair type that contradicts ``same``, tracked columns that do not fit ``words``,
            fewer than two completions, or a reward that is no finite number. Whatever else a reward raises
            propagates.
    """
    if pair_type not in PAIR_TYPES or (pair_type == "same") != same:
        raise ValueError(f"pair type {pair_type!r} does not fit same={same}; types: {', '.join(PAIR_TYPES)}")
    rollouts = tuple(read_rollout(tokenizer, c, prompt, same, pair_type, reward, words) for c in completions)
    rewards = torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float32)
    advantages = group_advantages(rewards, eps=eps, baseline=baseline, scale=scale)
    return RolloutGroup(pair, same, pair_type, prompt, rollouts, rewards, advantages)


def read_rollout(
    tokenizer: Any,
    completion: "Completion",
    prompt: Prompt,
    same: bool,
    pair_type: str,
    reward: Reward,
    words: VerdictWords | None,
) -> Rollout:
    """Read one completion; arguments as ``build_group``'s."""
    text, offsets = decode_with_offsets(tokenizer, completion.ids)
    verdict = parse_verdict(text, prompt.vocabulary, prompt.attributes or None)
    first, second = (
        {name: token_spans(offsets, span) for name, span in spans.items()} if prompt.attributes else {}
        for spans in verdict.descriptions
    )
    verdict_tokens = token_spans(offsets, verdict.answer_span) if verdict.answer_span else range(0)
    answer_logprobs = _answer_logprobs(completion, verdict_tokens, words) if words and verdict_tokens else None
    value = reward(
        verdict=verdict,
        same=same,
        pair_type=pair_type,
        text=text,
        num_tokens=completion.ids.numel(),
        finish_reason=completion.finish_reason,
        answer_logprobs=answer_logprobs,
        vocabulary=prompt.vocabulary,
        attributes=prompt.attributes,
    )
    return Rollout(
        ids=completion.ids,
        logprobs=completion.logprobs,
        sampling_logprobs=completion.sampling_logprobs,
        text=text,
        offsets=offsets,
        finish_reason=completion.finish_reason,
        reward=value,
        verdict=verdict,
        attribute_tokens=(first, second),
        verdict_tokens=verdict_tokens,
        answer_logprobs=answer_logprobs,
    )


def _answer_logprobs(completion: "Completion", tokens: range, words: VerdictWords) -> AnswerLogprobs:
    """Log-probabilities of both words, all their spellings summed, at the token that wrote the verdict.

    A verdict that was written with tokens which are not tracked (``ye`` + ``s``) has −∞ for both: what the
    tracked tokens would have had there is not the probability of a verdict.
    """
    tracked = completion.tracked
    if tracked.shape[-1] != len(words.tracked_ids):
        raise ValueError(
            f"{tracked.shape[-1]} token ids were tracked, {len(words.tracked_ids)} are verdict words; "
            "sample with tracked_ids=words.tracked_ids"
        )
    if int(completion.ids[tokens.start]) not in words.tracked_ids:
        return AnswerLogprobs(-math.inf, -math.inf)
    row = tracked[tokens.start].double()
    yes, no = row[: len(words.yes)], row[len(words.yes) :]
    return AnswerLogprobs(float(torch.logsumexp(yes, 0)), float(torch.logsumexp(no, 0)))


class Drawn(Protocol):
    """Tokens that were sampled: a `Rollout`, or a sampler's `Completion`."""

    @property
    def logprobs(self) -> Tensor: ...

    @property
    def sampling_logprobs(self) -> Tensor: ...


def logprob_gap(groups: "RolloutGroup | Sequence[RolloutGroup]") -> float:
    """`mean_logprob_gap` of all rollouts of some groups."""
    chosen = [groups] if isinstance(groups, RolloutGroup) else list(groups)
    return mean_logprob_gap([r for group in chosen for r in group.rollouts])


def mean_logprob_gap(drawn: Sequence[Drawn]) -> float:
    """Mean over all sampled tokens of ``sampling_logprobs − logprobs``, in nats.

    How far the distribution that was sampled from (temperature, top-p) is from the one that the replay
    differentiates (temperature 1); 0 where they are the same. Top-p renormalises, so it is usually positive.

    Raises:
        ValueError: if there are no tokens.
    """
    gaps = [one.sampling_logprobs.double() - one.logprobs.double() for one in drawn]
    if sum(gap.numel() for gap in gaps) == 0:
        raise ValueError("no sampled tokens to compare log-probabilities of")
    return float(torch.cat(gaps).mean())
