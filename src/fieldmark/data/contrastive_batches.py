"""Which query stands beside which positive and which hard negatives, batch after batch.

A batch is a pure function of (seed, step), and a query's positive and negatives are one of (seed, epoch, query): a
resumed run draws the same, and so does each of several processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, overload

import numpy as np

from fieldmark.data.mined_negatives import QueryNegatives
from fieldmark.data.multimodal.json_lines import JsonLines
from fieldmark.data.retrieval import RetrievalTask

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Example:
    """One query of a batch; all numbers are positions in the task's queries and candidates."""

    query: int
    positive: int
    negatives: tuple[int, ...]
    """Hard negatives that this query brings along."""


class ContrastiveBatches:
    """Batches of queries, each with one positive and some hard negatives.

    Every epoch is a fresh permutation of all queries; a batch may reach from one epoch into the next. Batches are not
    sorted by length or task: who is whose negative stays random (chunks of a batch may be sorted, see
    `training.contrastive`).

    Args:
        task: training queries with their pool.
        batch_size: queries in a batch, of all processes together.
        hard_negatives: of each query at most; fewer where a query has fewer.
        seed: of the whole sequence.
        mined: query id → negatives, whose hard ones join those that the source names (`Query.negatives`). Known
            positives are dropped from both; so are positives and named negatives that the pool does not have, which
            is for the reader of the data to allow or to refuse.
        mined_depth: take so many of them only, nearest first; None takes all.

    Raises:
        ValueError: a number out of range, a query without positives, an id twice in the pool, a mined one that is not
            in it, or mined negatives of none of these queries.
    """

    def __init__(
        self,
        task: RetrievalTask,
        batch_size: int,
        hard_negatives: int,
        seed: int,
        mined: Mapping[str, QueryNegatives] | None = None,
        mined_depth: int | None = None,
    ) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size is {batch_size}; a contrast needs at least 2 queries")
        if batch_size > len(task.queries):
            raise ValueError(
                f"batch_size is {batch_size}, but there are only {len(task.queries)} training queries: make it smaller"
            )
        if hard_negatives < 0:
            raise ValueError(f"hard_negatives is {hard_negatives}; give 0 or more")
        if mined is not None and not any(query.id in mined for query in task.queries):
            raise ValueError(f"the mined negatives are of other queries than those of {task.name}")
        self.task = task
        self._batch_size, self._hard_negatives, self._seed = batch_size, hard_negatives, seed
        places = CandidatePlaces(task)
        self.positives: list[tuple[int, ...]] = []
        """Per query, the positions of all its known positives."""
        self._negatives: list[np.ndarray] = []
        none, of_mined = np.empty(0, dtype=np.int32), 0
        for query in task.queries:  # may be read from disk: once
            known = set(task.relevance.get(query.id, ()))
            positives = tuple(p for one in sorted(known) if (p := places.get(one)) is not None)
            if not positives:
                raise ValueError(f"{task.name}: query {query.id!r} has no positive in the pool; leave it out")
            self.positives.append(positives)
            if not hard_negatives:
                self._negatives.append(none)
                continue
            hard = [p for one in query.negatives if one not in known and (p := places.get(one)) is not None]
            found = mined.get(query.id) if mined is not None else None
            if found is not None:
                of_mined += 1
                hard += [places[one] for one in found.hard[:mined_depth] if one not in known]
            self._negatives.append(np.array(list(dict.fromkeys(hard)), dtype=np.int32))
        if mined is not None and hard_negatives and not of_mined:
            raise ValueError(f"the mined negatives are of other queries than those of {task.name}")
        if hard_negatives and not any(map(len, self._negatives)):
            raise ValueError(
                f"hard_negatives is {hard_negatives}, but {task.name} names none: mine them (`fieldmark data mine`) "
                "and give them with --mined, or set hard_negatives to 0"
            )
        self._last_order: tuple[int, np.ndarray] | None = None

    @property
    def num_queries(self) -> int:
        """Queries in an epoch."""
        return len(self.positives)

    def batch(self, step: int) -> list[Example]:
        """Batch number ``step``, from 0."""
        first = step * self._batch_size
        return [self._example(*divmod(place, self.num_queries)) for place in range(first, first + self._batch_size)]

    def _example(self, epoch: int, place: int) -> Example:
        query = int(self._order(epoch)[place])
        random = np.random.default_rng([self._seed, 1, epoch, query])
        positives, negatives = self.positives[query], self._negatives[query]
        positive = positives[int(random.integers(len(positives)))]
        chosen = random.permutation(len(negatives))[: self._hard_negatives]
        return Example(query, positive, tuple(negatives[chosen].tolist()))

    def _order(self, epoch: int) -> np.ndarray:
        if self._last_order is None or self._last_order[0] != epoch:
            order = np.random.default_rng([self._seed, 0, epoch]).permutation(self.num_queries)
            self._last_order = epoch, order
        return self._last_order[1]


