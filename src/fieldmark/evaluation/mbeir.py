"""M-BEIR's table (UniIR, arXiv 2311.17136): 16 rows of data set × task, each with its official metric and two pools.

Recall@K is hit@K: any positive counts. The official K is 10 for Fashion200K and FashionIQ, 5 elsewhere. The *local*
pool is the task's own; the *global* one is the union of all, and is embedded once: local pools are parts of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.multimodal.mbeir import open_mbeir_task, open_pool
from fieldmark.data.multimodal.mbeir_layout import (
    OFFICIAL,
    TASKS,
    Pool,
    Split,
    TaskName,
    find_tasks,
    global_pool_file,
)
from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.embedding import Encoder, EncodingConfig, encode_all
from fieldmark.evaluation.ranking import RankingMetrics, index_relevance, places_of, ranking_metrics, self_matches
from fieldmark.evaluation.retrieval import Interval

Absent = Literal["error", "count"]

_KS = (1, 5, 10)
_SHORT = {
    "visualnews": "VN",
    "fashion200k": "F200K",
    "webqa": "WebQA",
    "edis": "EDIS",
    "nights": "NIGHTS",
    "oven": "OVEN",
    "infoseek": "InfoS",
    "fashioniq": "FIQ",
    "cirr": "CIRR",
    "mscoco": "COCO",
}
_LETTERS = {"text": "t", "image": "i", "image,text": "i,t"}


@dataclass(frozen=True)
class MbeirConfig:
    """What is evaluated."""

    root: str = ""
    """Folder in M-BEIR's layout."""
    tasks: tuple[str, ...] = ()
    """Such as cirr_task7. Not given: all that lie in the folder."""
    split: Split = "test"
    """test or val."""
    pools: tuple[Pool, ...] = ("local", "global")
    """Where queries are searched: local (the task's own pool), global (the union of all), or both."""
    absent: Absent = "error"
    """Relevant candidates that are in no pool: an error, or counted as never found, as the official evaluation does."""
    chunk_size: int = 1024
    """Queries scored at a time."""

    def __post_init__(self) -> None:
        if not self.pools or not set(self.pools) <= {"local", "global"} or len(set(self.pools)) < len(self.pools):
            raise ValueError(f"pools must be local, global or both, got {self.pools}")


@dataclass(frozen=True, eq=False)
class MbeirRow:
    """One task in one pool."""

    name: TaskName
    pool: Pool
    num_candidates: int
    metrics: RankingMetrics
    interval: Interval
    """Of the official metric, by bootstrap over queries."""

    @property
    def score(self) -> float:
        """The official Recall@K, a share."""
        return self.interval.mean

    def as_json(self) -> dict[str, Any]:
        return {
            "task": str(self.name),
            "direction": direction(self.name),
            "pool": self.pool,
            "metric": f"recall_at_{self.name.cutoff}",
            "score": self.score,
            "interval": [self.interval.low, self.interval.high],
            **{f"recall_at_{k}": value for k, value in self.metrics.recall_at_k.items()},
            "mrr": self.metrics.mrr,
            "num_queries": self.metrics.num_queries,
            "num_candidates": self.num_candidates,
            "num_never_found": int((self.metrics.first_hit == 0).sum()),
        }


