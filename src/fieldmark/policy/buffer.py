"""Dynamic sampling (DAPO): collect groups until K contribute, with a limit; and the permuted-reward control.

Groups whose rewards are all equal carry no gradient. So further rounds of pairs are drawn, *within one
optimiser step* and by the same weights, until ``target`` contributing groups are there. Surplus is discarded:
keeping it for the next step would be off-policy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch

from fieldmark.policy.rollouts import PAIR_TYPES, RolloutGroup


@dataclass
class GroupCounts:
    """What became of the groups of one pair type."""

    drawn: int = 0
    """Groups seen."""
    contributing: int = 0
    """Of these, groups whose rewards differ."""
    kept: int = 0
    """Contributing groups that are in the buffer; the others were surplus."""
    all_right: int = 0
    """Groups in which every verdict is right."""
    all_wrong: int = 0
    """Groups in which no verdict is right, but at least one can be read."""
    unparseable: int = 0
    """Groups in which no verdict can be read."""
    rollouts: int = 0
    unparseable_rollouts: int = 0

    def add(self, group: RolloutGroup) -> None:
        """Count one group (all but ``kept``)."""
        self.drawn += 1
        self.contributing += group.contributes
        self.rollouts += len(group.rollouts)
        self.unparseable_rollouts += group.num_unparseable
        if group.num_unparseable == len(group.rollouts):
            self.unparseable += 1
        elif all(group.correct):
            self.all_right += 1
        elif not any(group.correct):
            self.all_wrong += 1


@dataclass(frozen=True)
class BufferResult:
    """The groups of one optimiser step."""

    groups: tuple[RolloutGroup, ...]
    counts: dict[str, GroupCounts]
    """By pair type."""
    rounds: int
    complete: bool
    warning: str | None
    """What is missing, why, and what to do; None if complete."""

    @property
    def num_tokens(self) -> int:
        """|T| of the policy loss: all sampled tokens of all groups."""
        return sum(group.num_tokens for group in self.groups)


@dataclass
class ContributingBuffer:
    """Collects contributing groups, round by round::

        buffer = ContributingBuffer(target=8, quota=None, max_rounds=10)
        while buffer.wants_more:
            buffer.add_round(draw(buffer.missing))
        result = buffer.result()

    Args:
        target: K, contributing groups per optimiser step.
        quota: pair type → how many of the K are of that type (sums to K); None takes them as they come.
        max_rounds: rounds after which the step goes on with what there is.

    Raises:
        ValueError: for numbers below 1, unknown pair types, or a quota that does not sum to the target.
    """

    target: int
    quota: Mapping[str, int] | None = None
    max_rounds: int = 10
    rounds: int = field(default=0, init=False)
    groups: list[RolloutGroup] = field(default_factory=list, init=False)
    counts: dict[str, GroupCounts] = field(init=False)

    def __post_init__(self) -> None:
        if self.target < 1 or self.max_rounds < 1:
            raise ValueError(f"target and max_rounds must be at least 1, got {self.target} and {self.max_rounds}")
        if self.quota is not None:
            unknown = [name for name in self.quota if name not in PAIR_TYPES]
            if unknown:
                raise ValueError(f"unknown pair type {unknown[0]!r} in the quota; types: {', '.join(PAIR_TYPES)}")
            if min(self.quota.values(), default=0) < 0 or sum(self.quota.values()) != self.target:
                raise ValueError(f"the quota {dict(self.quota)} must be non-negative and sum to target={self.target}")
        self.counts = {name: GroupCounts() for name in PAIR_TYPES}

    @property
    def missing(self) -> dict[str, int]:
        """How many groups of each type are still wanted; without quota the same number for each type."""
        if self.quota is None:
            return dict.fromkeys(PAIR_TYPES, self.target - len(self.groups))
        return {name: self.quota.get(name, 0) - self.counts[name].kept for name in PAIR_TYPES}

    @property
    def is_full(self) -> bool:
        """Whether the target is reached."""
        return len(self.groups) == self.target

    @property
    def wants_more(self) -> bool:
        """Whether another round shall be drawn."""
        return not self.is_full and self.rounds < self.max_rounds

    def add_round(self, groups: Iterable[RolloutGroup]) -> None:
        """Take the groups of one round, in order; those that do not contribute or are not wanted are only
        counted.

        Raises:
            ValueError: if no more rounds are wanted.
        """
        if not self.wants_more:
            raise ValueError(f"the buffer is closed after {self.rounds} rounds with {len(self.groups)} groups")
        self.rounds += 1
        for group in groups:
            counts = self.counts[group.pair_type]
            counts.add(group)
            if group.contributes and self.missing[group.pair_type] > 0:
                counts.kept += 1
                self.groups.append(group)

    def result(self) -> BufferResult:
        """What was collected, with a warning if it is less than the target."""
        warning = None if self.is_full else self._warning()
        counts = {name: replace(count) for name, count in self.counts.items()}
        return BufferResult(tuple(self.groups), counts, self.rounds, self.is_full, warning)

    def _warning(self) -> str:
        counts = self.counts.values()
        drawn, rollouts = sum(c.drawn for c in counts), sum(c.rollouts for c in counts)
        right, wrong = sum(c.all_right for c in counts), sum(c.all_wrong for c in counts)
        broken = sum(c.unparseable_rollouts for c in counts)
        missing = {} if self.quota is None else {name: n for name, n in self.missing.items() if n}
        wanted = f" (missing by type: {missing})" if missing else ""
        if broken * 2 > rollouts:
            remedy = "most answers cannot be read: check prompt and vocabulary, or allow more new tokens"
        elif right * 2 > drawn:
            remedy = "most groups are right throughout: draw harder pairs or raise the temperature"
        elif wrong * 2 > drawn:
            remedy = "most groups are wrong throughout: run the supervisor check, it may not know this task"
        else:
            remedy = "draw more pairs per round, sample more rollouts per pair, or allow more rounds"
        return (
            f"only {len(self.groups)} of {self.target} contributing groups after {self.rounds} rounds{wanted}"
            f"; of {drawn} groups {right} were right and {wrong} wrong throughout, "
            f"{broken} of {rollouts} answers could not be read; {remedy}"
        )


def permute_rewards(group: RolloutGroup, generator: torch.Generator) -> RolloutGroup:
    """The control: the same rollouts and the same rewards, handed out at random within the group.

    Advantages go with the rewards, which is the same as computing them anew: they depend on a rollout's own
    reward and on the set of the rewards. Verdicts stay as they are, so ``correct`` still tells the truth.
    """
    order = torch.randperm(len(group.rollouts), generator=generator)
    rewards, advantages = group.rewards[order], group.advantages[order]
    rollouts = tuple(replace(rollout, reward=float(r)) for rollout, r in zip(group.rollouts, rewards, strict=True))
    return replace(group, rollouts=rollouts, rewards=rewards, advantages=advantages)
