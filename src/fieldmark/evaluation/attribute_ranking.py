"""Which attributes separate same-class from different-class pairs, which are the same under two names, and how well a
proposal fits the truth.

Values are free text. Two values *agree* by the share of their words that they have in common (Jaccard; 1 for equal
texts, 0 for no common word), case and punctuation aside.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Values = Sequence[Mapping[str, str]]
"""One mapping per picture: attribute → what was seen; attributes without a value are not in it."""


@dataclass(frozen=True)
class AttributeScore:
    """How one attribute separates pairs."""

    name: str
    same: float
    """Mean agreement over all same-class pairs of pictures."""
    different: float
    """Mean agreement over all different-class pairs."""
    separation: float
    """same − different, from −1 to 1: by how much more often two pictures of one class agree. 0 for an attribute that
    varies within classes as it does between them, and for one that never varies."""
    low: float
    """Lower end of the bootstrap interval of ``separation`` …"""
    high: float
    """… and its upper end. Whole classes are resampled."""
    pictures: int
    """Pictures that have a value."""
    examples: tuple[tuple[str, int], ...]
    """Most frequent values and how many pictures have them."""


@dataclass(frozen=True)
class RankingQuality:
    """A ranking of attributes, and the choice made from it, beside the truth and a ranking by lot.

    Shares. ``random_*`` are exact expectations over all orders of the same names, for a choice of the same number.
    """

    precision: float
    """Share of the chosen attributes that are relevant."""
    recall: float
    """Share of the relevant attributes that are chosen."""
    average_precision: float
    """Mean, over the relevant attributes, of the precision at their rank; a relevant one not ranked counts 0."""
    auc: float | None
    """Probability that a relevant attribute stands before another one; None if one of the kinds is not ranked."""
    random_precision: float
    random_recall: float
    random_average_precision: float
    random_auc: float


def agreement(first: str, second: str) -> float:
    """Words in common over all words of two values, 0 to 1."""
    a, b = _words(first), _words(second)
    return len(a & b) / len(a | b) if a | b else 0.0


def rank_attributes(
    values: Values,
    labels: Sequence[int] | np.ndarray,
    names: Sequence[str],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1000,
) -> list[AttributeScore]:
    """Scores of all attributes that can be scored, best separation first (then by name).

    Every pair of pictures that both have a value counts. The interval resamples *classes* with all their pictures: the
    statement is about classes that were not looked at. A pair of two copies of one class is no pair of different
    classes.

    Args:
        values: one mapping per picture.
        labels: (n,), class of each picture.
        names: attributes to score; those without a same-class and a different-class pair are left out.

    Raises:
        ValueError: lengths that differ, or no class with two pictures, or one class only.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(values),):
        raise ValueError(f"{len(values)} pictures have values, but labels have shape {labels.shape}")
    classes, member = np.unique(labels, return_inverse=True)
    if len(classes) < 2 or len(classes) == len(labels):
        raise ValueError(
            f"{len(labels)} pictures of {len(classes)} classes make no same-class or no different-class pair: "
            "take at least two classes and two pictures of a class"
        )
    draws = np.random.default_rng(seed).multinomial(
        len(classes), np.full(len(classes), 1 / len(classes)), size=resamples
    )
    scores = []
    for name in names:
        having = [i for i, v in enumerate(values) if name in v]
        if not having:
            continue
        agreed, pairs = _by_class(_agreements([values[i][name] for i in having]), member[having], len(classes))
        if not np.trace(pairs) or np.trace(pairs) == pairs.sum():
            continue
        one = np.ones((1, len(classes)))
        same, different = (float(rate[0]) for rate in _rates(agreed, pairs, one))
        drawn_same, drawn_different = _rates(agreed, pairs, draws.astype(float))
        gaps = (drawn_same - drawn_different)[np.isfinite(drawn_same - drawn_different)]
        low, high = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2]) if len(gaps) else (-1.0, 1.0)
        counted = Counter(values[i][name] for i in having)
        examples = tuple(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))[:4])
        scores.append(
            AttributeScore(name, same, different, same - different, float(low), float(high), len(having), examples)
        )
    return sorted(scores, key=lambda score: (-score.separation, score.name))


