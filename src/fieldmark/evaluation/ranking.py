"""Queries against a pool of candidates with graded relevance: Recall@K, nDCG@K, MRR, the exact rank of the first hit.

Similarity is the cosine in float32, the search is exact and its memory bounded; equal scores are ordered by the place
in the pool, lowest first.

    Recall@K   share of queries with any relevant candidate among the K best (M-BEIR: hit@K)
    MRR        mean of 1 / rank of the first relevant candidate, over the whole pool
    median     median rank of the first relevant candidate (video retrieval's MdR)
    nDCG@K     Σ_{k≤K} grade_(k) / log2(1 + k), over the same sum in the best order (Järvelin and Kekäläinen 2002, with
               the grade itself as gain)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.retrieval import Interval, best_scores, bootstrap_interval, score_blocks, unit_rows


@dataclass(frozen=True, eq=False)
class Relevance:
    """What counts as found, as places in queries and pool; of query q the entries starts[q] to starts[q + 1].

    Attributes:
        starts: (n + 1,) int64.
        candidates: (e,) int64, places in the pool; -1 for a relevant candidate that is not in it and cannot be found.
        grades: (e,) float64, above 0.
        pool_size: m, candidates in the pool.
    """

    starts: np.ndarray
    candidates: np.ndarray
    grades: np.ndarray
    pool_size: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, query: int) -> slice:
        """The entries of one query."""
        return slice(int(self.starts[query]), int(self.starts[query + 1]))


@dataclass(frozen=True, eq=False)
class RankingMetrics:
    """Means over all queries, and the values that they are means of.

    Attributes:
        recall_at_k, ndcg_at_k: by K.
        mrr: mean reciprocal rank.
        median_rank: median of ``first_hit``, where never found is infinitely far.
        first_hit: (n,) int64, exact rank (1 = best) of the first relevant candidate; 0 if none is in the pool.
        query_ndcg: by K, (n,) float64.
        top: (n, k) int64, places in the pool of the best candidates, k = the largest K asked for (or the pool's size);
            -1 where a query has fewer candidates left than k.
        top_scores: (n, k) float32; -inf where ``top`` is -1.
    """

    recall_at_k: dict[int, float]
    ndcg_at_k: dict[int, float]
    mrr: float
    median_rank: float
    first_hit: np.ndarray
    query_ndcg: dict[int, np.ndarray]
    top: np.ndarray
    top_scores: np.ndarray

    @property
    def num_queries(self) -> int:
        return len(self.first_hit)

    def per_query(self, metric: str) -> np.ndarray:
        """(n,) float64 values of ``"recall_at_K"`` (any K up to the pool's size), ``"ndcg_at_K"`` or ``"mrr"``.

        Raises:
            ValueError: an unknown metric.
        """
        kind, _, k = metric.rpartition("_at_")
        if metric == "mrr":
            return 1 / _never_is_infinite(self.first_hit)
        if kind == "recall" and k.isdigit() and int(k) >= 1:
            return (_never_is_infinite(self.first_hit) <= int(k)).astype(np.float64)
        if kind == "ndcg" and k.isdigit() and int(k) in self.query_ndcg:
            return self.query_ndcg[int(k)]
        known = ["recall_at_K", *(f"ndcg_at_{k}" for k in self.query_ndcg), "mrr"]
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(known)}")

    def interval(
        self,
        metric: str,
        generator: np.random.Generator,
        level: float = 0.95,
        *,
        groups: np.ndarray | None = None,
    ) -> Interval:
        """Mean of ``per_query`` with its bootstrap interval over queries, or over groups (n,) of queries."""
        return bootstrap_interval(self.per_query(metric), generator, level, groups=groups)


def index_relevance(
    name: str,
    query_ids: Iterable[str],
    candidate_ids: Iterable[str] | Mapping[str, int],
    relevance: Mapping[str, Mapping[str, float]],
    *,
    absent: Literal["error", "count"] = "error",
) -> Relevance:
    """Ids to places.

    Args:
        name: the task's, for messages.
        candidate_ids: the pool's, in its order; or their places, if they are known already (``places_of``).
        relevance: query id → candidate id → grade. Queries that are not asked for are passed over.
        absent: relevant candidates that are not in the pool: "error", or "count" them as never found.

    Raises:
        ValueError: an id that stands twice, a query without positives, a positive that is not in the pool, or a grade
            that is not above 0.
    """
    places = candidate_ids if isinstance(candidate_ids, Mapping) else places_of(name, "candidate", candidate_ids)
    queries = places_of(name, "query", query_ids)
    starts, candidates, grades = [0], [], []
    for query in queries:
        positives = relevance.get(query)
        if not positives:
            raise ValueError(f"{name}: query {query!r} has no relevant candidate: remove it, or complete the qrels")
        for candidate, grade in positives.items():
            if candidate not in places and absent == "error":
                raise ValueError(
                    f"{name}: candidate {candidate!r} is relevant to query {query!r}, but it is not in the pool of "
                    f"{len(places)}: is it the right pool for these qrels?"
                )
            if not 0 < grade < float("inf"):
                raise ValueError(f"{name}: query {query!r} grades {candidate!r} {grade}; grades are above 0")
            candidates.append(places.get(candidate, -1))
            grades.append(float(grade))
        starts.append(len(candidates))
    return Relevance(np.array(starts), np.array(candidates, dtype=np.int64), np.array(grades), len(places))


def self_matches(
    queries: Sequence[Query], candidates: Sequence[Item], relevance: Relevance
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates that are the query itself: (e,) places of queries, (e,) places in the pool.

    A candidate is the query if both have one picture, that is one file, and the same text. Ids alone decide nothing:
    M-BEIR counts queries and candidates separately, so one id names two things. What ``relevance`` calls relevant is
    never a self-match.
    """
    by_picture: dict[tuple[str, str], list[int]] = {}
    for i, query in enumerate(queries):
        if query.item.image is not None:
            by_picture.setdefault((str(query.item.image), query.item.text or ""), []).append(i)
    rows, columns = [], []
    if by_picture:
        for place, candidate in enumerate(candidates):
            if candidate.image is None:
                continue
            for i in by_picture.get((str(candidate.image), candidate.text or ""), ()):
                if place not in relevance.candidates[relevance.of(i)]:
                    rows.append(i)
                    columns.append(place)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)


@torch.no_grad()
def ranking_metrics(
    queries: Tensor,
    candidates: Tensor,
    relevance: Relevance,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ndcg_ks: Sequence[int] = (),
    excluded: tuple[np.ndarray, np.ndarray] | None = None,
    normalised: bool = False,
    chunk_size: int = 1024,
) -> RankingMetrics:
    """Exact ranking of the pool for every query.

    Args:
        queries: (n, D) embeddings, floating; normalised here, in float32.
        candidates: (m, D), the pool.
        ks, ndcg_ks: K of Recall and nDCG. A K beyond the pool counts the whole pool.
        excluded: places of queries and of candidates that they must not find (``self_matches``).
        normalised: all embeddings have length 1 already, as an embedder's have: a large pool is not copied.
        chunk_size: queries scored at a time; memory is about chunk_size * m * 4 bytes, 512 MB at most.

    Raises:
        ValueError: embeddings of different sizes, not as many as the relevance says, NaN or zero embeddings, a K below
            1, or an excluded candidate that is relevant.
    """
    if not ks or min((*ks, *ndcg_ks)) < 1:
        raise ValueError(f"ks are {tuple(ks)} and {tuple(ndcg_ks)}; expected ranks from 1 upwards, one at least")
    queries = unit_rows(queries, "queries", normalised=normalised)
    pool = unit_rows(candidates, "candidates", normalised=normalised)
    if (len(queries), len(pool)) != (len(relevance), relevance.pool_size):
        raise ValueError(
            f"{len(queries)} queries and {len(pool)} candidates are embedded, but the relevance is about "
            f"{len(relevance)} and {relevance.pool_size}"
        )
    if queries.shape[1] != pool.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers and candidates {pool.shape[1]}: they come from different models"
        )
    hidden = _hidden(relevance, excluded)
    depth = min(len(pool), max((*ks, *ndcg_ks)))
    first_hit = np.empty(len(queries), dtype=np.int64)
    top = np.empty((len(queries), depth), dtype=np.int64)
    top_scores = np.empty((len(queries), depth), dtype=np.float32)
    for rows, scores in score_blocks(queries, pool, depth, chunk_size):
        begin, end = np.searchsorted(hidden[0], (rows.start, rows.stop))
        scores[hidden[0][begin:end] - rows.start, hidden[1][begin:end]] = -torch.inf
        values, columns = best_scores(scores, depth)
        top_scores[rows] = values.cpu().numpy()
        top[rows] = np.where(np.isneginf(top_scores[rows]), -1, columns.cpu().numpy())
        best = _best_relevant(scores, relevance, rows)
        found = columns == best[:, None]
        ranks = torch.where(found.any(1), found.int().argmax(1) + 1, 0)
        missed = (~found.any(1) & (best >= 0)).nonzero().flatten()
        ranks[missed] = ranks_of(scores, missed, best[missed])
        first_hit[rows] = ranks.cpu().numpy()
    query_ndcg = {k: _ndcg(top[:, :k], relevance, k) for k in ndcg_ks}
    ranks_found = _never_is_infinite(first_hit)
    return RankingMetrics(
        recall_at_k={k: float((ranks_found <= k).mean()) for k in ks},
        ndcg_at_k={k: float(values.mean()) for k, values in query_ndcg.items()},
        mrr=float((1 / ranks_found).mean()),
        median_rank=float(np.median(ranks_found)),
        first_hit=first_hit,
        query_ndcg=query_ndcg,
        top=top,
        top_scores=top_scores,
    )


