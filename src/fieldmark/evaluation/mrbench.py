"""MRBench: queries of two grains and more, scored by Recall@5 (ELVA, arXiv 2606.20280).

The published queries are not public. A benchmark here is a JSONL file of references into a collection in M-BEIR's
layout, one query a line with its grains, made by `mrbench_building` and meant to be read by people: a line whose
``keep`` is set to false is left out, and grains may be corrected.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.data.multimodal.json_lines import find_positions
from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import Split, TaskName
from fieldmark.data.retrieval import Query, RetrievalTask
from fieldmark.evaluation.embedding import Encoder, EncodingConfig, encode_all
from fieldmark.evaluation.grains import (
    GrainCompliance,
    GrainSensitivity,
    NotMeasurable,
    grain_compliance,
    grain_sensitivity,
)
from fieldmark.evaluation.ranking import RankingMetrics, index_relevance, ranking_metrics, self_matches
from fieldmark.evaluation.retrieval import Interval, bootstrap_interval

SOURCES: tuple[TaskName, ...] = tuple(
    map(TaskName.parse, ("mscoco_task0", "mscoco_task3", "nights_task4", "cirr_task7"))
)
"""The published sources: COCO t→i and i→t, NIGHTS i→i, CIRR (i,t)→i."""

CUTOFF = 5
LEAST_GRAINS = 2


@dataclass(frozen=True)
class GrainedQuery:
    """One line of a benchmark."""

    task: str
    """As cirr_task7."""
    qid: str
    text: str | None
    """The query's, for whoever reads the file; it is not read from here."""
    image: str | None
    """The same."""
    grains: tuple[str, ...]
    by: str
    """Who says so: "annotation", or the model that was asked."""
    keep: bool = True
    """Set it to false to leave the query out."""


@dataclass(frozen=True)
class MrbenchConfig:
    """What is evaluated."""

    benchmark: str = ""
    """The JSONL file that `fieldmark data mrbench` wrote."""
    root: str = ""
    """The collection that it refers to, in M-BEIR's layout."""
    split: Split = "test"
    """Whose queries these are."""
    sensitivity: bool = True
    """Also drop each grain that stands in a query's text, and measure how far the embedding moves."""
    chunk_size: int = 1024
    """Queries scored at a time."""


@dataclass(frozen=True, eq=False)
class SourceResult:
    """The benchmark's queries of one task, in that task's own pool."""

    name: TaskName
    grains: np.ndarray
    """(n,) int64, number of grains of each query."""
    metrics: RankingMetrics
    interval: Interval
    """Recall@5 with its bootstrap interval over queries."""
    num_candidates: int
    sensitivity: GrainSensitivity | None
    """None where it cannot be measured."""
    compliance: GrainCompliance | None
    """None where it cannot be measured."""
    notes: tuple[str, ...]
    """Why."""


@dataclass(frozen=True, eq=False)
class MrbenchResult:
    """Recall@5 by source and by number of grains. Shares."""

    sources: tuple[SourceResult, ...]
    by_grains: Mapping[int, tuple[Interval, int]]
    """Number of grains → Recall@5 over the queries of all sources that have so many, and how many these are."""
    pooled: Interval
    """Over all queries."""

    @property
    def average(self) -> float:
        """Mean over the sources, each counting the same, as M-BEIR's average does."""
        return float(np.mean([one.interval.mean for one in self.sources]))

    def as_json(self) -> dict[str, Any]:
        def interval(found: Interval) -> dict[str, float]:
            return {"recall_at_5": found.mean, "low": found.low, "high": found.high}

        return {
            "average": self.average,
            "all_queries": interval(self.pooled),
            "by_source": [
                {
                    "task": str(one.name),
                    **interval(one.interval),
                    "mrr": one.metrics.mrr,
                    "num_queries": one.metrics.num_queries,
                    "num_candidates": one.num_candidates,
                    "sensitivity": None if one.sensitivity is None else one.sensitivity.as_json(),
                    "compliance": None if one.compliance is None else one.compliance.as_json(),
                    "notes": list(one.notes),
                }
                for one in self.sources
            ],
            "by_grains": [
                {"grains": count, **interval(found), "num_queries": number}
                for count, (found, number) in self.by_grains.items()
            ],
        }

    def as_text(self) -> str:
        """Two tables, percent."""
        width = max(len("all queries"), *(len(str(one.name)) for one in self.sources))
        lines = [f"{'':<{width}}{'queries':>9}{'R@5':>7}{'95 % interval':>16}"]
        lines += [_line(str(one.name), width, one.metrics.num_queries, one.interval) for one in self.sources]
        total = sum(one.metrics.num_queries for one in self.sources)
        lines += [
            _line("all queries", width, total, self.pooled),
            f"average over sources: {100 * self.average:.1f}",
            "",
        ]
        lines += [f"{'grains':<{width}}{'queries':>9}{'R@5':>7}{'95 % interval':>16}"]
        lines += [_line(str(count), width, number, found) for count, (found, number) in self.by_grains.items()]
        lines.append("")
        for one in self.sources:
            if one.sensitivity is not None:
                s = one.sensitivity
                lines.append(
                    f"{one.name}: a dropped grain moves the embedding by {s.distance:.3f}, "
                    f"{100 * s.relative:.0f} % of the distance between unrelated queries"
                )
            if one.compliance is not None:
                c = one.compliance
                lines.append(
                    f"{one.name}: the {c.k} best satisfy {100 * c.satisfied:.1f} % of the grains (by chance "
                    f"{100 * c.random:.1f} %); a near miss stands before a match in {100 * c.misordered:.1f} % of pairs"
                )
            lines += one.notes
        return "\n".join(lines)


