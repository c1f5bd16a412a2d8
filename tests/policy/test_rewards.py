"""Rewards: the two bundled ones, and the seam for users."""

import math

import numpy as np
import pytest

from fieldmark.policy.rewards import (
    AnswerLogprobs,
    Reward,
    resolve_reward,
    verdict_correct,
    verdict_probability,
)
from fieldmark.policy.verdicts import Verdict

YES, NO, NONE = (Verdict(answer, None, ({}, {}), None) for answer in (True, False, None))


def test_verdict_correct() -> None:
    assert [verdict_correct(v, s) for v in (YES, NO, NONE) for s in (True, False)] == [1, 0, 0, 1, 0, 0]


def test_verdict_probability() -> None:
    words = AnswerLogprobs(yes=math.log(0.7), no=math.log(0.2))
    assert verdict_probability(YES, True, words) == pytest.approx(0.7)
    assert verdict_probability(YES, False, words) == pytest.approx(0.2)
    assert verdict_probability(NO, True, words) == pytest.approx(0.7)
    assert verdict_probability(NONE, True, None) == 0
    assert verdict_probability(YES, True, AnswerLogprobs(-math.inf, -math.inf)) == 0
    with pytest.raises(ValueError, match="tracked_ids"):
        verdict_probability(YES, True, None)


def named(same, num_tokens, weight=0.5):  # type: ignore[no-untyped-def]
    return same * weight + num_tokens


def everything(**arguments):  # type: ignore[no-untyped-def]
    return len(arguments)


def failing(verdict):  # type: ignore[no-untyped-def]
    raise KeyError("mine")


def test_called_with_only_the_arguments_that_it_names() -> None:
    given = {"verdict": YES, "same": True, "num_tokens": 3, "text": "x"}
    assert Reward(named)(**given) == 3.5
    assert Reward(named).arguments == ("same", "num_tokens")
    assert Reward(everything, list(given))(**given) == 4
    assert Reward(lambda *, text: len(text))(**given) == 1


def test_options() -> None:
    assert resolve_reward(named, options={"weight": 2.0})(same=True, num_tokens=3) == 5
    assert Reward(everything, ["same"], {"margin": 1})(same=True) == 2
    assert Reward(lambda same, margin: margin, options={"margin": 4})(same=True) == 4
    with pytest.raises(ValueError, match="no option 'wieght'; its parameters: weight"):
        resolve_reward(named, options={"wieght": 2.0})
    with pytest.raises(ValueError, match="no option 'same'"):
        resolve_reward(named, options={"same": True})


def test_resolve() -> None:
    assert resolve_reward("verdict_correct").function is verdict_correct
    assert resolve_reward("fieldmark.policy.rewards:verdict_probability").function is verdict_probability
    assert resolve_reward(named).name.endswith(":named")
    assert resolve_reward(lambda margin: margin, available=["margin"])(margin=2) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("verdict_corect", "use one of verdict_correct"),
        ("no.such.module:fn", "there is no module 'no'; put its file where the command runs"),
        ("fieldmark.policy.rewards:nothing", "has no function 'nothing'"),
        ("fieldmark.policy.rewards:REWARDS", "has no function 'REWARDS'"),
        (lambda answer: 1.0, "asks for 'answer', which does not exist; available: verdict, same"),
        (lambda *args: 1.0, "cannot be filled by name"),
        (lambda: 1.0, "takes no arguments"),
        (3, "not callable"),
    ],
)
def test_refused_at_construction(wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_reward(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1", 1j, [1.0]])
def test_only_finite_numbers(value: object) -> None:
    def mine(verdict: Verdict) -> object:
        return value

    with pytest.raises(ValueError, match=r"mine returned .*one finite number"):
        Reward(mine)(verdict=YES)


def test_numbers_of_all_kinds_and_exceptions() -> None:
    for value in (True, 1, np.float32(0.5), np.int64(2)):
        result = Reward(lambda verdict, value=value: value)(verdict=YES)
        assert type(result) is float
        assert result == value
    with pytest.raises(KeyError, match="mine"):
        Reward(failing)(verdict=YES)
