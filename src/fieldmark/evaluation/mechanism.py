"""Where the reward's gradient falls (SAGA, arXiv 2606.15134, section 3.2), measured on groups of rollouts.

The policy loss at a sampled value v of one attribute, in rollout g, has at the logits the gradient
A_g (onehot(v_g) − p), up to the sign and 1/|T|. The advantages of a group sum to zero, so over rollouts that share
p the second term cancels, and what is left is the *pull*

    pull = Σ_v | (1/G) Σ_g A_g · 1[v_g = v] |

It is 0 where all rollouts write the same value, and near 0 where the values that they write do not go with the verdict.
The publication argues that it is therefore large on attributes in which the two pictures differ, small on those that
they share, and decays as rollouts come to agree. With a finite G there is a pull by chance: permuted rewards give it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fieldmark.policy.buffer import permute_rewards
from fieldmark.policy.rollouts import Rollout, RolloutGroup

AGREEMENT_EDGES = (0.0, 0.5, 0.75, 0.99, 1.0)
"""Bins of the share of rollouts that write a value's most frequent version; the last holds full agreement alone."""


@dataclass(frozen=True)
class ValuePull:
    """The pull on one described value: of one attribute of one of the two pictures of one group."""

    group: int
    item: int
    attribute: str
    discriminating: bool
    """Whether the two pictures truly differ in it."""
    agreement: float
    """Share of rollouts that write the most frequent version; 1: all agree."""
    pull: float


@dataclass(frozen=True)
class AgreementBin:
    """Values whose rollouts agree by a share in [low, high)."""

    low: float
    high: float
    discriminating_count: int
    discriminating_pull: float | None
    shared_count: int
    shared_pull: float | None


@dataclass(frozen=True)
class Mechanism:
    """What the pulls of many groups say together."""

    groups: int
    values: int
    discriminating_pull: float | None
    """Mean pull on values in which the pictures differ, over groups whose rewards differ …"""
    shared_pull: float | None
    """… and on values that they share."""
    discriminating_share: float | None
    """Share of all pull that falls on discriminating values …"""
    discriminating_count_share: float | None
    """… and their share of all values: what indifference would give."""
    by_agreement: tuple[AgreementBin, ...]

    @property
    def preference(self) -> float | None:
        """Mean pull on discriminating over shared values; 1: no preference."""
        if not self.discriminating_pull or not self.shared_pull:
            return None
        return self.discriminating_pull / self.shared_pull


def described_value(rollout: Rollout, item: int, name: str) -> str:
    """What a rollout wrote about an attribute of item 0 or 1, in lower case; "" if nothing."""
    span = rollout.verdict.descriptions[item].get(name)
    return "" if span is None else span.text.strip().lower()


def value_pull(values: Sequence[str], advantages: Sequence[float]) -> float:
    """Σ_v |(1/G) Σ_g A_g 1[v_g = v]| of one described value over a group's G rollouts."""
    pulls: Counter[str] = Counter()
    for value, advantage in zip(values, advantages, strict=True):
        pulls[value] += advantage / len(values)  # type: ignore[assignment]  # Counter adds any number
    return float(sum(map(abs, pulls.values())))


def value_pulls(
    groups: Sequence[RolloutGroup], truth: Sequence[Mapping[str, str]], decisive: Sequence[str] | None = None
) -> list[ValuePull]:
    """The pull on every described value of the groups whose rewards differ.

    Args:
        groups: pairs count positions in ``truth``.
        truth: true attributes of each picture; attributes that it does not know are passed over.
        decisive: attributes to look at; None: all asked for.
    """
    found = []
    for number, group in enumerate(groups):
        if not group.contributes:
            continue
        first, second = (truth[i] for i in group.pair)
        for item in (0, 1):
            for name in group.prompt.attributes:
                if name not in first or name not in second or (decisive is not None and name not in decisive):
                    continue
                values = [described_value(r, item, name) for r in group.rollouts]
                agreement = Counter(values).most_common(1)[0][1] / len(values)
                pull = value_pull(values, group.advantages.tolist())
                found.append(ValuePull(number, item, name, first[name] != second[name], agreement, pull))
    return found


def summarise_pulls(pulls: Sequence[ValuePull]) -> Mechanism:
    """Shares and means over all values, and by how far the rollouts agree."""
    differ = [p.pull for p in pulls if p.discriminating]
    shared = [p.pull for p in pulls if not p.discriminating]
    total = sum(differ) + sum(shared)
    bins = []
    for low, high in pairwise(AGREEMENT_EDGES):
        last = high == AGREEMENT_EDGES[-1]
        here = [p for p in pulls if low <= p.agreement and (p.agreement <= high if last else p.agreement < high)]
        ones, others = ([p.pull for p in here if p.discriminating is which] for which in (True, False))
        bins.append(AgreementBin(low, high, len(ones), _mean(ones), len(others), _mean(others)))
    return Mechanism(
        groups=len({p.group for p in pulls}),
        values=len(pulls),
        discriminating_pull=_mean(differ),
        shared_pull=_mean(shared),
        discriminating_share=sum(differ) / total if total > 0 else None,
        discriminating_count_share=len(differ) / len(pulls) if pulls else None,
        by_agreement=tuple(bins),
    )


def chance_pulls(
    groups: Sequence[RolloutGroup],
    truth: Sequence[Mapping[str, str]],
    generator: torch.Generator,
    decisive: Sequence[str] | None = None,
    repeats: int = 8,
) -> list[ValuePull]:
    """The same with rewards permuted within each group, so often: the pull that chance alone gives."""
    found = []
    for _ in range(repeats):
        found += value_pulls([permute_rewards(g, generator) for g in groups], truth, decisive)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def mechanism_json(mechanism: Mechanism) -> dict[str, Any]:
    """Plain values, the preference among them."""
    return {**asdict(mechanism), "preference": mechanism.preference}
