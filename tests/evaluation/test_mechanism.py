from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fieldmark.evaluation.mechanism import chance_pulls, summarise_pulls, value_pull, value_pulls
from fieldmark.policy.grpo import group_advantages
from fieldmark.policy.rollouts import Rollout, RolloutGroup

TRUTH = ({"bill": "red", "tail": "long"}, {"bill": "blue", "tail": "long"})


def rollout(first, second):
    descriptions = tuple({name: SimpleNamespace(text=text) for name, text in one.items()} for one in (first, second))
    verdict = SimpleNamespace(descriptions=descriptions, answer=None)
    one = torch.zeros(1)
    return Rollout(one.long(), one, one, "", np.zeros((1, 2), int), "stop", 0.0, verdict, ({}, {}), range(0))


def group(written, rewards):
    """``written``: per rollout what it says of (bill of item 1, tail of item 1); item 2 is always right."""
    rewards = torch.tensor(rewards)
    rollouts = tuple(rollout({"bill": bill, "tail": tail}, TRUTH[1]) for bill, tail in written)
    prompt = SimpleNamespace(attributes=("bill", "tail"))
    return RolloutGroup((0, 1), False, "random", prompt, rollouts, rewards, group_advantages(rewards))


def test_pull_by_hand():
    assert value_pull(["a", "a", "b", "b"], [1.0, 1.0, -1.0, -1.0]) == 1.0
    assert value_pull(["a", "b", "a", "b"], [1.0, 1.0, -1.0, -1.0]) == 0.0
    assert value_pull(["a"] * 4, [1.0, 1.0, -1.0, -1.0]) == 0.0


def test_pull_falls_on_what_goes_with_the_verdict_and_not_on_what_varies_freely():
    one = group([("Red", "long"), ("red ", "short"), ("blue", "long"), ("blue", "short")], [1.0, 1.0, 0.0, 0.0])
    pulls = {(p.item, p.attribute): p for p in value_pulls([one], TRUTH)}
    scale = float(one.advantages[0])
    assert pulls[0, "bill"].pull == pytest.approx(scale) and pulls[0, "bill"].discriminating
    assert pulls[0, "tail"].pull == pytest.approx(0, abs=1e-6) and not pulls[0, "tail"].discriminating
    assert pulls[1, "bill"].pull == pytest.approx(0, abs=1e-6) and pulls[1, "bill"].agreement == 1
    found = summarise_pulls(list(pulls.values()))
    assert found.discriminating_share == pytest.approx(1) and found.discriminating_count_share == 0.5
    assert (found.groups, found.values) == (1, 4)
    assert {p.attribute for p in value_pulls([one], TRUTH, ("tail",))} == {"tail"}


def test_pull_decays_as_rollouts_agree():
    split = group([("red", "x"), ("red", "x"), ("blue", "x"), ("blue", "x")], [1.0, 1.0, 0.0, 0.0])
    nearly = group([("red", "x"), ("red", "x"), ("red", "x"), ("blue", "x")], [1.0, 1.0, 0.0, 0.0])
    alike = group([("red", "x")] * 4, [1.0, 1.0, 0.0, 0.0])
    bins = summarise_pulls(value_pulls([split, nearly, alike], TRUTH, ("bill",))).by_agreement
    # agreement 0.5, 0.75 and 1; item 2, on which all agree, is in the last too
    assert [b.discriminating_count for b in bins] == [0, 1, 1, 4]
    assert bins[0].discriminating_pull is None
    assert bins[1].discriminating_pull > bins[2].discriminating_pull > bins[3].discriminating_pull
    assert bins[3].discriminating_pull == pytest.approx(0, abs=1e-6)


def test_groups_that_agree_on_the_verdict_have_no_pull_and_chance_has_less_than_a_perfect_one():
    assert value_pulls([group([("red", "x"), ("blue", "x")], [1.0, 1.0])], TRUTH) == []
    empty = summarise_pulls([])
    assert empty.values == 0 and empty.discriminating_share is None and empty.preference is None
    perfect = group([("red", "x")] * 4 + [("blue", "x")] * 4, [1.0] * 4 + [0.0] * 4)
    generator = torch.Generator().manual_seed(0)
    chance = summarise_pulls(chance_pulls([perfect], TRUTH, generator, ("bill",), repeats=20))
    assert (
        0 < chance.discriminating_pull < summarise_pulls(value_pulls([perfect], TRUTH, ("bill",))).discriminating_pull
    )
