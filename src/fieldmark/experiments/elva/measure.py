"""What an embedder is measured by on a collection whose grains are known: ELVA's figures, all from `evaluation`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.contrastive_batches import Chosen
from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import TASKS, Split, TaskName, find_tasks
from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.embedding import EncodingConfig, encode_all
from fieldmark.evaluation.grains import (
    GrainCompliance,
    GrainSensitivity,
    NotMeasurable,
    grain_compliance,
    grain_sensitivity,
)
from fieldmark.evaluation.mbeir import MbeirConfig, evaluate_mbeir
from fieldmark.evaluation.mrbench import CUTOFF, MrbenchConfig, MrbenchResult, evaluate_mrbench
from fieldmark.evaluation.ranking import index_relevance, ranking_metrics, self_matches
from fieldmark.evaluation.retrieval import Interval, bootstrap_interval
from fieldmark.evaluation.summary_truth import SummaryTruth, summary_truth
from fieldmark.models.embedding_cache import EmbeddingCache
from fieldmark.models.embedding_prompts import Mode
from fieldmark.models.universal_embedder import Embedded, UniversalEmbedder

TEXT_TO_IMAGE = ("text", "image")
CANDIDATES = "candidates"
"""Key of the pools' figures, beside those of the tasks' queries."""


@dataclass(frozen=True)
class Recall:
    """Recall@5 (hit@5) of so many queries, with its bootstrap interval over queries. Shares."""

    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class EmbeddingCost:
    """What embedding came to.

    Attributes:
        requests: embedded, each once: the queries of all tasks, or the distinct candidates of all pools.
        seconds: wall time, pictures decoded in it.
        tokens: of a summary, [RET] included, mean; None in one-word mode.
        forced: share of summaries that did not end by themselves; None in one-word mode.
    """

    requests: int
    seconds: float
    tokens: float | None
    forced: float | None


@dataclass(frozen=True, eq=False)
class ElvaFigures:
    """One embedder on one collection.

    Attributes:
        mode: one_word or generative.
        recall: Recall@5 by task ("fieldguide_task0"), in its own pool.
        by_grains: Recall@5 of the text → image queries that have so many grains.
        single_grain, multi_grain: of those with one grain, and with two and more; None if there are none.
        hits: per text → image query with grains, 1 if it was found; in the tasks' order, for paired comparisons.
        multi_grain_hits: of these, the queries of two grains and more.
        sensitivity: of the text → image queries; None where it cannot be measured.
        compliance: of the text → image queries, with the order of near misses; None where it cannot be measured.
        truth: how true the summaries are, by task and of the candidates; empty in one-word mode.
        queries, candidates: what embedding them cost.
        mrbench: the multi-grain benchmark, if one was given.
    """

    mode: Mode
    recall: Mapping[str, Recall]
    by_grains: Mapping[int, Recall]
    single_grain: Recall | None
    multi_grain: Recall | None
    hits: np.ndarray
    multi_grain_hits: np.ndarray
    sensitivity: GrainSensitivity | None
    compliance: GrainCompliance | None
    truth: Mapping[str, SummaryTruth]
    queries: EmbeddingCost
    candidates: EmbeddingCost
    mrbench: MrbenchResult | None

    @property
    def average(self) -> float:
        """Mean of Recall@5 over the tasks."""
        return float(np.mean([one.mean for one in self.recall.values()]))

    def as_json(self) -> dict[str, Any]:
        """Shares, seconds, and None for what could not be measured."""
        one = self
        return {
            "mode": one.mode,
            "average": one.average,
            "recall": {name: asdict(found) for name, found in one.recall.items()},
            "by_grains": {str(count): asdict(found) for count, found in one.by_grains.items()},
            "single_grain": None if one.single_grain is None else asdict(one.single_grain),
            "multi_grain": None if one.multi_grain is None else asdict(one.multi_grain),
            "multi_grain_hits": one.multi_grain_hits.astype(int).tolist(),
            "sensitivity": None if one.sensitivity is None else one.sensitivity.as_json(),
            "compliance": None if one.compliance is None else one.compliance.as_json(),
            "truth": {name: found.as_json() for name, found in one.truth.items()},
            "queries": asdict(one.queries),
            "candidates": asdict(one.candidates),
            "mrbench": None if one.mrbench is None else one.mrbench.as_json(),
        }


@dataclass(frozen=True, eq=False)
class _EmbeddedTask:
    """A task with its queries and its own pool embedded, float32 (n, D) and (m, D)."""

    name: TaskName
    task: RetrievalTask
    queries: Embedded
    pool: Tensor


def measure_embedder(
    model: UniversalEmbedder,
    root: Path | str,
    split: Split = "test",
    *,
    benchmark: Path | str | None = None,
    most_queries: int | None = None,
    encoding: EncodingConfig | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> ElvaFigures:
    """Embed every query and candidate of a collection once, in the model's mode, and measure.

    Args:
        root: folder in M-BEIR's layout with grains and facts, such as `fieldmark data fieldguide --as mbeir` writes.
        benchmark: JSONL of `fieldmark data mrbench` about this collection.
        most_queries: of each task at most, drawn at random; the pools stay whole.
        seed: of the bootstrap, and of the queries that are drawn.
        say: told what is being done.

    Raises:
        ValueError: see `fieldmark.data.multimodal.mbeir` and `evaluate_mrbench`.
    """
    root, how = Path(root), encoding or EncodingConfig()
    generator = np.random.default_rng(seed)
    opened = {
        name: _some_queries(open_mbeir_task(root, name, split)[0], most_queries, seed)
        for name in find_tasks(root, split)
    }
    with _remembering(model):
        distinct = {one.id: one for task in opened.values() for one in task.candidates}
        say(f"embedding {len(distinct)} candidates")
        pool, candidate_cost = _timed(model, list(distinct.values()), how)
        row = {one: i for i, one in enumerate(distinct)}
        tasks, query_costs = [], []
        for name, task in opened.items():
            say(f"embedding {len(task.queries)} queries of {name}")
            queries, cost = _timed(model, task.queries, how)
            own = torch.tensor([row[one.id] for one in task.candidates])
            tasks.append(_EmbeddedTask(name, task, queries, pool.embeddings[own]))
            query_costs.append(cost)
        found = [_ranked(one, generator) for one in tasks]
        texts = [(one, hits) for one, (_, hits) in zip(tasks, found, strict=True) if _asks_in_words(one)]
        grains = np.array([len(query.grains) for one, _ in texts for query in one.task.queries], dtype=np.int64)
        hits = np.concatenate([hits for _, hits in texts]) if texts else np.zeros(0)
        levels = [int(count) for count in np.unique(grains) if count > 0]
        sensitivity, compliance = _heard(model, [one for one, _ in texts], how, generator, say)
        mrbench = None
        if benchmark is not None:
            config = MrbenchConfig(str(benchmark), str(root), split, sensitivity=False)
            mrbench = evaluate_mrbench(model, config, how, generator)
    return ElvaFigures(
        mode=model.config.mode,
        recall={str(one.name): recall for one, (recall, _) in zip(tasks, found, strict=True)},
        by_grains={count: _recall(hits[grains == count], generator) for count in levels},
        single_grain=_recall_or_none(hits[grains == 1], generator),
        multi_grain=_recall_or_none(hits[grains > 1], generator),
        hits=hits[grains > 0],
        multi_grain_hits=hits[grains > 1],
        sensitivity=sensitivity,
        compliance=compliance,
        truth=_truth(tasks, list(distinct.values()), pool) if model.config.mode == "generative" else {},
        queries=_together(query_costs),
        candidates=candidate_cost,
        mrbench=mrbench,
    )


def measure_mbeir(
    model: UniversalEmbedder,
    root: Path | str,
    *,
    benchmark: Path | str | None = None,
    encoding: EncodingConfig | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """M-BEIR's test table in the local pools, and the multi-grain benchmark, as JSON in the keys of `ElvaFigures`."""
    how, generator = encoding or EncodingConfig(), np.random.default_rng(seed)
    table = evaluate_mbeir(model, MbeirConfig(str(root), pools=("local",)), how, generator, say)
    mrbench = None
    if benchmark is not None:
        mrbench = evaluate_mrbench(model, MrbenchConfig(str(benchmark), str(root)), how, generator, say).as_json()
    recall = {
        str(row.name): asdict(Recall(row.score, row.interval.low, row.interval.high, row.metrics.num_queries))
        for row in table.rows
    }
    return {
        "mode": model.config.mode,
        "average": table.average("local"),
        "recall": recall,
        "mbeir": table.as_json(),
        "mrbench": mrbench,
    }


