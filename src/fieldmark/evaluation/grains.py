"""Does an embedding hear every grain of a query? (ELVA, arXiv 2606.20280)

A *grain* is an atomic part of a query's meaning: an entity, an attribute, an action. Two measures:

- *Sensitivity*: how far a query's embedding moves when one grain's phrase is dropped from its text,

      d(f(q), f(q∖g)) = 1 − cos(f(q), f(q∖g)),

  as a mean over phrases (published: 0.07 before, 0.15 after ELVA). Embeddings that merely spread out more move more,
  too: so the mean is also given relative to the mean distance between unrelated queries, those that share no grain.
- *Compliance*, where it is known what is true of every candidate: of the five best, the share of the query's grains
  that they satisfy, and the rank of near misses, candidates that miss exactly one of several grains.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.retrieval import Interval, best_scores, bootstrap_interval, score_blocks, unit_rows

EmbedQueries = Callable[[Sequence[Query]], Tensor]
"""Queries → embeddings (n, D)."""

_CONNECTIVES = r"(?:(?<!\w)(?:and|or|with|but|that|which)(?!\w)|[,;])"
_LEADING = re.compile(rf"^(?:{_CONNECTIVES}\s*)+", re.IGNORECASE)
_TRAILING = re.compile(rf"(?:\s*{_CONNECTIVES})+$", re.IGNORECASE)


class NotMeasurable(ValueError):
    """These queries and candidates do not say what the measure needs to know."""


@dataclass(frozen=True, eq=False)
class GrainSensitivity:
    """How far embeddings move when a phrase is dropped. Cosine distances, from 0 to 2.

    Attributes:
        distance: mean over dropped phrases.
        unrelated: mean over pairs of queries that share no grain.
        relative: distance / unrelated.
        interval: of ``distance``; whole queries are resampled.
        relative_interval: of ``relative``, with ``unrelated`` as it is.
        distances: (d,), one per dropped phrase.
        owner: (d,) int64, the query each belongs to, as its place.
        num_skipped: grains that could not be dropped: not in the query's text word for word, or all of it.
    """

    distance: float
    unrelated: float
    relative: float
    interval: Interval
    relative_interval: Interval
    distances: np.ndarray
    owner: np.ndarray
    num_skipped: int

    def as_json(self) -> dict[str, Any]:
        return {
            "distance": self.distance,
            "interval": [self.interval.low, self.interval.high],
            "unrelated": self.unrelated,
            "relative": self.relative,
            "relative_interval": [self.relative_interval.low, self.relative_interval.high],
            "num_dropped": len(self.distances),
            "num_skipped": self.num_skipped,
        }


@dataclass(frozen=True, eq=False)
class GrainCompliance:
    """How well what is found satisfies the grains. Shares, and ranks from 1.

    Attributes:
        k: how many of the best candidates were looked at.
        satisfied: mean share of the query's grains that these satisfy …
        random: … and that a random order of the pool would satisfy.
        interval: of ``satisfied``; queries are resampled.
        near_miss_rank: mean rank of candidates that miss exactly one of several grains …
        match_rank: … and of candidates that miss none, both averaged over the queries that have both.
        misordered: of all pairs of a match and a near miss, the share in which the near miss stands first (0 is
            perfect, 0.5 is blind), averaged over queries that have both.
        near_miss_first: share of the queries that have both whose best near miss stands before their best match.
        query_satisfied: (n,) per query.
        num_with_both: queries with matches and near misses; without any, the figures about them are NaN.
    """

    k: int
    satisfied: float
    random: float
    interval: Interval
    near_miss_rank: float
    match_rank: float
    misordered: float
    near_miss_first: float
    query_satisfied: np.ndarray
    num_with_both: int

    def as_json(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "satisfied": self.satisfied,
            "interval": [self.interval.low, self.interval.high],
            "random": self.random,
            "near_miss_rank": _or_none(self.near_miss_rank),
            "match_rank": _or_none(self.match_rank),
            "misordered": _or_none(self.misordered),
            "near_miss_first": _or_none(self.near_miss_first),
            "num_with_both": self.num_with_both,
        }


def grain_spans(text: str, grain: str) -> list[tuple[int, int]]:
    """Where a grain's phrase stands in a text: (start, end) in characters, at word boundaries, whatever the case."""
    phrase = r"[\s:]+".join(map(re.escape, grain.split()))  # "bill shape: hooked" is the grain "bill shape hooked", too
    if not phrase:
        return []
    return [found.span() for found in re.finditer(rf"(?<!\w){phrase}(?!\w)", text, re.IGNORECASE)]