@dataclass(frozen=True, eq=False)
class MbeirTable:
    """All rows, and what the embedder had to be helped with."""

    rows: tuple[MbeirRow, ...]
    num_embedded: int
    num_forced: int
    """Embeddings whose summary had to be ended."""
    num_cut: int
    """Texts that were cut at the embedder's limit."""
    notes: tuple[str, ...]
    """What reading found and left out."""

    def average(self, pool: Pool) -> float:
        """Mean of the official metric over the rows of a pool; NaN if there are none."""
        scores = [row.score for row in self.rows if row.pool == pool]
        return float(np.mean(scores)) if scores else float("nan")

    def is_complete(self, pool: Pool) -> bool:
        """Whether the average is the published one: of exactly the 16 official rows."""
        return {row.name for row in self.rows if row.pool == pool} == set(OFFICIAL)

    def as_json(self) -> dict[str, Any]:
        """Shares; `average` by pool."""
        pools: list[Pool] = list(dict.fromkeys(row.pool for row in self.rows))
        return {
            "average": {pool: self.average(pool) for pool in pools},
            "all_16_rows": {pool: self.is_complete(pool) for pool in pools},
            "rows": [row.as_json() for row in self.rows],
            "num_embedded": self.num_embedded,
            "num_forced": self.num_forced,
            "num_cut": self.num_cut,
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """In the layout of the published tables: tasks side by side under what they search for what, percent."""
        names = list(dict.fromkeys(row.name for row in self.rows))
        heads = [(direction(name), _short(name), name) for name in names]
        width = max(8, *(len(short) + 1 for _, short, _ in heads))
        groups: list[tuple[str, int]] = []
        for head, _, _ in heads:
            same = groups and groups[-1][0] == head
            groups = [*groups[:-1], (head, groups[-1][1] + 1)] if same else [*groups, (head, 1)]
        lines = [
            " " * 8 + "".join(f"{head:>{width * count}}" for head, count in groups),
            " " * 8 + "".join(f"{short:>{width}}" for _, short, _ in heads) + f"{'Avg.':>{width}}",
            " " * 8 + "".join(f"{f'R@{name.cutoff}':>{width}}" for _, _, name in heads),
        ]
        for pool in dict.fromkeys(row.pool for row in self.rows):
            found = {row.name: row.score for row in self.rows if row.pool == pool}
            cells = "".join(f"{100 * found[name]:>{width}.1f}" for name in names)
            lines.append(f"{pool:<8}{cells}{100 * self.average(pool):>{width}.1f}")
        if not all(self.is_complete(row.pool) for row in self.rows):
            lines.append(f"Avg. is over {len(names)} tasks, not over the 16 of the published tables.")
        return "\n".join((*lines, *self.notes))


def direction(name: TaskName) -> str:
    """What searches what: "i,t→i"."""
    asked, wanted = TASKS[name.task]
    return f"{_LETTERS[asked]}→{_LETTERS[wanted]}"


def evaluate_mbeir(
    encoder: Encoder,
    config: MbeirConfig,
    encoding: EncodingConfig,
    generator: np.random.Generator,
    say: Callable[[str], None] = lambda _: None,
) -> MbeirTable:
    """Embed and rank everything.

    A candidate of the local pool that is the query's own picture (and text) is not searched, in neither pool.

    Args:
        generator: of the bootstrap.
        say: told what is being done.

    Raises:
        ValueError: see `fieldmark.data.multimodal.mbeir`; or a local pool that is no part of the global one.
    """
    if not config.root:
        raise ValueError("no data given: set root to a folder in M-BEIR's layout")
    root = Path(config.root)
    names = tuple(map(TaskName.parse, config.tasks)) or find_tasks(root, config.split)
    opened = [(name, *open_mbeir_task(root, name, config.split, absent=config.absent)) for name in names]
    notes = [note for _, _, found in opened for note in found.notes]
    counts = np.zeros(3, dtype=np.int64)

    def embed(what: str, sources: Sequence[Item] | Sequence[Query]) -> Tensor:
        say(f"embedding {len(sources)} {what}")
        embedded = encode_all(encoder, sources, encoding)
        counts[:] += (len(sources), embedded.num_forced, embedded.num_cut)
        return embedded.embeddings

    union, union_places = None, {}
    if "global" in config.pools:
        path = global_pool_file(root, config.split)
        candidates = open_pool(root, path)
        union_places = places_of(path.name, "candidate", (one.id for one in candidates))
        union = embed("candidates of the global pool", candidates)
    rows = []
    for name, task, _ in opened:
        queries = embed(f"queries of {name}", task.queries)
        places = places_of(str(name), "candidate", (one.id for one in task.candidates))
        hidden = _self_matches(task, places)
        if union is None:
            pool = embed(f"candidates of {name}", task.candidates)
        else:
            into_union = _part_of(str(name), places, union_places)
            pool = union[torch.from_numpy(into_union)]
        if "local" in config.pools:
            rows.append(_row(name, "local", task, queries, pool, places, hidden, config, generator))
        if union is not None:
            hidden = hidden[0], into_union[hidden[1]]
            rows.append(_row(name, "global", task, queries, union, union_places, hidden, config, generator))
    ordered = sorted(rows, key=lambda row: config.pools.index(row.pool))
    return MbeirTable(tuple(ordered), int(counts[0]), int(counts[1]), int(counts[2]), tuple(notes))


def _row(
    name: TaskName,
    pool: Pool,
    task: RetrievalTask,
    queries: Tensor,
    candidates: Tensor,
    places: Mapping[str, int],
    hidden: tuple[np.ndarray, np.ndarray],
    config: MbeirConfig,
    generator: np.random.Generator,
) -> MbeirRow:
    ids = (query.id for query in task.queries)
    relevance = index_relevance(f"{name}, {pool} pool", ids, places, task.relevance, absent=config.absent)
    ks = sorted({*_KS, task.cutoff})
    metrics = ranking_metrics(
        queries, candidates, relevance, ks=ks, excluded=hidden, normalised=True, chunk_size=config.chunk_size
    )
    interval = metrics.interval(f"recall_at_{task.cutoff}", generator)
    return MbeirRow(name, pool, len(candidates), metrics, interval)


def _self_matches(task: RetrievalTask, places: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = (query.id for query in task.queries)
    relevance = index_relevance(task.name, ids, places, task.relevance, absent="count")
    return self_matches(task.queries, task.candidates, relevance)


def _part_of(name: str, places: Mapping[str, int], union: Mapping[str, int]) -> np.ndarray:
    """(m,) int64, where the local candidates stand in the global pool."""
    missing = [one for one in places if one not in union]
    if missing:
        raise ValueError(
            f"{len(missing)} candidates of {name} are not in the global pool (first: {missing[0]!r}): it is no union "
            "of the local pools. Evaluate with --pools '[local]'"
        )
    return np.array([union[one] for one in places], dtype=np.int64)


def _short(name: TaskName) -> str:
    return _SHORT.get(name.dataset, name.dataset)
