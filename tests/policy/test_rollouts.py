"""From completions to a group: text, spans, rewards, advantages, and what is counted."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fieldmark.policy.grpo import group_advantages
from fieldmark.policy.prompts import pair_prompt, reference_answer
from fieldmark.policy.rewards import resolve_reward
from fieldmark.policy.rollouts import (
    RolloutGroup,
    VerdictWords,
    build_group,
    build_prompt,
    logprob_gap,
    verdict_words,
)
from fieldmark.policy.vocabulary import load_vocabulary

BIRDS = load_vocabulary("fieldguide")
FIRST = {name: f"one {i}" for i, name in enumerate(BIRDS.attributes)}
SECOND = {name: f"two {i}" for i, name in enumerate(BIRDS.attributes)}
PROMPT = build_prompt(BIRDS)
END = "<|im_end|>"


def answer(same: bool) -> str:
    return reference_answer(BIRDS, FIRST, SECOND, same) + END


def group(tokenizer: Any, complete: Callable[..., Any], texts: list[str], **options: Any) -> RolloutGroup:
    return build_group(tokenizer, [complete(t) for t in texts], PROMPT, (4, 9), False, "hard", **options)


def test_prompt() -> None:
    assert PROMPT.text == pair_prompt(BIRDS)
    assert PROMPT.attributes == BIRDS.attributes
    generic = build_prompt(BIRDS, "generic")
    assert generic.attributes == ()
    assert build_prompt(BIRDS, attributes=["crown color"]).attributes == ("crown color",)


def test_build_group(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    texts = [answer(False), answer(True), "I do not know" + END, answer(False)]
    built = group(byte_level_tokenizer, complete, texts)
    assert (built.pair, built.same, built.pair_type) == ((4, 9), False, "hard")
    assert [r.text for r in built.rollouts] == texts
    assert built.rewards.tolist() == [1, 0, 0, 1] == [r.reward for r in built.rollouts]
    assert_close(built.advantages, group_advantages(built.rewards))
    assert built.correct == (True, False, False, True)
    assert (built.is_mixed, built.contributes, built.num_unparseable) == (True, True, 1)
    assert built.num_tokens == sum(len(r.ids) for r in built.rollouts)


def test_spans_select_the_values_tokens(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    rollout = group(byte_level_tokenizer, complete, [answer(False), answer(True)]).rollouts[1]

    def write(span: range) -> str:
        return byte_level_tokenizer.decode(rollout.ids[span.start : span.stop].tolist())

    for found, truth in zip(rollout.attribute_tokens, (FIRST, SECOND), strict=True):
        assert {name: write(span) for name, span in found.items()} == truth
    assert write(rollout.verdict_tokens) == "yes"
    assert len(rollout.decision_tokens) == 17
    assert rollout.decision_tokens[-1] == rollout.verdict_tokens


def test_no_spans_if_unparseable_or_generic(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    broken = group(byte_level_tokenizer, complete, [answer(False)[:-12], "no"])
    for rollout in broken.rollouts:
        assert rollout.attribute_tokens == ({}, {})
        assert len(rollout.verdict_tokens) == 0
        assert rollout.reward == 0
    assert (broken.is_mixed, broken.contributes) == (False, False)
    assert broken.advantages.tolist() == [0, 0]
    generic = build_group(
        byte_level_tokenizer,
        [complete(answer(False)), complete(answer(True))],
        build_prompt(BIRDS, "generic"),
        (0, 1),
        False,
        "random",
    )
    assert generic.rewards.tolist() == [1, 0]
    assert generic.rollouts[0].attribute_tokens == ({}, {})


def test_only_asked_attributes_count(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    prompt = build_prompt(BIRDS, attributes=["tail shape"])
    texts = [answer(True), answer(False)]
    built = build_group(byte_level_tokenizer, [complete(t) for t in texts], prompt, (0, 1), True, "same")
    assert [set(found) for found in built.rollouts[0].attribute_tokens] == [{"tail shape"}, {"tail shape"}]


def test_decision_tokens_are_disjoint(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    rollout = group(byte_level_tokenizer, complete, [answer(False), answer(True)]).rollouts[0]
    shared = ({"tail shape": range(3, 6)}, {"tail shape": range(5, 9), "leg color": range(6, 8)})
    coarse = replace(rollout, attribute_tokens=shared, verdict_tokens=range(8, 10))
    assert coarse.decision_tokens == (range(3, 6), range(6, 9), range(9, 10))
    assert replace(coarse, attribute_tokens=({}, {}), verdict_tokens=range(0)).decision_tokens == ()


def test_verdict_probability_reads_the_answers_token(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    words = verdict_words(byte_level_tokenizer)
    assert byte_level_tokenizer.convert_ids_to_tokens([words.yes[0], words.no[0]]) == ["yes", "no"]
    completions = []
    for position, text in enumerate([answer(False), answer(True)]):
        bare = complete(text)
        at = bare.ids.tolist().index(words.yes[0] if "yes" in text else words.no[0])
        tracked = torch.full((len(bare.ids), len(words.tracked_ids)), -9.0)
        tracked[at, 0] = math.log(0.1 + 0.2 * position)
        tracked[at, len(words.yes)] = math.log(0.6 - 0.1 * position)
        completions.append(complete(text, tracked))
    reward = resolve_reward("verdict_probability")
    arguments = (byte_level_tokenizer, completions, PROMPT, (0, 1), False, "random", reward)
    built = build_group(*arguments, words=words)
    assert built.rewards.tolist() == pytest.approx([0.6, 0.5], abs=1e-3)
    assert built.contributes
    spread = VerdictWords(words.yes, words.no + words.yes[:1])
    with pytest.raises(ValueError, match="tracked"):
        build_group(*arguments, words=spread)
    with pytest.raises(ValueError, match="tracked_ids"):
        build_group(*arguments)


def test_spellings_are_summed_and_other_cuttings_are_nothing(
    byte_level_tokenizer: Any, complete: Callable[..., Any]
) -> None:
    no, yes = byte_level_tokenizer.convert_tokens_to_ids(["no", "yes"])
    other = byte_level_tokenizer.convert_tokens_to_ids("o")
    bare = complete(answer(False))
    tracked = torch.tensor([0.1, 0.3, 0.4]).log().expand(len(bare.ids), 3)
    words = VerdictWords(yes=(yes,), no=(no, other))
    reward = resolve_reward("verdict_probability")
    texts = [answer(False), answer(False).replace('"no"', '"NO"')]
    built = build_group(
        byte_level_tokenizer,
        [complete(t, tracked[:1].expand(len(complete(t).ids), 3)) for t in texts],
        PROMPT,
        (0, 1),
        False,
        "random",
        reward,
        words=words,
    )
    assert built.rewards.tolist() == pytest.approx([0.7, 0.0])


def test_pair_type_must_fit(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    completions = [complete(answer(True))] * 2
    wrong: list[tuple[bool, Any]] = [(True, "hard"), (False, "same"), (False, "odd")]
    for same, pair_type in wrong:
        with pytest.raises(ValueError, match="pair type"):
            build_group(byte_level_tokenizer, completions, PROMPT, (0, 1), same, pair_type)
    with pytest.raises(ValueError, match="at least two"):
        build_group(byte_level_tokenizer, completions[:1], PROMPT, (0, 1), True, "same")


def test_reward_exceptions_propagate(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    reward = resolve_reward(lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        group(byte_level_tokenizer, complete, [answer(True)] * 2, reward=reward)


def test_logprob_gap(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> None:
    built = group(byte_level_tokenizer, complete, [answer(False), "no" + END])
    gaps = [float(s - p) for r in built.rollouts for s, p in zip(r.sampling_logprobs, r.logprobs, strict=True)]
    assert logprob_gap(built) == pytest.approx(sum(gaps) / len(gaps))
    assert logprob_gap([built, built]) == pytest.approx(logprob_gap(built))
    with pytest.raises(ValueError, match="no sampled tokens"):
        logprob_gap([])