def drop_grain(query: Query, grain: str) -> Query | None:
    """The query without this phrase; None if the phrase is not in its text, or nothing would be left to embed.

    The first occurrence at word boundaries goes, whatever the case, with a comma or connective ("and", "with") that
    would be left alone at either end or doubled.
    """
    text = query.item.text or ""
    found = grain_spans(text, grain)
    if not found:
        return None
    start, end = found[0]
    before, after = text[:start].rstrip(), text[end:].lstrip()
    if not before:
        after = _LEADING.sub("", after)
    if not after or _LEADING.match(after) or after[0] in ".!?":
        before = _TRAILING.sub("", before)
    left = _TRAILING.sub("", re.sub(r"\s+([,;.!?])", r"\1", f"{before} {after}").strip())
    if not re.search(r"\w", left):
        left = ""
    if not left and query.item.image is None:
        return None
    grains = tuple(one for one in query.grains if one != grain)
    return replace(query, item=replace(query.item, text=left or None), grains=grains)


def grain_sensitivity(
    queries: Sequence[Query], embed: EmbedQueries, generator: np.random.Generator, *, level: float = 0.95
) -> GrainSensitivity:
    """Drop every grain of every query, one at a time, and compare.

    Args:
        queries: of one task, so that their instructions do not tell them apart. Those with a single grain are left out:
            nothing of them would remain.
        embed: called twice, with the queries and with what is left of them.
        generator: of the intervals.

    Raises:
        NotMeasurable: no grain can be dropped, or no two queries are unrelated.
    """
    several = [query for query in queries if len(query.grains) > 1]
    pairs = [(i, drop_grain(query, grain)) for i, query in enumerate(several) for grain in query.grains]
    kept = [(i, query) for i, query in pairs if query is not None]
    if not kept:
        raise NotMeasurable(
            f"of {len(queries)} queries none has two grains or more that stand in its text: nothing can be dropped"
        )
    owner = np.array([i for i, _ in kept], dtype=np.int64)
    whole = unit_rows(embed(several), "queries")
    cut = unit_rows(embed([query for _, query in kept]), "queries without a grain")
    distances = (1 - (whole[torch.from_numpy(owner)] * cut).sum(1)).double().cpu().numpy()
    unrelated = _unrelated_distance(several, whole)
    interval = bootstrap_interval(distances, generator, level, groups=owner)
    return GrainSensitivity(
        distance=interval.mean,
        unrelated=unrelated,
        relative=interval.mean / unrelated,
        interval=interval,
        relative_interval=Interval(
            interval.mean / unrelated, interval.low / unrelated, interval.high / unrelated, interval.level
        ),
        distances=distances,
        owner=owner,
        num_skipped=len(pairs) - len(kept),
    )


