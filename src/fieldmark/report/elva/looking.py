"""Embeds the task under both embedders, ranks it, and chooses the queries that are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.embedding import EncodingConfig, encode_all
from fieldmark.evaluation.rank_changes import EmbeddedTask, RankChange, rank_changes
from fieldmark.evaluation.ranking import Relevance, index_relevance, ranking_metrics, self_matches
from fieldmark.models.universal_embedder import Embedded, UniversalEmbedder
from fieldmark.report.elva.inputs import ElvaReport, ElvaSizes, EmbedderRow

FOUND = 5
"""A query is found if something relevant is among so many."""


@dataclass(frozen=True, eq=False)
class Side:
    """One embedder and what it makes of the task.

    style: CSS class of its colour. top: (n, k) places of the nearest candidates, -1 where there are no more.
    first_hit: (n,) rank of the first relevant candidate, 0 if there is none in the pool.
    """

    row: EmbedderRow
    style: str
    model: UniversalEmbedder
    queries: Embedded
    candidates: Embedded
    top: np.ndarray
    first_hit: np.ndarray


@dataclass(frozen=True)
class ShownQueries:
    """Queries of one kind: how many there are, and the few that are shown."""

    title: str
    count: int
    chosen: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Looked:
    """The queries and candidates that were looked at, under one or two embedders.

    relevant: places of each query's relevant candidates. changes: by query, where they can be measured. strata: what is
    shown. cut: what was left out of a large task, in words; "" if nothing was.
    """

    queries: tuple[Query, ...]
    candidates: tuple[Item, ...]
    after: Side
    before: Side | None
    relevant: tuple[frozenset[int], ...]
    changes: Mapping[int, RankChange]
    strata: tuple[ShownQueries, ...]
    cut: str

    @property
    def sides(self) -> tuple[Side, ...]:
        """In the order of reading: before, after."""
        return (self.after,) if self.before is None else (self.before, self.after)

    @property
    def shown(self) -> tuple[int, ...]:
        """All queries that are shown, in order."""
        return tuple(query for stratum in self.strata for query in stratum.chosen)


def look(report: ElvaReport, styles: Mapping[str, str]) -> Looked:
    """Embed, rank, choose."""
    task, cut = _part_of(report.task, report.sizes)
    queries, candidates = tuple(task.queries), tuple(task.candidates)
    ids = (one.id for one in queries), (one.id for one in candidates)
    relevance = index_relevance(task.name, *ids, task.relevance, absent="count")
    hidden = self_matches(queries, candidates, relevance)
    after = _side(report, report.after, styles, task, relevance, hidden)
    before = None if report.before is None else _side(report, report.before, styles, task, relevance, hidden)
    changes: dict[int, RankChange] = {}
    if before is not None:
        pair = [EmbeddedTask(one.queries.embeddings, one.candidates.embeddings) for one in (before, after)]
        changes = {one.query: one for one in rank_changes(queries, candidates, *pair, excluded=hidden)}
    relevant = tuple(frozenset(relevance.candidates[relevance.of(i)].tolist()) - {-1} for i in range(len(queries)))
    first = None if before is None else before.first_hit
    strata = choose_queries(first, after.first_hit, report.sizes)
    return Looked(queries, candidates, after, before, relevant, changes, strata, cut)


def choose_queries(before: np.ndarray | None, after: np.ndarray, sizes: ElvaSizes) -> tuple[ShownQueries, ...]:
    """Which queries to show, by rule: as many whose first hit rose as fell, the largest changes (in factors) first;
    then some that both have at once, and some that neither has among the five best.

    Args:
        before, after: (n,) ranks of first hits, 0 where nothing can be found: such queries are never shown.
    """
    ranked = after > 0
    if before is None:
        here, away = np.flatnonzero(ranked & (after <= FOUND)), np.flatnonzero(after > FOUND)
        half = (sizes.changed_queries + 1) // 2
        return (
            ShownQueries(f"Found among the {FOUND} best", len(here), _even(here, half)),
            ShownQueries(f"Not found among the {FOUND} best", len(away), _even(away, sizes.changed_queries - half)),
        )
    ranked &= before > 0
    factor = np.zeros(len(after))
    factor[ranked] = np.log2(before[ranked] / after[ranked])
    order = np.argsort(-np.abs(factor), kind="stable")
    better, worse = (tuple(int(i) for i in order if which[i]) for which in (factor > 0, factor < 0))
    half = (sizes.changed_queries + 1) // 2
    first = np.flatnonzero(ranked & (before == 1) & (after == 1))
    never = np.flatnonzero(ranked & (before > FOUND) & (after > FOUND))
    never = never[~np.isin(never, (*better[:half], *worse[: sizes.changed_queries - half]))]
    return (
        ShownQueries("Better after the training", len(better), better[:half]),
        ShownQueries("Worse after the training", len(worse), worse[: sizes.changed_queries - half]),
        ShownQueries("First before and after", len(first), _even(first, sizes.agreeing_queries)),
        ShownQueries(f"Not among the {FOUND} best, before nor after", len(never), _even(never, sizes.agreeing_queries)),
    )


def _even(places: np.ndarray, count: int) -> tuple[int, ...]:
    """So many at even distances."""
    count = min(count, len(places))
    return tuple(int(places[int((k + 0.5) * len(places) / count)]) for k in range(count))


def _side(
    report: ElvaReport,
    name: str,
    styles: Mapping[str, str],
    task: RetrievalTask,
    relevance: Relevance,
    hidden: tuple[np.ndarray, np.ndarray],
) -> Side:
    model, how = report.embedders[name], EncodingConfig(batch_size=report.batch_size, workers=report.workers)
    queries, candidates = encode_all(model, task.queries, how), encode_all(model, task.candidates, how)
    found = ranking_metrics(
        queries.embeddings, candidates.embeddings, relevance, ks=(report.sizes.neighbours,), excluded=hidden
    )
    return Side(report.row(name), styles[name], model, queries, candidates, found.top, found.first_hit)


def _part_of(task: RetrievalTask, sizes: ElvaSizes) -> tuple[RetrievalTask, str]:
    """At most so many queries, those of several grains first, and candidates; what was left out."""
    notes = []
    grains = [len(query.grains) for query in task.queries]
    several = np.flatnonzero(np.array(grains) > 1)
    chosen = several if len(several) else np.arange(len(grains))
    if len(chosen) < len(grains):
        notes.append(f"{len(grains) - len(chosen)} queries of fewer than two grains are not looked at here.")
    if len(chosen) > sizes.queries:
        notes.append(f"Of {len(chosen)} queries {sizes.queries} are looked at, evenly taken.")
        chosen = np.array(_even(chosen, sizes.queries))
    queries: Sequence[Query] = [task.queries[int(i)] for i in chosen]
    candidates: Sequence[Item] = task.candidates
    if len(candidates) > sizes.candidates:
        wanted = {one for query in queries for one in task.relevance.get(query.id, ())}
        share = -(-len(candidates) // sizes.candidates)
        candidates = [one for i, one in enumerate(candidates) if i % share == 0 or one.id in wanted]
        notes.append(
            f"Of {len(task.candidates)} candidates {len(candidates)} are searched here: ranks are lower bounds."
        )
    return replace(task, queries=queries, candidates=candidates), " ".join(notes)
