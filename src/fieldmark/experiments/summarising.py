"""`fieldmark data summaries`: what an embedder writes about training queries and candidates, to be rehearsed later."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fieldmark.data.contrastive_batches import Chosen
from fieldmark.data.retrieval import Item, Query
from fieldmark.data.summaries import KnownSummary, summary_lines
from fieldmark.evaluation.embedding import EncodingConfig, Progress, encode_all
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.embedder_model import embedder_folder
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task
from fieldmark.training.run_folder import write_text

_Source = TypeVar("_Source", Query, Item)


@dataclass(frozen=True)
class SummariesConfig:
    """Who writes about what.

    Raises:
        ValueError: a number below 0, or both are 0.
    """

    embedder: str = ""
    """A run, a saved embedder, a peft adapter or a whole model: before it is trained to embed."""
    out: str = ""
    """JSONL file to write."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    prompts: EmbedderConfig = field(default_factory=lambda: EmbedderConfig(mode="generative"))
    """How it is asked: as it will be in training."""
    queries: int = 4000
    """Training queries that are summed up, drawn at random; all, if there are fewer."""
    candidates: int = 2000
    """Candidates, in the same way."""
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    seed: int = 0
    """Of the draw."""
    dtype: str = "float32"
    """Weights and activations."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        if min(self.queries, self.candidates) < 0 or not self.queries + self.candidates:
            raise ValueError(f"need queries or candidates to sum up, got {self.queries} and {self.candidates}")
        if self.prompts.mode != "generative":
            raise ValueError("summaries are written in generative mode: set prompts.mode to generative")


@dataclass(frozen=True)
class WrittenSummaries:
    """What was written. empty: summaries without a word, left out. forced: kept ones that had spent the budget, or
    ended the model's turn, without [RET]."""

    file: Path
    written: int
    empty: int
    forced: int

    def as_text(self) -> str:
        """For people."""
        return (
            f"{self.written} summaries in {self.file}; {self.forced} of them did not end in [RET], {self.empty} more "
            "were empty and are left out"
        )


def write_summaries(config: SummariesConfig, progress: Progress | None = None) -> WrittenSummaries:
    """Greedy summaries, written at once when all are there.

    Raises:
        ValueError: no embedder, data or file given, the file exists, or nothing but empty summaries.
    """
    if not config.embedder or not config.out:
        raise ValueError("set --embedder to the model that writes, and --out to the file")
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out, or remove it")
    task = load_training_task(config.data)
    model = load_embedder(
        embedder_folder(config.embedder), config=config.prompts, dtype=config.dtype, device=config.device
    )
    rng = np.random.default_rng(config.seed)
    found: list[KnownSummary] = []
    empty = forced = 0
    queries, candidates = _drawn(task.queries, config.queries, rng), _drawn(task.candidates, config.candidates, rng)
    chosen: list[tuple[Literal["query", "candidate"], Sequence[Query] | Sequence[Item]]] = [
        ("query", queries),
        ("candidate", candidates),
    ]
    for kind, sources in chosen:
        if not sources:
            continue
        written = encode_all(model, sources, config.encoding, progress)
        for i, (summary, was_forced) in enumerate(zip(written.summaries, written.forced, strict=True)):
            if summary:
                found.append(KnownSummary(kind, sources[i].id, summary))
                forced += was_forced
            else:
                empty += 1
    if not found:
        raise ValueError(f"{config.embedder} wrote {empty} summaries without a word: it cannot be rehearsed from them")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, summary_lines(found))
    return WrittenSummaries(out, len(found), empty, forced)


def _drawn(sources: Sequence[_Source], count: int, rng: np.random.Generator) -> Sequence[_Source]:
    return Chosen(sources, np.sort(rng.permutation(len(sources))[:count]))