@torch.no_grad()
def grain_compliance(
    queries: Sequence[Query],
    query_embeddings: Tensor,
    candidates: Sequence[Item],
    candidate_embeddings: Tensor,
    generator: np.random.Generator,
    *,
    k: int = 5,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> GrainCompliance:
    """Compare every query's grains with the facts of what it finds.

    A candidate satisfies a grain if the grain is among its ``facts``.

    Args:
        query_embeddings, candidate_embeddings: (n, D) and (m, D).
        excluded: places of queries and of candidates that they must not find (``ranking.self_matches``).

    Raises:
        ValueError: a query without grains.
        NotMeasurable: nothing that is asked for is known of any candidate.
    """
    without = [query.id for query in queries if not query.grains]
    if without:
        raise ValueError(f"{len(without)} queries have no grains (first: {without[0]!r}): leave them out")
    asked, known = _incidence(queries, candidates)
    if known.nnz == 0:
        raise NotMeasurable(
            f"nothing that any query asks for is among the facts of the {len(candidates)} candidates: compliance needs "
            "a collection that knows what is true of its candidates"
        )
    embedded, pool = unit_rows(query_embeddings, "queries"), unit_rows(candidate_embeddings, "candidates")
    k = min(k, len(pool))
    counts = np.asarray(asked.sum(1)).ravel()
    hidden = np.zeros((0, 2), dtype=np.int64) if excluded is None else np.stack(excluded, 1)
    satisfied, chance = np.empty(len(queries)), np.empty(len(queries))
    rows_with_both = []
    for rows, scores in score_blocks(embedded, pool, k):
        table = np.asarray((asked[rows] @ known.T).todense())  # (r, m), how many of its grains each candidate satisfies
        here = hidden[(hidden[:, 0] >= rows.start) & (hidden[:, 0] < rows.stop)]
        scores[here[:, 0] - rows.start, here[:, 1]] = -torch.inf
        columns = best_scores(scores, k)[1].cpu().numpy()
        satisfied[rows] = np.take_along_axis(table, columns, 1).mean(1) / counts[rows]
        chance[rows] = table.mean(1) / counts[rows]
        order = scores[:, : len(pool)].sort(dim=1, descending=True, stable=True).indices.cpu().numpy()
        for i in range(len(table)):
            missing = counts[rows.start + i] - table[i][order[i]]
            own = here[here[:, 0] == rows.start + i, 1]
            missing[np.isin(order[i], own)] = -1
            matches, near = np.flatnonzero(missing == 0) + 1, np.flatnonzero(missing == 1) + 1
            if counts[rows.start + i] > 1 and len(matches) and len(near):
                first = np.searchsorted(near, matches).mean() / len(near)  # near misses before each match
                rows_with_both.append((near.mean(), matches.mean(), first, float(near[0] < matches[0])))
    means = np.mean(rows_with_both, axis=0) if rows_with_both else np.full(4, np.nan)
    return GrainCompliance(
        k=k,
        satisfied=float(satisfied.mean()),
        random=float(chance.mean()),
        interval=bootstrap_interval(satisfied, generator, level),
        near_miss_rank=float(means[0]),
        match_rank=float(means[1]),
        misordered=float(means[2]),
        near_miss_first=float(means[3]),
        query_satisfied=satisfied,
        num_with_both=len(rows_with_both),
    )


def _incidence(queries: Sequence[Query], candidates: Sequence[Item]) -> tuple[csr_matrix, csr_matrix]:
    """Which grains each query has, (n, grains), and which of these are facts of each candidate, (m, grains)."""
    places: dict[str, int] = {}
    for query in queries:
        for grain in query.grains:
            places.setdefault(grain, len(places))

    def table(rows: Sequence[Sequence[str]]) -> csr_matrix:
        entries = [sorted({places[one] for one in row if one in places}) for row in rows]
        columns = [place for row in entries for place in row]
        starts = np.cumsum([0, *map(len, entries)])
        return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(rows), len(places)))

    return table([query.grains for query in queries]), table([candidate.facts for candidate in candidates])


def _unrelated_distance(queries: Sequence[Query], embeddings: Tensor) -> float:
    """Mean cosine distance over the pairs of queries that share no grain."""
    grains, _ = _incidence(queries, ())
    total, pairs = 0.0, 0
    for rows in np.array_split(np.arange(len(queries)), max(1, len(queries) // 1024)):
        apart = np.asarray((grains[rows] @ grains.T).todense()) == 0
        distance = (1 - embeddings[torch.from_numpy(rows)] @ embeddings.T).double().cpu().numpy()
        total += float(distance[apart].sum())
        pairs += int(apart.sum())
    if not pairs:
        raise NotMeasurable(
            f"every two of the {len(queries)} queries share a grain: give some that have nothing in common"
        )
    return total / pairs


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
