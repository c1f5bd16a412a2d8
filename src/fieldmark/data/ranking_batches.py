"""Which queries a step of ELVA's third stage sees, each with its positives and negatives.

A batch is a pure function of (seed, step), and what stands beside a query one of (seed, epoch, query): a resumed run
draws the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fieldmark.data.contrastive_batches import CandidatePlaces
from fieldmark.data.mined_negatives import QueryNegatives
from fieldmark.data.retrieval import RetrievalTask


@dataclass(frozen=True)
class RankingExample:
    """One query of a batch; all numbers are positions in the task's queries and candidates."""

    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    """The hard ones first, nearest first."""


class RankingBatches:
    """Batches of queries, each with positives and with hard and random negatives (ELVA: 50 and 50).

    Every epoch is a fresh permutation of the queries; a batch may reach from one epoch into the next.

    Args:
        task: training queries with their pool.
        batch_size: queries in a batch.
        seed: of the whole sequence.
        positives: of each query at most, drawn anew each epoch.
        hard, random: negatives of each query.
        mined: query id → its negatives (`fieldmark data mine`): the first ``hard`` and ``random`` of them are taken,
            and queries without any are left out. None: the random ones are drawn uniformly from the pool, anew
            each epoch, and ``hard`` must be 0.

    Attributes:
        queries: positions of the queries that are trained on.
        num_short: of them, how many have fewer negatives than asked for (the pool ended, or some turned out right).

    Raises:
        ValueError: a number out of range, a query without positives, a mined id that the pool does not have, too small
            a pool, or mined negatives that are of other queries or too few for every query.
    """

    def __init__(
        self,
        task: RetrievalTask,
        batch_size: int,
        seed: int,
        *,
        positives: int,
        hard: int,
        random: int,
        mined: Mapping[str, QueryNegatives] | None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("positives", positives, 1),
            ("hard", hard, 0),
            ("random", random, 0),
            ("hard + random", hard + random, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if hard and mined is None:
            raise ValueError(
                f"{hard} hard negatives are asked for, but none are given: mine them (`fieldmark data mine`), or set "
                f"hard to 0 and random to {hard + random}"
            )
        self.task = task
        self._batch_size, self._seed, self._positives, self._random = batch_size, seed, positives, random
        places = CandidatePlaces(task)
        self.queries: list[int] = []
        self._relevant: dict[int, tuple[int, ...]] = {}
        self._stored: dict[int, tuple[int, ...]] = {}
        for i, query in enumerate(task.queries):  # may be read from disk: once
            found = None if mined is None else mined.get(query.id)
            if mined is not None and found is None:
                continue
            known = set(task.relevance.get(query.id, ()))
            self.queries.append(i)
            self._relevant[i] = tuple(place for one in sorted(known) if (place := places.get(one)) is not None)
            if not self._relevant[i]:
                raise ValueError(f"{task.name}: query {query.id!r} has no positive in the pool; leave it out")
            if found is not None:
                chosen = dict.fromkeys((*found.hard[:hard], *found.random[:random]))
                self._stored[i] = tuple(places[one] for one in chosen if one not in known)
                if not self._stored[i]:
                    raise ValueError(
                        f"{task.name}: query {query.id!r} has no negative left among its mined ones: mine again, from "
                        "a larger pool"
                    )
        if not self.queries:
            raise ValueError(f"the mined negatives are of other queries than those of {task.name}")
        if batch_size > len(self.queries):
            raise ValueError(f"batch_size is {batch_size}, but there are only {len(self.queries)} training queries")
        self.num_short = sum(len(one) < hard + random for one in self._stored.values())
        if self._stored and self.num_short == len(self.queries):
            raise ValueError(
                f"{hard} hard and {random} random negatives are asked for, but every query was mined fewer, at most "
                f"{max(map(len, self._stored.values()))} in all: mine more, or ask for fewer"
            )
        if mined is None and len(task.candidates) < random + max(map(len, self._relevant.values())):
            raise ValueError(
                f"{task.name} has {len(task.candidates)} candidates, too few for {random} random negatives beside the "
                "positives: ask for fewer"
            )
        self._last_order: tuple[int, np.ndarray] | None = None

    @property
    def num_queries(self) -> int:
        """Queries in an epoch."""
        return len(self.queries)

    @property
    def most_candidates(self) -> int:
        """Of one batch at most."""
        drawn = 0 if self._stored else self._random
        return self._batch_size * (self._positives + max(drawn, max(map(len, self._stored.values()), default=0)))

    def batch(self, step: int) -> list[RankingExample]:
        """Batch number ``step``, from 0."""
        first = step * self._batch_size
        return [self._example(*divmod(place, self.num_queries)) for place in range(first, first + self._batch_size)]

    def _example(self, epoch: int, place: int) -> RankingExample:
        query = self.queries[int(self._order(epoch)[place])]
        rng = np.random.default_rng([self._seed, 1, epoch, query])
        relevant = self._relevant[query]
        drawn = rng.permutation(len(relevant))[: self._positives]
        negatives = self._stored.get(query)
        if negatives is None:
            pool = len(self.task.candidates)
            wanted = min(pool, self._random + len(relevant))
            places = (int(one) for one in rng.choice(pool, wanted, replace=False))
            negatives = tuple(one for one in places if one not in relevant)[: self._random]
        return RankingExample(query, tuple(relevant[int(i)] for i in drawn), negatives)

    def _order(self, epoch: int) -> np.ndarray:
        if self._last_order is None or self._last_order[0] != epoch:
            order = np.random.default_rng([self._seed, 0, epoch]).permutation(self.num_queries)
            self._last_order = epoch, order
        return self._last_order[1]
