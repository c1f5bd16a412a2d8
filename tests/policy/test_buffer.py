"""Dynamic sampling: stops when full, stops when hopeless, counts what it saw; and the permuted control."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from fieldmark.policy.buffer import ContributingBuffer, permute_rewards
from fieldmark.policy.grpo import group_advantages
from fieldmark.policy.rollouts import RolloutGroup, build_group, build_prompt
from fieldmark.policy.vocabulary import load_vocabulary

BIRDS = load_vocabulary("fieldguide")
TEXTS = {"r": '{"same_species": "%s"}', "w": '{"same_species": "%s"}', "u": "?"}


@pytest.fixture(scope="module")
def make(byte_level_tokenizer: Any, complete: Callable[..., Any]) -> Callable[..., RolloutGroup]:
    """A group from one letter per rollout: right, wrong, unparseable."""

    def build(letters: str, pair_type: Any = "same", pair: tuple[int, int] = (0, 1), **options: Any) -> RolloutGroup:
        same = pair_type == "same"
        words = {"r": "yes" if same else "no", "w": "no" if same else "yes"}
        texts = [TEXTS[c] % words[c] if c in words else TEXTS[c] for c in letters]
        completions = [complete(text) for text in texts]
        prompt = build_prompt(BIRDS)
        return build_group(byte_level_tokenizer, completions, prompt, pair, same, pair_type, **options)

    return build


def pairs(groups: Sequence[RolloutGroup]) -> list[tuple[int, int]]:
    return [group.pair for group in groups]


def test_collects_over_rounds_and_discards_surplus(make: Callable[..., RolloutGroup]) -> None:
    buffer = ContributingBuffer(target=3, max_rounds=5)
    buffer.add_round([make("rrrr"), make("rrww", "random", (1, 2)), make("wwwu")])
    assert (buffer.wants_more, buffer.missing) == (True, {"same": 2, "random": 2, "hard": 2})
    buffer.add_round([make("uuuu"), make("rwww", pair=(3, 4)), make("rrrw", "hard", (5, 6)), make("rwrw", pair=(7, 8))])
    assert not buffer.wants_more
    with pytest.raises(ValueError, match="closed after 2 rounds"):
        buffer.add_round([])
    result = buffer.result()
    assert pairs(result.groups) == [(1, 2), (3, 4), (5, 6)]
    assert (result.complete, result.warning, result.rounds) == (True, None, 2)
    assert result.num_tokens == sum(group.num_tokens for group in result.groups)
    same = result.counts["same"]
    assert (same.drawn, same.contributing, same.kept) == (5, 2, 1)
    assert (same.all_right, same.all_wrong, same.unparseable) == (1, 1, 1)
    assert (same.rollouts, same.unparseable_rollouts) == (20, 5)
    assert result.counts["hard"].kept == result.counts["random"].kept == 1


def test_quota(make: Callable[..., RolloutGroup]) -> None:
    buffer = ContributingBuffer(target=3, quota={"same": 1, "hard": 2}, max_rounds=2)
    types = ["same", "same", "random", "hard"]
    buffer.add_round([make("rw", kind, (i, i)) for i, kind in enumerate(types)])
    assert pairs(buffer.groups) == [(0, 0), (3, 3)]
    assert buffer.missing == {"same": 0, "random": 0, "hard": 1}
    buffer.add_round([make("rw", "same")])
    result = buffer.result()
    assert not result.complete
    assert result.warning is not None
    assert "only 2 of 3" in result.warning
    assert "{'hard': 1}" in result.warning


@pytest.mark.parametrize(
    ("letters", "remedy"),
    [("rrrr", "draw harder pairs"), ("wwww", "supervisor check"), ("uuuu", "check prompt and vocabulary")],
)
def test_ends_with_a_warning_that_says_the_remedy(make: Callable[..., RolloutGroup], letters: str, remedy: str) -> None:
    buffer = ContributingBuffer(target=2, max_rounds=3)
    rounds = 0
    while buffer.wants_more:
        buffer.add_round([make(letters), make(letters, "random")])
        rounds += 1
    assert rounds == 3
    result = buffer.result()
    assert (result.groups, result.complete, result.num_tokens) == ((), False, 0)
    assert result.warning is not None
    assert "only 0 of 2 contributing groups after 3 rounds" in result.warning
    assert remedy in result.warning


def test_result_does_not_change_later(make: Callable[..., RolloutGroup]) -> None:
    buffer = ContributingBuffer(target=2)
    buffer.add_round([make("rw")])
    early = buffer.result()
    buffer.add_round([make("rw")])
    assert len(early.groups) == early.counts["same"].drawn == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "at least 1"),
        ({"target": 2, "max_rounds": 0}, "at least 1"),
        ({"target": 2, "quota": {"same": 1}}, "sum to target=2"),
        ({"target": 2, "quota": {"same": 3, "hard": -1}}, "non-negative"),
        ({"target": 2, "quota": {"easy": 2}}, "unknown pair type 'easy'"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContributingBuffer(**options)


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
def test_permuted_rewards(make: Callable[..., RolloutGroup], baseline: Any) -> None:
    group = make("rrrwwwwu", "hard", baseline=baseline)
    orders = set()
    for seed in range(20):
        permuted = permute_rewards(group, torch.Generator().manual_seed(seed))
        again = permute_rewards(group, torch.Generator().manual_seed(seed))
        assert permuted.rewards.tolist() == again.rewards.tolist() == [r.reward for r in permuted.rollouts]
        assert sorted(permuted.rewards.tolist()) == sorted(group.rewards.tolist())
        anew = group_advantages(permuted.rewards, baseline=baseline)
        assert torch.allclose(permuted.advantages, anew, atol=1e-6)
        assert [a.ids.tolist() for a in permuted.rollouts] == [a.ids.tolist() for a in group.rollouts]
        assert permuted.correct == group.correct
        assert permuted.contributes
        orders.add(tuple(permuted.rewards.tolist()))
    assert len(orders) > 10
    assert group.rewards.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
