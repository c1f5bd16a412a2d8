"""What an embedder's training did to single queries: ranks before and after, of matches and of near misses.

A near miss lacks exactly one grain of a query. Where it stands says whether that grain is heard: an embedder that is
blind to a grain (ELVA, arXiv 2606.20280) puts candidates without it among those that have everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.retrieval import score_blocks, unit_rows


@dataclass(frozen=True, eq=False)
class EmbeddedTask:
    """What one embedder made of queries and pool. queries (n, D), candidates (m, D); normalised where they are used."""

    queries: Tensor
    candidates: Tensor


@dataclass(frozen=True)
class NearMissChange:
    """Candidates that lack this grain and no other: the best rank that any of them has, 1 = first."""

    grain: str
    num_candidates: int
    before: int
    after: int


@dataclass(frozen=True)
class RankChange:
    """One query under two embedders.

    Attributes:
        query: its place among the queries.
        num_matches: candidates that satisfy every grain.
        match_before, match_after: rank of the best of them, 1 = first.
        near_misses: by dropped grain, in the query's order; grains that no candidate lacks alone are left out.
    """

    query: int
    num_matches: int
    match_before: int
    match_after: int
    near_misses: tuple[NearMissChange, ...]

    @property
    def gain(self) -> float:
        """How many times further up the best match stands, in factors of two (3 → 1 earns as much as 30 → 10)."""
        return float(np.log2(self.match_before / self.match_after))


@torch.no_grad()
def rank_changes(
    queries: Sequence[Query],
    candidates: Sequence[Item],
    before: EmbeddedTask,
    after: EmbeddedTask,
    *,
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[RankChange]:
    """Exact ranks in the whole pool, of equal scores the lower place first.

    A candidate satisfies a grain if the grain is among its ``facts``. Queries of fewer than two grains have no near
    misses, and queries that nothing satisfies have no match: both are left out.

    Args:
        excluded: places of queries and of candidates that they must not find (`ranking.self_matches`); these count as
            neither match nor near miss, and have no rank.

    Raises:
        ValueError: embeddings that are not as many as queries and candidates.
    """
    for name, one in (("before", before), ("after", after)):
        if (len(one.queries), len(one.candidates)) != (len(queries), len(candidates)):
            raise ValueError(
                f"{name}: {len(one.queries)} queries and {len(one.candidates)} candidates are embedded, but there are "
                f"{len(queries)} and {len(candidates)}"
            )
    hidden = _hidden(excluded)
    lacking = [_lacking(query, candidates, hidden.get(i, ())) for i, query in enumerate(queries)]
    wanted = [i for i, one in enumerate(lacking) if one is not None and len(one[0])]
    ranks = {place: _ranks(one, wanted, hidden) for place, one in (("before", before), ("after", after))}
    found = []
    for row, i in enumerate(wanted):
        known = lacking[i]
        assert known is not None
        matches, near = known
        first, then = ranks["before"][row], ranks["after"][row]
        misses = tuple(
            NearMissChange(grain, len(places), int(first[places].min()), int(then[places].min()))
            for grain, places in near.items()
            if len(places)
        )
        found.append(RankChange(i, len(matches), int(first[matches].min()), int(then[matches].min()), misses))
    return found


def _hidden(excluded: tuple[np.ndarray, np.ndarray] | None) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for row, column in zip(*((), ()) if excluded is None else excluded, strict=True):
        places.setdefault(int(row), []).append(int(column))
    return places


def _lacking(
    query: Query, candidates: Sequence[Item], hidden: Sequence[int]
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Places of the matches, and by grain of what lacks it alone; None for fewer than two grains."""
    grains = tuple(dict.fromkeys(query.grains))
    if len(grains) < 2:
        return None
    has = np.array([[grain in one.facts for grain in grains] for one in candidates])
    missing = len(grains) - has.sum(1)
    missing[list(hidden)] = len(grains) + 1
    near = {grain: np.flatnonzero((missing == 1) & ~has[:, k]) for k, grain in enumerate(grains)}
    return np.flatnonzero(missing == 0), near


def _ranks(embedded: EmbeddedTask, wanted: Sequence[int], hidden: dict[int, list[int]]) -> list[np.ndarray]:
    """Of each wanted query, the rank (m,) of every candidate; hidden ones come last."""
    if not wanted:
        return []
    queries = unit_rows(embedded.queries[list(wanted)], "queries")
    pool = unit_rows(embedded.candidates, "candidates")
    found = []
    for rows, scores in score_blocks(queries, pool, 1):
        for k in range(rows.start, rows.stop):
            line = scores[k - rows.start, : len(pool)]
            line[hidden.get(wanted[k], [])] = -torch.inf
            order = line.sort(descending=True, stable=True).indices.cpu().numpy()
            ranks = np.empty(len(pool), dtype=np.int64)
            ranks[order] = np.arange(1, len(pool) + 1)
            found.append(ranks)
    return found