def _some_queries(task: RetrievalTask, most: int | None, seed: int) -> RetrievalTask:
    if most is None or len(task.queries) <= most:
        return task
    places = np.random.default_rng([seed, 1]).permutation(len(task.queries))[:most]
    return replace(task, queries=Chosen(task.queries, np.sort(places)))


@contextmanager
def _remembering(model: UniversalEmbedder) -> Iterator[None]:
    """Inside, nothing is embedded twice; what was known before is not used, so that seconds are those of embedding."""
    model.cache, before = EmbeddingCache(), model.cache
    try:
        yield
    finally:
        model.cache = before


def _timed(
    model: UniversalEmbedder, sources: Sequence[Item] | Sequence[Query], how: EncodingConfig
) -> tuple[Embedded, EmbeddingCost]:
    began = time.perf_counter()
    found = encode_all(model, sources, how)
    seconds = time.perf_counter() - began
    if model.config.mode == "one_word":
        return found, EmbeddingCost(len(sources), seconds, None, None)
    written = [one for one in found.summaries if one is not None]
    ids = model.backbone.tokenizer(written, add_special_tokens=False)["input_ids"]
    tokens = 1 + float(np.mean([len(one) for one in ids]))
    return found, EmbeddingCost(len(sources), seconds, tokens, found.num_forced / len(sources))


