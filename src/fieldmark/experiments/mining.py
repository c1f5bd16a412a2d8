"""`fieldmark data mine`: negatives for training queries, with a trained embedder (ELVA, arXiv 2606.20280)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fieldmark.data.contrastive_batches import CandidatePlaces, Chosen
from fieldmark.data.mined_negatives import QueryNegatives, write_mined
from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.hard_negatives import find_hard_negatives
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.training.embedder_model import embedder_folder
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task
from fieldmark.training.run_folder import to_plain, versions

_BLOCK = 2048
"""Requests that are embedded, and queries that are searched, at a time."""


@dataclass(frozen=True)
class MiningConfig:
    """Which negatives are looked for.

    Raises:
        ValueError: a number out of range.
    """

    embedder: str = ""
    """Folder of a run of `fieldmark train contrastive`; or of a saved embedder, a peft adapter or a whole model."""
    out: str = ""
    """Folder to write. Not given: "mined" in the run's folder."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    queries: int = 0
    """Mine for so many training queries, drawn at random; 0 takes all."""
    hard: int = 50
    """Nearest candidates that are taken for each query, after those that are passed over."""
    random: int = 50
    """Candidates drawn uniformly from the pool for each query, other than its positives and hard negatives."""
    threshold: float | None = 0.9
    """Candidates whose cosine to the query is above it may be right without anyone having said so: they are passed
    over. null passes over known positives only. The publication does not print its value."""
    seed: int = 0
    """Draws queries and random negatives."""
    batch_size: int = 32
    """Requests embedded at a time."""
    dtype: str = "float32"
    """Weights and activations; "auto" takes bfloat16 where the processor has instructions for it."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        if self.hard < 1 or self.random < 0 or self.queries < 0 or self.batch_size < 1:
            raise ValueError(
                "mining needs hard and batch_size of at least 1, random and queries of at least 0, got "
                f"{self.hard}, {self.batch_size}, {self.random}, {self.queries}"
            )


@dataclass(frozen=True)
class MiningReport:
    """What mining came to. passed_over: candidates above the threshold, mean over queries. short: queries with fewer
    hard negatives than asked for. lowest: cosine of the last hard negative, mean over queries."""

    folder: Path
    queries: int
    candidates: int
    passed_over: float
    short: int
    lowest: float

    def as_text(self) -> str:
        """For people."""
        short = f"; {self.short} queries have fewer, the pool has no more" if self.short else ""
        return (
            f"{self.queries} queries, {self.candidates} candidates: {self.passed_over:.1f} candidates a query above "
            f"the threshold, cosine of the last hard negative {self.lowest:.3f}{short}\nmined negatives: {self.folder}"
        )


def mine_negatives(config: MiningConfig, model: UniversalEmbedder | None = None) -> MiningReport:
    """Embed queries and pool, search exactly, write the folder (whole or not at all).

    Holds all candidates' embeddings in memory: 4 bytes × pool × width.

    Args:
        model: the embedder, if it is loaded already, or is to be asked in another way than it was saved with.

    Raises:
        ValueError: no embedder or data, or the folder exists.
    """
    if not config.embedder:
        raise ValueError("no embedder given: set --embedder to the folder of a run or of a saved embedder")
    source = embedder_folder(config.embedder)
    if not config.out and source == config.embedder:
        raise ValueError(f"{source} is no run of ours: say with --out which folder to write")
    folder = Path(config.out or Path(config.embedder) / "mined")
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose another --out, or remove it")
    task = load_training_task(config.data)
    if config.queries:
        chosen = np.random.default_rng([config.seed, 0]).permutation(len(task.queries))[: config.queries]
        queries: Sequence[Query] = Chosen(task.queries, np.sort(chosen))
    else:
        queries = task.queries
    if model is None:
        model = load_embedder(source, dtype=config.dtype, device=config.device)
    pool = _embed(model, (Request(one) for one in task.candidates), len(task.candidates), config, "candidates")
    found = _Figures()
    about: dict[str, Any] = {
        "embedder": {"path": source, "fingerprint": model.fingerprint()},
        "config": to_plain(config),
        "task": task.name,
        "candidates": len(task.candidates),
        "versions": versions(),
    }
    write_mined(folder, about, _mine(config, task, queries, pool, model, found))
    return MiningReport(
        folder, found.queries, len(pool), found.passed_over / found.queries, found.short, found.lowest / found.queries
    )


@dataclass
class _Figures:
    queries: int = 0
    passed_over: int = 0
    short: int = 0
    lowest: float = 0.0


def _mine(
    config: MiningConfig,
    task: RetrievalTask,
    queries: Sequence[Query],
    pool: Tensor,
    model: UniversalEmbedder,
    figures: _Figures,
) -> Iterator[QueryNegatives]:
    """The negatives of each query, once: training files repeat some."""
    places = CandidatePlaces(task)
    contents = np.fromiter((_content(one) for one in task.candidates), dtype=np.int64, count=len(task.candidates))
    order = np.argsort(contents, kind="stable")
    done: set[str] = set()
    for start in range(0, len(queries), _BLOCK):
        block: list[Query] = []
        for query in (queries[i] for i in range(start, min(start + _BLOCK, len(queries)))):
            if query.id not in done:
                done.add(query.id)
                block.append(query)
        if not block:
            continue
        known = [_known(query, task, places, contents, order) for query in block]
        asked = (Request(query.item, query.instruction) for query in block)
        rows = _embed(model, asked, len(block), config, f"queries from {start}")
        nearest = find_hard_negatives(rows, pool, known, config.hard, config.threshold)
        for query, right, hard in zip(block, known, nearest.candidates, strict=True):
            drawn = _random(config, query, len(pool), {*right, *hard.tolist()})
            yield QueryNegatives(
                query.id,
                tuple(task.candidates[int(i)].id for i in hard),
                tuple(task.candidates[i].id for i in drawn),
            )
        figures.queries += len(block)
        figures.passed_over += int(nearest.removed.sum())
        figures.short += sum(len(hard) < config.hard for hard in nearest.candidates)
        figures.lowest += float(np.nansum(nearest.lowest))


def _known(
    query: Query, task: RetrievalTask, places: CandidatePlaces, contents: np.ndarray, order: np.ndarray
) -> list[int]:
    """Candidates that are right, and those that are the query's own text and picture."""
    right = [place for one in task.relevance.get(query.id, ()) if (place := places.get(one)) is not None]
    wanted = np.int64(_content(query.item))
    first, last = (int(np.searchsorted(contents, wanted, side, sorter=order)) for side in ("left", "right"))
    return right + order[first:last].tolist()


def _random(config: MiningConfig, query: Query, pool: int, taken: set[int]) -> list[int]:
    """Drawn uniformly, each once; a function of the seed and the query."""
    rng = np.random.default_rng([config.seed, 1, *query.id.encode()])
    wanted = min(config.random, pool - len(taken))
    drawn: dict[int, None] = {}
    while len(drawn) < wanted:
        for place in rng.integers(pool, size=2 * config.random).tolist():
            if place not in taken and len(drawn) < wanted:
                drawn[place] = None
    return list(drawn)


def _content(item: Item) -> int:
    """Equal for items of one text and picture; differs from one run of Python to the next."""
    return hash((item.text or "", item.image))


def _embed(
    model: UniversalEmbedder, requests: Iterator[Request], count: int, config: MiningConfig, what: str
) -> Tensor:
    """(count, D) float32 on the device."""
    parts = []
    with tqdm(total=count, unit="item", desc=f"embedding {what}", disable=None) as bar:
        while block := [request for _, request in zip(range(_BLOCK), requests, strict=False)]:
            parts.append(model.encode(block, batch_size=config.batch_size).embeddings)
            bar.update(len(block))
    return torch.cat(parts).to(config.device)
