"""Multimodal retrieval as values: items to embed, queries with instructions and grains, tasks with graded relevance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

Modality = Literal["text", "image", "image,text", "video"]


@dataclass(frozen=True)
class Item:
    """Something to embed: text, a picture, both, or a video.

    Raises:
        ValueError: for an empty id, nothing to embed, or a video with a picture or text.
    """

    id: str
    text: str | None = None
    image: Path | None = None
    """Where the picture is. It is opened only when its pixels are needed."""
    video: Path | None = None
    """Where the video is: a file, or a folder of frames (`fieldmark.data.multimodal.video` samples frames)."""
    facts: tuple[str, ...] = ()
    """What is known to be true of it, in the words of the queries' grains. Never shown to a model."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("an item needs an id, got an empty one")
        if not self.text and self.image is None and self.video is None:
            raise ValueError(f"item {self.id!r} has neither text nor a picture: nothing could be embedded")
        if self.video is not None and (self.text or self.image is not None):
            raise ValueError(f"item {self.id!r} has a video and something else: make two items of it")

    @property
    def modality(self) -> Modality:
        """As M-BEIR names it (which knows no videos)."""
        if self.video is not None:
            return "video"
        if self.image is None:
            return "text"
        return "image,text" if self.text else "image"


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    item: Item
    instruction: str = ""
    """What kind of candidate is wanted, in words; empty: none is given to the model. Evaluation uses this one."""
    wordings: tuple[str, ...] = ()
    """Instructions that mean the same; training draws one of them each time (`reworded`)."""
    grains: tuple[str, ...] = ()
    """Atomic parts of the query's meaning (entity, attribute, action), if they are known (ELVA, MRBench)."""
    negatives: tuple[str, ...] = ()
    """Candidates that the source itself calls wrong."""

    @property
    def id(self) -> str:
        """The item's."""
        return self.item.id

    def reworded(self, rng: np.random.Generator) -> Self:
        """The query with one of its `wordings` as instruction, drawn uniformly; itself if it has none."""
        if not self.wordings:
            return self
        return replace(self, instruction=self.wordings[int(rng.integers(len(self.wordings)))])


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, the pool that they are searched in, and what counts as found.

    Raises:
        ValueError: for an empty pool, no queries, or a cutoff below 1.
    """

    name: str
    queries: Sequence[Query]
    candidates: Sequence[Item]
    """The pool. Large ones read an item from disk when it is asked for."""
    relevance: Mapping[str, Mapping[str, float]]
    """Query id → candidate id → grade above 0; 1 where a source knows only yes and no."""
    cutoff: int = 5
    """K of the task's official Recall@K."""

    def __post_init__(self) -> None:
        if not len(self.queries):
            raise ValueError(f"{self.name} has no queries")
        if not len(self.candidates):
            raise ValueError(f"{self.name} has an empty pool of candidates")
        if self.cutoff < 1:
            raise ValueError(f"{self.name}: the cutoff must be at least 1, got {self.cutoff}")


def share_of_grains(query: Query, candidate: Item) -> float:
    """Share of the query's grains that are among the candidate's facts, from 0 to 1.

    The graded relevance of collections that know both: 1 satisfies everything, 1 − 1/n is a near miss of n grains.

    Raises:
        ValueError: the query has no grains.
    """
    if not query.grains:
        raise ValueError(f"query {query.id!r} has no grains: its relevance cannot be graded by them")
    facts = set(candidate.facts)
    return sum(grain in facts for grain in query.grains) / len(query.grains)