def _together(costs: Sequence[EmbeddingCost]) -> EmbeddingCost:
    """Of all tasks' queries."""
    requests = sum(one.requests for one in costs)
    means = []
    for values in ([one.tokens for one in costs], [one.forced for one in costs]):
        weighed = [value * one.requests for value, one in zip(values, costs, strict=True) if value is not None]
        means.append(sum(weighed) / requests if weighed else None)
    return EmbeddingCost(requests, sum(one.seconds for one in costs), *means)


def _asks_in_words(one: _EmbeddedTask) -> bool:
    return TASKS[one.name.task] == TEXT_TO_IMAGE


def _ranked(one: _EmbeddedTask, generator: np.random.Generator) -> tuple[Recall, np.ndarray]:
    """Recall@5 in the task's own pool, and (n,) whether each query was found."""
    ids = (query.id for query in one.task.queries), (candidate.id for candidate in one.task.candidates)
    relevance = index_relevance(one.task.name, *ids, one.task.relevance)
    hidden = self_matches(one.task.queries, one.task.candidates, relevance)
    metrics = ranking_metrics(
        one.queries.embeddings, one.pool, relevance, ks=(1, CUTOFF, 10), excluded=hidden, normalised=True
    )
    hits = metrics.per_query(f"recall_at_{CUTOFF}")
    return _recall(hits, generator), hits


def _recall(hits: np.ndarray, generator: np.random.Generator) -> Recall:
    interval: Interval = bootstrap_interval(hits, generator)
    return Recall(interval.mean, interval.low, interval.high, len(hits))


def _recall_or_none(hits: np.ndarray, generator: np.random.Generator) -> Recall | None:
    return _recall(hits, generator) if len(hits) else None


def _heard(
    model: UniversalEmbedder,
    tasks: Sequence[_EmbeddedTask],
    how: EncodingConfig,
    generator: np.random.Generator,
    say: Callable[[str], None],
) -> tuple[GrainSensitivity | None, GrainCompliance | None]:
    """Of the first text → image task: others of a collection ask for the same in other pools."""
    if not tasks:
        return None, None
    one = tasks[0]
    with_grains = [i for i, query in enumerate(one.task.queries) if query.grains]
    queries = [one.task.queries[i] for i in with_grains]
    sensitivity, compliance = None, None
    try:
        say(f"embedding queries of {one.name} again, without one grain each")
        sensitivity = grain_sensitivity(queries, lambda some: encode_all(model, some, how).embeddings, generator)
    except NotMeasurable as reason:
        say(f"no grain sensitivity: {reason}")
    try:
        rows = one.queries.embeddings[torch.tensor(with_grains, dtype=torch.int64)]
        compliance = grain_compliance(queries, rows, one.task.candidates, one.pool, generator, k=CUTOFF)
    except NotMeasurable as reason:
        say(f"no grain compliance: {reason}")
    return sensitivity, compliance


def _truth(tasks: Sequence[_EmbeddedTask], candidates: Sequence[Item], pool: Embedded) -> dict[str, SummaryTruth]:
    vocabulary = {fact for one in candidates for fact in one.facts}
    vocabulary.update(grain for one in tasks for query in one.task.queries for grain in query.grains)
    groups = {str(one.name): (one.queries.summaries, [query.grains for query in one.task.queries]) for one in tasks} | {
        CANDIDATES: (pool.summaries, [one.facts for one in candidates])
    }
    found = {}
    for name, (summaries, known) in groups.items():
        told = [(s, facts) for s, facts in zip(summaries, known, strict=True) if s is not None and facts]
        if told:
            found[name] = summary_truth([s for s, _ in told], [facts for _, facts in told], vocabulary)
    return found