def ranks_of(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(e,) int64: rank of column columns[i] in row rows[i] of the scores (n, m), ties to the lower column."""
    ranks = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
    places = torch.arange(scores.shape[1], device=scores.device)
    for part in torch.arange(len(rows), device=scores.device).split(256):  # a copy of 256 rows at a time
        line, column = scores[rows[part]], columns[part, None]
        own = line.gather(1, column)
        ranks[part] = 1 + ((line > own) | ((line == own) & (places < column))).sum(1)
    return ranks


def _best_relevant(scores: Tensor, relevance: Relevance, rows: slice) -> Tensor:
    """(r,) column of the relevant candidate with the best score in each row, of equal ones the lowest; -1 if none."""
    entries = slice(int(relevance.starts[rows.start]), int(relevance.starts[rows.stop]))
    counts = np.diff(relevance.starts[rows.start : rows.stop + 1])
    line, columns = np.repeat(np.arange(len(counts)), counts), relevance.candidates[entries]
    line, columns = line[columns >= 0], columns[columns >= 0]
    values = scores[torch.from_numpy(line), torch.from_numpy(columns)].cpu().numpy()
    order = np.lexsort((columns, -values, line))[::-1]
    best = np.full(len(counts), -1)
    best[line[order]] = columns[order]  # of several assignments the last one stays: the best
    return torch.from_numpy(best).to(scores.device)


def _never_is_infinite(first_hit: np.ndarray) -> np.ndarray:
    return np.where(first_hit == 0, np.inf, first_hit)


def _ndcg(top: np.ndarray, relevance: Relevance, k: int) -> np.ndarray:
    """(n,) nDCG of the first k places; ``top`` (n, at most k)."""
    discount = 1 / np.log2(2 + np.arange(k))
    values = np.empty(len(top))
    for i, row in enumerate(top):
        entries = relevance.of(i)
        grades = dict(zip(relevance.candidates[entries].tolist(), relevance.grades[entries].tolist(), strict=True))
        gains = np.array([grades.get(int(place), 0.0) if place >= 0 else 0.0 for place in row])
        ideal = np.sort(relevance.grades[entries])[::-1][:k]
        values[i] = (gains * discount[: len(gains)]).sum() / (ideal * discount[: len(ideal)]).sum()
    return values


def _hidden(relevance: Relevance, excluded: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
    """The excluded pairs in the order of the queries."""
    if excluded is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(excluded[0], kind="stable")
    rows, columns = excluded[0][order], excluded[1][order]
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if column in relevance.candidates[relevance.of(row)]:
            raise ValueError(f"candidate {column} of the pool is excluded for query {row}, but it is relevant to it")
    return rows, columns


def places_of(name: str, kind: str, ids: Iterable[str]) -> dict[str, int]:
    """Id → place.

    Raises:
        ValueError: an id stands twice.
    """
    places: dict[str, int] = {}
    for i, one in enumerate(ids):
        if places.setdefault(one, i) != i:
            raise ValueError(f"{name}: {kind} id {one!r} stands twice (places {places[one]} and {i}): ids must differ")
    return places
