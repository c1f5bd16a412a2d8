"""What a reward pays for: correlations within groups against plain Python, and groups that have none."""

import statistics

import pytest
import torch

from fieldmark.data.retrieval import Item, Query
from fieldmark.models.backbone import PromptTokens
from fieldmark.models.sampling import Completion
from fieldmark.models.universal_embedder import Summary
from fieldmark.policy.query_groups import QueryGroup
from fieldmark.policy.ranking_rewards import RankingRewards
from fieldmark.policy.reward_preferences import reward_preferences


def group(rewards: list[float], texts: list[str], grains: tuple[str, ...] = (), tokens: list[int] | None = None):
    """As many tokens as words, unless said otherwise."""
    summaries = []
    for number, text in enumerate(texts):
        length = len(text.split()) if tokens is None else tokens[number]
        empty = torch.zeros(length)
        done = Completion(torch.arange(length), empty, empty, torch.zeros(length, 0), "stop")
        summaries.append(Summary(done, text, torch.ones(1), False))
    values = torch.tensor(rewards)
    ranking = RankingRewards(values, values, values, torch.ones(len(rewards), dtype=torch.int64))
    query = Query(Item("q", "asked"), grains=grains)
    return QueryGroup(query, PromptTokens((1,), 0), (), tuple(summaries), ranking, values, values)


def test_correlations_are_those_within_each_group():
    """Between the groups length and reward run the other way: that must not count."""
    grains = ("red bill", "blue legs")
    one = group([0.1, 0.4, 0.2], ["a red bill", "red bill, blue legs", "a wing"], grains)
    two = group([9.1, 9.0, 9.5], ["Blue Legs", "nothing", "red bill here, blue legs"], grains)
    found = reward_preferences([one, two])
    lengths = [
        statistics.correlation([0.1, 0.4, 0.2], [3, 4, 2]),
        statistics.correlation([9.1, 9.0, 9.5], [2, 1, 5]),
    ]
    named = [
        statistics.correlation([0.1, 0.4, 0.2], [0.5, 1, 0]),
        statistics.correlation([9.1, 9.0, 9.5], [0.5, 0, 1]),
    ]
    assert found["reward_by_tokens"] == pytest.approx(statistics.mean(lengths), abs=1e-6)
    assert found["reward_by_grains"] == pytest.approx(statistics.mean(named), abs=1e-6)


def test_groups_without_a_difference_do_not_count():
    flat = group([0.3, 0.3], ["a", "a b"])
    alike = group([0.1, 0.2], ["a b", "b a"])
    brief = group([0.9, 0.1, 0.5], ["a", "a b c", "a b"])
    assert reward_preferences([flat, alike]) == {}
    assert reward_preferences([flat, brief, alike]) == {"reward_by_tokens": pytest.approx(-1)}