def merge_synonyms(values: Values, names: Sequence[str], *, threshold: float, least: int = 8) -> dict[str, str]:
    """Name → the name under which it is kept: synonyms are told by their values, by no list of words.

    Two names mean the same if their values agree on the same pictures, beyond chance:

        κ = (p − e) / (1 − e),   p = mean agreement of both values over the pictures that have both,
                                 e = mean agreement of one's value of a picture with the other's of another picture

    (Cohen's κ, for the agreement of texts). In the order given (most used first), a name goes to the kept name with
    the largest κ, if that is at least ``threshold``, and is kept itself otherwise.

    Args:
        least: pictures that must have both values; with fewer, names are kept apart.
    """
    kept: list[str] = []
    merged: dict[str, str] = {}
    for name in names:
        found = [(kappa, other) for other in kept if (kappa := value_kappa(values, name, other, least)) is not None]
        best = max(found, key=lambda pair: pair[0], default=(-1.0, name))
        merged[name] = best[1] if best[0] >= threshold else name
        if merged[name] == name:
            kept.append(name)
    return merged


def value_kappa(values: Values, first: str, second: str, least: int = 8) -> float | None:
    """κ of ``merge_synonyms``; None with too few pictures, or where chance alone makes all values agree."""
    both = [(v[first], v[second]) for v in values if first in v and second in v]
    if len(both) < max(2, least):
        return None
    table = np.array([[agreement(a, b) for _, b in both] for a, _ in both])
    found = float(np.trace(table)) / len(both)
    chance = float(table.sum() - np.trace(table)) / (len(both) * (len(both) - 1))
    return (found - chance) / (1 - chance) if chance < 1 else None


def ranking_quality(ranked: Sequence[str], chosen: Sequence[str], relevant: Sequence[str]) -> RankingQuality:
    """Compare a ranking, and the attributes chosen from it, with the relevant ones.

    Args:
        ranked: all attributes that were ranked, best first.
        chosen: those proposed as default, among ``ranked``.
        relevant: the truth; may hold names that were not ranked, which nothing can find.

    Raises:
        ValueError: nothing ranked or relevant, a name ranked twice, or a chosen one that was not ranked.
    """
    if not ranked or not relevant or len(set(ranked)) < len(ranked) or not set(chosen) <= set(ranked):
        raise ValueError(f"need distinct ranked names and a truth, got ranked {list(ranked)}, chosen {list(chosen)}")
    truth = set(relevant)
    hits = np.array([name in truth for name in ranked])
    n, r = len(ranked), int(hits.sum())
    right = sum(name in truth for name in chosen)
    precision_at = np.cumsum(hits) / np.arange(1, n + 1)
    # E[precision at rank i | relevant at rank i] over random orders; a rank is relevant with probability r / n.
    ranks = np.arange(1, n + 1)
    expected = (1 + (ranks - 1) * ((r - 1) / max(1, n - 1))) / ranks
    found = r / len(truth)
    before = np.cumsum(~hits)  # irrelevant ones at or before each rank
    return RankingQuality(
        precision=right / len(chosen) if chosen else 0.0,
        recall=right / len(truth),
        average_precision=float(precision_at[hits].sum()) / len(truth),
        auc=1 - float(before[hits].sum()) / (r * (n - r)) if 0 < r < n else None,
        random_precision=r / n if chosen else 0.0,
        random_recall=len(chosen) * r / n / len(truth),
        random_average_precision=found * float(expected.mean()) if r else 0.0,
        random_auc=0.5,
    )


def _words(value: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", value.casefold()))


def _agreements(values: Sequence[str]) -> np.ndarray:
    """(n, n); texts that repeat are compared once."""
    distinct, place = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    table = np.array([[agreement(a, b) for b in distinct] for a in distinct])
    return table[place][:, place]


def _by_class(table: np.ndarray, member: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of agreements and numbers of pairs, (classes, classes), no picture paired with itself."""
    one_hot = np.eye(classes)[member]
    off = 1 - np.eye(len(table))
    return one_hot.T @ (table * off) @ one_hot, one_hot.T @ off @ one_hot


def _rates(agreed: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Agreement over same-class and different-class pairs, (draws,) each, for how often each class was drawn."""
    own, count = np.diag(agreed), np.diag(pairs)
    cross, crossings = agreed - np.diag(own), pairs - np.diag(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        same = (weights @ own) / (weights @ count)
        different = ((weights @ cross) * weights).sum(1) / ((weights @ crossings) * weights).sum(1)
    return same, different
