"""What the third stage saw of itself: figures of its log, at its beginning and its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from fieldmark.training.log import read_log

SIGNALS: Mapping[str, str] = {
    "reward": "reward",
    "reward_std": "its spread within groups",
    "signal": "groups with signal",
    "reward_by_tokens": "reward by length",
    "reward_by_grains": "reward by grains named",
    "entropy": "entropy of a token, nats",
    "distinct": "different summaries",
    "kl": "KL",
    "tokens": "tokens",
    "forced": "forced",
}
"""Figures of a step, and how a table calls them."""


@dataclass(frozen=True)
class Signal:
    """Means of one figure over the first and over the last fifth of the steps."""

    first: float
    last: float


def read_signals(log: Path) -> dict[str, Signal]:
    """Of a run's log; figures that it does not have are left out, and all of them if there is no log."""
    lines = read_log(log) if log.is_file() else []
    found = {}
    for name in SIGNALS:
        values = _values(lines, name)
        if values:
            part = max(1, len(values) // 5)
            found[name] = Signal(mean(values[:part]), mean(values[-part:]))
    return found


def _values(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(line[name]) for line in lines if isinstance(line.get(name), int | float)]