class CandidatePlaces:
    """Positions of a task's candidates by id.

    Raises:
        ValueError: a pool in memory has an id twice (one on disk was checked when it was opened).
    """

    def __init__(self, task: RetrievalTask) -> None:
        self._name, self._lines = task.name, None
        self._places: dict[str, int] = {}
        if isinstance(task.candidates, JsonLines):
            self._lines = task.candidates
            return
        for place, item in enumerate(task.candidates):
            if self._places.setdefault(item.id, place) != place:
                raise ValueError(f"{task.name}: candidate {item.id!r} stands in the pool twice")

    def get(self, name: str) -> int | None:
        """The position, or None if the pool does not have the candidate."""
        if self._lines is None:
            return self._places.get(name)
        try:
            return self._lines.position(name)
        except KeyError:
            return None

    def __getitem__(self, name: str) -> int:
        place = self.get(name)
        if place is None:
            raise ValueError(f"{self._name}: the pool has no candidate {name!r}; was it named for another pool?")
        return place


class Chosen(Sequence[_Value]):
    """Some of a sequence's values, in an order of their own; nothing is copied or read."""

    def __init__(self, values: Sequence[_Value], places: Sequence[int] | np.ndarray) -> None:
        self._values, self._places = values, np.asarray(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, i: int) -> _Value: ...
    @overload
    def __getitem__(self, i: slice) -> "Chosen[_Value]": ...
    def __getitem__(self, i: int | slice) -> "_Value | Chosen[_Value]":
        return Chosen(self._values, self._places[i]) if isinstance(i, slice) else self._values[int(self._places[i])]


def hold_out(
    task: RetrievalTask, num_queries: int, num_candidates: int, seed: int
) -> tuple[RetrievalTask, RetrievalTask]:
    """The task without some of its queries, and those queries in a small pool of their own.

    The small pool holds the held-out queries' positives and named negatives, filled up at random: its Recall@K compares
    steps of a run, nothing else. Queries with the text and picture of a held-out one are held out with it, so that
    none is both learnt and asked.

    Args:
        num_queries: to hold out; at most a tenth of all, at least one.
        num_candidates: size of the small pool, unless the positives and negatives are more.
        seed: chooses both.

    Raises:
        ValueError: fewer than two distinct queries, or a number below 1.
    """
    if num_queries < 1 or num_candidates < 1:
        raise ValueError(f"validation needs queries and candidates, got {num_queries} and {num_candidates}")
    groups: dict[int, list[int]] = {}
    for place, query in enumerate(task.queries):
        groups.setdefault(hash((query.item.text, query.item.image)), []).append(place)
    if len(groups) < 2:
        raise ValueError(f"{task.name} has one distinct query: nothing can be held out for validation")
    random = np.random.default_rng([seed, 2])
    members = list(groups.values())
    limit, held = max(1, min(num_queries, len(task.queries) // 10)), set[int]()
    for group in random.permutation(len(members))[:-1]:
        if len(held) >= limit:
            break
        held.update(members[int(group)])
    asked = [task.queries[place] for place in sorted(held)]
    relevance = {query.id: task.relevance[query.id] for query in asked}
    places = CandidatePlaces(task)
    named = [one for grades in relevance.values() for one in grades] + [one for q in asked for one in q.negatives]
    pool = {found for one in named if (found := places.get(one)) is not None}
    for place in random.permutation(len(task.candidates)):
        if len(pool) >= num_candidates:
            break
        pool.add(int(place))
    rest = [place for place in range(len(task.queries)) if place not in held]
    validation = replace(
        task,
        name=f"{task.name} (held out)",
        queries=asked,
        candidates=Chosen(task.candidates, sorted(pool)),
        relevance=relevance,
    )
    return replace(task, queries=Chosen(task.queries, rest)), validation