def read_mrbench(path: Path | str) -> list[GrainedQuery]:
    """The queries of a benchmark that are to be kept.

    Raises:
        ValueError: no such file, a line that is none of ours, a query that stands twice or has fewer than two grains,
            or nothing is kept.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no benchmark {path}: `fieldmark data mrbench` builds one")
    queries: dict[tuple[str, str], GrainedQuery] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            one = GrainedQuery(**found | {"grains": tuple(found["grains"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{where} is no query of a benchmark ({error}): see docs/mrbench.md") from error
        if not isinstance(one.keep, bool) or not all(isinstance(grain, str) and grain for grain in one.grains):
            raise ValueError(f"{where}: keep is true or false, and grains are texts")
        if not one.keep:
            continue
        if len(set(one.grains)) < LEAST_GRAINS:
            raise ValueError(f"{where}: a query of MRBench has at least two different grains, got {list(one.grains)}")
        if (one.task, one.qid) in queries:
            raise ValueError(f"{where}: query {one.qid!r} of {one.task} stands twice")
        queries[one.task, one.qid] = one
    if not queries:
        raise ValueError(f"{path} keeps no query")
    return list(queries.values())


def mrbench_lines(queries: Sequence[GrainedQuery]) -> str:
    """The benchmark as text, as ``read_mrbench`` reads it."""
    return "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in queries)


def evaluate_mrbench(
    encoder: Encoder,
    config: MrbenchConfig,
    encoding: EncodingConfig,
    generator: np.random.Generator,
    say: Callable[[str], None] = lambda _: None,
) -> MrbenchResult:
    """Recall@5 of every source, in its local pool.

    Args:
        generator: of the bootstrap.
        say: told what is being done.

    Raises:
        ValueError: a benchmark that cannot be read, or that does not belong to this collection.
    """
    if not config.benchmark or not config.root:
        raise ValueError("set benchmark to the JSONL of `fieldmark data mrbench`, and root to its collection")
    asked = read_mrbench(config.benchmark)
    names = sorted({TaskName.parse(one.task) for one in asked}, key=lambda n: (n not in SOURCES, n))
    sources = []
    for name in names:
        task, _ = open_mbeir_task(Path(config.root), name, config.split)
        own = [one for one in asked if one.task == str(name)]
        task = replace(task, queries=_chosen(task, own, config.benchmark))
        sources.append(_evaluate_source(name, task, encoder, config, encoding, generator, say))
    hits = np.concatenate([one.metrics.per_query(f"recall_at_{CUTOFF}") for one in sources])
    grains = np.concatenate([one.grains for one in sources])
    by_grains = {
        int(count): (bootstrap_interval(hits[grains == count], generator), int((grains == count).sum()))
        for count in np.unique(grains)
    }
    return MrbenchResult(tuple(sources), by_grains, bootstrap_interval(hits, generator))


def _chosen(task: RetrievalTask, asked: Sequence[GrainedQuery], benchmark: str) -> list[Query]:
    """The task's queries that the benchmark names, with its grains."""
    places = find_positions(task.queries, (one.qid for one in asked))
    missing = [one.qid for one in asked if one.qid not in places]
    if missing:
        raise ValueError(
            f"{benchmark} names {len(missing)} queries that {task.name} does not have (first: {missing[0]!r}): is it "
            "the collection and the split that the benchmark was built from?"
        )
    return [replace(task.queries[places[one.qid]], grains=tuple(dict.fromkeys(one.grains))) for one in asked]


def _evaluate_source(
    name: TaskName,
    task: RetrievalTask,
    encoder: Encoder,
    config: MrbenchConfig,
    encoding: EncodingConfig,
    generator: np.random.Generator,
    say: Callable[[str], None],
) -> SourceResult:
    say(f"{name}: embedding {len(task.queries)} queries and {len(task.candidates)} candidates")
    queries = encode_all(encoder, task.queries, encoding).embeddings
    candidates = encode_all(encoder, task.candidates, encoding).embeddings
    ids = ((one.id for one in task.queries), (one.id for one in task.candidates))
    relevance = index_relevance(task.name, *ids, task.relevance)
    hidden = self_matches(task.queries, task.candidates, relevance)
    metrics = ranking_metrics(
        queries,
        candidates,
        relevance,
        ks=(1, CUTOFF, 10),
        excluded=hidden,
        normalised=True,
        chunk_size=config.chunk_size,
    )
    sensitivity, compliance, notes = None, None, []
    try:
        if config.sensitivity:
            say(f"{name}: embedding its queries again, without one grain each")
            sensitivity = grain_sensitivity(
                task.queries, lambda some: encode_all(encoder, some, encoding).embeddings, generator
            )
    except NotMeasurable as reason:
        notes.append(f"{name}: no grain sensitivity: {reason}")
    try:
        compliance = grain_compliance(
            task.queries, queries, task.candidates, candidates, generator, k=CUTOFF, excluded=hidden
        )
    except NotMeasurable as reason:
        notes.append(f"{name}: no grain compliance: {reason}")
    return SourceResult(
        name=name,
        grains=np.array([len(query.grains) for query in task.queries]),
        metrics=metrics,
        interval=metrics.interval(f"recall_at_{CUTOFF}", generator),
        num_candidates=len(task.candidates),
        sensitivity=sensitivity,
        compliance=compliance,
        notes=tuple(notes),
    )


def _line(head: str, width: int, number: int, found: Interval) -> str:
    interval = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
    return f"{head:<{width}}{number:>9}{100 * found.mean:>7.1f}{interval:>16}"
