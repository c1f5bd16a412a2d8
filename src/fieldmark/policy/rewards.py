"""Rewards: plain functions, called with only the arguments that they name.

A reward sees one rollout and returns a number. To add one, write a function whose parameters are among those
of ``PAIR_ARGUMENTS`` and name it ``package.module:function`` in the configuration::

    def short_and_right(verdict, same, num_tokens):
        return float(verdict.answer is same) - 0.001 * num_tokens

Exceptions of a reward propagate: a reward that fails is a bug, not a zero.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.losses.import_path import import_function
from fieldmark.policy.verdicts import Verdict

PAIR_ARGUMENTS: Mapping[str, str] = {
    "verdict": "Verdict, parsed from the text",
    "same": "bool, whether the pair is of one class",
    "pair_type": 'str, "same", "random" or "hard"',
    "text": "str, the sampled text",
    "num_tokens": "int, number of sampled tokens",
    "finish_reason": 'str, "stop" or "length"',
    "answer_logprobs": "AnswerLogprobs of the verdict word, or None if unparseable",
    "vocabulary": "Vocabulary of the prompt",
    "attributes": "tuple of str, the attributes that were asked for",
}
"""What a reward on pairs may ask for."""


@dataclass(frozen=True)
class AnswerLogprobs:
    """Log-probabilities (temperature 1) of both verdict words at the token that wrote the verdict."""

    yes: float
    no: float


def verdict_correct(verdict: Verdict, same: bool) -> float:
    """1 if the verdict is right, else 0; unparseable is 0 (SAGA, Algorithm 1, block B)."""
    return float(verdict.answer is not None and verdict.answer == same)


def verdict_probability(verdict: Verdict, same: bool, answer_logprobs: AnswerLogprobs | None) -> float:
    """Probability of the right verdict word where the verdict was written; unparseable is 0.

    It differs between rollouts that all decide alike, so more groups contribute. The right word counts even
    if the sampled one was the wrong one: the reward is what the description makes probable.

    Raises:
        ValueError: if the verdict words were not tracked while sampling.
    """
    if verdict.answer is None:
        return 0.0
    if answer_logprobs is None:
        raise ValueError("verdict_probability needs the verdict words' log-probabilities: sample with tracked_ids")
    return math.exp(answer_logprobs.yes if same else answer_logprobs.no)


REWARDS: Mapping[str, Callable[..., float]] = {
    "verdict_correct": verdict_correct,
    "verdict_probability": verdict_probability,
}
"""Rewards that have a short name."""


class Reward:
    """A checked reward function: called with every available argument, it passes on those that are named."""

    arguments: tuple[str, ...]
    """Names of the available arguments that the function gets."""

    def __init__(
        self,
        function: Callable[..., Any],
        available: Sequence[str] | Mapping[str, str] = PAIR_ARGUMENTS,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the signature.

        Args:
            function: the reward.
            available: names that a call will provide.
            options: fixed values of further parameters of the function, from the configuration.

        Raises:
            ValueError: if it is no function, has parameters that nobody can fill, or has no such option.
        """
        self.name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
        if not callable(function):
            raise ValueError(f"reward {function!r} is not callable; give a function")
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward {self.name} has no readable signature; wrap it in a Python function") from error
        self.function = function
        self.options = dict(options or {})
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        for p in parameters:
            if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL):
                raise ValueError(f"reward {self.name}: {str(p)!r} cannot be filled by name; use plain parameters")
            fillable = p.name in available or p.name in self.options or p.default is not p.empty
            if p in named and not fillable:
                raise ValueError(
                    f"reward {self.name} asks for {p.name!r}, which does not exist; available: {', '.join(available)}"
                )
        for option in self.options:
            if option in available or not (takes_all or option in [p.name for p in named]):
                raise ValueError(
                    f"reward {self.name} has no option {option!r}; its parameters: "
                    f"{', '.join(p.name for p in named if p.name not in available) or 'none'}"
                )
        if not named and not takes_all:
            raise ValueError(f"reward {self.name} takes no arguments; it may ask for {', '.join(available)}")
        asked = [p.name for p in named if p.name in available]
        self.arguments = tuple(available) if takes_all else tuple(asked)

    def __call__(self, **arguments: Any) -> float:
        """The reward of one rollout.

        Raises:
            ValueError: if the function returns no finite number.
        """
        given = {name: arguments[name] for name in self.arguments}
        value = self.function(**given, **self.options)
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"reward {self.name} returned {value!r}; a reward is one finite number")
        return float(value)


def resolve_reward(
    name_or_path: str | Callable[..., Any],
    available: Sequence[str] | Mapping[str, str] = PAIR_ARGUMENTS,
    options: Mapping[str, Any] | None = None,
    *,
    named: Mapping[str, Callable[..., Any]] = REWARDS,
) -> Reward:
    """A reward by its short name, by import path ``"package.module:function"``, or a function itself.

    ``available`` and ``options`` are those of ``Reward``; ``named`` are the rewards that have a short name.

    Raises:
        ValueError: if there is no such function, or its parameters cannot be filled.
    """
    if not isinstance(name_or_path, str):
        return Reward(name_or_path, available, options)
    if name_or_path in named:
        return Reward(named[name_or_path], available, options)
    if ":" not in name_or_path:
        known = f"one of {', '.join(named)}, or " if named else ""
        raise ValueError(f"unknown reward {name_or_path!r}: use {known}'package.module:function'")
    function = import_function(name_or_path, "reward")
    return Reward(function, available, options)
