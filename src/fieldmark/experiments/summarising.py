"""`fieldmark data summaries`: summaries of training queries and candidates, to be rehearsed later.

An embedder writes them, or they are read off a collection that lists its grains (``annotated``).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from fieldmark.data.contrastive_batches import Chosen
from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.data.summaries import KnownSummary, summary_lines
from fieldmark.evaluation.embedding import EncodingConfig, Progress, encode_all
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.embedder_model import asked_config, embedder_folder
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task
from fieldmark.training.run_folder import write_text

_Source = TypeVar("_Source", Query, Item)


@dataclass(frozen=True)
class WritingConfig:
    """How the model is asked: as it will be in training. What is not given is as the embedder was saved, else the
    default."""

    generative_prompt: str | None = None
    """Behind the picture; {text}, {instruction}: the request's, {content}: "image", "sentence" or both."""
    max_new_tokens: int | None = None
    """Most tokens of a summary."""
    max_text_tokens: int | None = None
    """A text is cut after so many tokens."""
    image_size: int | None = None
    """Side in pixels to which pictures are resized."""


@dataclass(frozen=True)
class SummariesConfig:
    """Who writes about what.

    Raises:
        ValueError: a number below 0, or both are 0.
    """

    embedder: str = ""
    """A run, a saved embedder, a peft adapter or a whole model: before it is trained to embed."""
    annotated: bool = False
    """Without a model, from a collection that lists grains: a query's are its summary, and a candidate's are those of a
    query that it answers."""
    drafts: int = 1
    """annotated only: summaries of each. Each has the grains in another order, and of a candidate perhaps another
    query's."""
    out: str = ""
    """JSONL file to write."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    prompts: WritingConfig = field(default_factory=WritingConfig)
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
        if self.annotated and self.embedder:
            raise ValueError("annotated summaries need no model: leave --embedder out, or --annotated")
        if self.drafts < 1 or (self.drafts > 1 and not self.annotated):
            raise ValueError(f"drafts are of --annotated, and at least 1, got {self.drafts}: a model writes greedily")


@dataclass(frozen=True)
class WrittenSummaries:
    """What was written. empty: summaries without a word, left out; of annotated ones, queries and candidates without
    grains. forced: kept ones that had spent the budget, or ended the model's turn, without [RET]."""

    file: Path
    written: int
    empty: int
    forced: int
    annotated: bool = False

    def as_text(self) -> str:
        """For people."""
        if self.annotated:
            return f"{self.written} summaries in {self.file}; of {self.empty} more no grains are known"
        return (
            f"{self.written} summaries in {self.file}; {self.forced} of them did not end in [RET], {self.empty} more "
            "were empty and are left out"
        )


def write_summaries(config: SummariesConfig, progress: Progress | None = None) -> WrittenSummaries:
    """Greedy summaries, or annotated ones, written at once when all are there.

    Raises:
        ValueError: no embedder, data or file given, the file exists, or nothing but empty summaries; without an
            embedder, no query lists grains.
    """
    if not (config.embedder or config.annotated) or not config.out:
        raise ValueError("set --embedder to the model that writes (or --annotated), and --out to the file")
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out, or remove it")
    task = load_training_task(config.data)
    rng = np.random.default_rng(config.seed)
    queries, candidates = _drawn(task.queries, config.queries, rng), _drawn(task.candidates, config.candidates, rng)
    if config.annotated:
        found, empty = _annotated(task, queries, candidates, config.drafts, rng)
        forced = 0
        if not found:
            raise ValueError(f"{task.name} lists no grains of its queries: let a model write, with --embedder")
    else:
        found, empty, forced = _written(config, queries, candidates, progress)
        if not found:
            raise ValueError(
                f"{config.embedder} wrote {empty} summaries without a word: it cannot be rehearsed from them"
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, summary_lines(found))
    return WrittenSummaries(out, len(found), empty, forced, config.annotated)


def _written(
    config: SummariesConfig, queries: Sequence[Query], candidates: Sequence[Item], progress: Progress | None
) -> tuple[list[KnownSummary], int, int]:
    """A model's, greedily; how many were empty, how many forced."""
    folder = embedder_folder(config.embedder)
    asked = asked_config(folder, mode="generative", **asdict(config.prompts))
    model = load_embedder(folder, config=asked, dtype=config.dtype, device=config.device)
    found: list[KnownSummary] = []
    empty = forced = 0
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
    return found, empty, forced


def _annotated(
    task: RetrievalTask, queries: Sequence[Query], candidates: Sequence[Item], drafts: int, rng: np.random.Generator
) -> tuple[list[KnownSummary], int]:
    """From grains; how many queries and candidates have none. A summary that is drawn twice is written once."""
    answers: dict[str, list[tuple[str, ...]]] = {}
    for query in task.queries:
        for candidate in task.relevance[query.id] if query.grains else ():
            answers.setdefault(candidate, []).append(query.grains)
    known: list[tuple[Literal["query", "candidate"], str, list[tuple[str, ...]]]]
    known = [("query", one.id, [one.grains] if one.grains else []) for one in queries]
    for one in candidates:
        choices = [true for grains in answers.get(one.id, ()) if (true := _true(one, grains))]
        known.append(("candidate", one.id, choices))
    drawn: dict[KnownSummary, None] = {}
    for kind, id, choices in known:
        for _ in range(drafts if choices else 0):
            grains = choices[rng.integers(len(choices))]
            drawn[KnownSummary(kind, id, ", ".join(grains[i] for i in rng.permutation(len(grains))))] = None
    return list(drawn), sum(not choices for _, _, choices in known)


def _true(candidate: Item, grains: tuple[str, ...]) -> tuple[str, ...]:
    """Grains of a query that it answers: all, unless it lists facts and some are not among them."""
    return tuple(grain for grain in grains if not candidate.facts or grain in candidate.facts)


def _drawn(sources: Sequence[_Source], count: int, rng: np.random.Generator) -> Sequence[_Source]:
    return Chosen(sources, np.sort(rng.permutation(len(sources))[:count]))
