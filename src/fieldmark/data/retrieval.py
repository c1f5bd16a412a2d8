"""Multimodal retrieval as values: items to embed, queries with instructions and grains, tasks with graded relevance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Modality = Literal["text", "image", "image,text"]


@dataclass(frozen=True)
class Item:
    """Something to embed: text, a picture, or both.

    Raises:
        ValueError: for an empty id, or neither text nor picture.
    """

    id: str
    text: str | None = None
    image: Path | None = None
    """Where the picture is. It is opened only when its pixels are needed."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("an item needs an id, got an empty one")
        if not self.text and self.image is None:
            raise ValueError(f"item {self.id!r} has neither text nor a picture: nothing could be embedded")

    @property
    def modality(self) -> Modality:
        """As M-BEIR names it."""
        if self.image is None:
            return "text"
        return "image,text" if self.text else "image"


@dataclass(frozen=True)
class Query:
    """What is searched for."""

    item: Item
    instruction: str = ""
    """What kind of candidate is wanted, in words; empty: none is given to the model."""
    grains: tuple[str, ...] = ()
    """Atomic parts of the query's meaning (entity, attribute, action), if they are known (ELVA, MRBench)."""
    negatives: tuple[str, ...] = ()
    """Candidates that the source itself calls wrong."""

    @property
    def id(self) -> str:
        """The item's."""
        return self.item.id


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
