"""What a report about universal embedders is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from fieldmark.data.retrieval import RetrievalTask
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.report.inputs import Role

ROLE_WORDS: Mapping[str, str] = {
    "start": "where the others begin",
    "baseline": "what one would do without rewards for rankings",
    "method": "what is being tested",
    "control": "the method with its signal removed: a gain that it keeps is not the signal's",
    "ceiling": "the most that the method could reach",
}


@dataclass(frozen=True, eq=False)
class EmbedderRow:
    """One embedder of the report."""

    name: str
    """Short unique name, as in results.json."""
    title: str
    """What readers call it."""
    role: Role
    """Its part in the comparison; see ``ROLE_WORDS``."""
    note: str = ""
    """One sentence: how it was made."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What ``measure_embedder(…).as_json()`` gave; empty: it is not in the result. Its ``multi_grain_hits`` (per text →
    image query of two grains and more, 1 if it was found) make differences query by query."""
    log: Path | None = None
    """The run's log.jsonl."""

    def __post_init__(self) -> None:
        if not self.name or not self.title:
            raise ValueError(f"an embedder needs a name and a title, got {self.name!r} and {self.title!r}")
        if self.role not in get_args(Role):
            raise ValueError(f"role {self.role!r} of {self.name} is not one of {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class ElvaSizes:
    """How much is shown."""

    changed_queries: int = 4
    """Queries whose rank the training changed: half of them for the better, half for the worse."""
    agreeing_queries: int = 1
    """Queries that both find at once, and as many that neither finds."""
    neighbours: int = 5
    """Nearest candidates of a shown query."""
    queries: int = 160
    """Queries that are looked at, evenly taken; several grains first."""
    candidates: int = 3000
    """Candidates of the pool that are embedded; of a larger pool everything relevant and an even share of the rest."""
    attention_queries: int = 48
    """Queries over which attention is averaged."""
    maps: int = 2
    """Queries that get a pair of maps."""
    map_points: int = 400
    """Candidates on the maps at most."""
    picture_pixels: int = 112
    """Pictures are stored at most this large."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class ElvaReport:
    """Everything that `build_elva_report` needs.

    Raises:
        ValueError: no rows, a name that stands twice, or ``before`` or ``after`` that is no row.
    """

    title: str
    intro: str
    """A few sentences for somebody who knows nothing of the runs; an empty line begins a new paragraph."""
    rows: Sequence[EmbedderRow]
    """In the order in which they are to be read."""
    task: RetrievalTask
    """Whose single queries are shown."""
    after: str
    """Name of the row whose rankings are looked at …"""
    before: str | None
    """… and of the one that they are compared with; None: with nothing."""
    embedders: Mapping[str, UniversalEmbedder]
    """Of these two, by name. Loaded in the mode in which they are to embed; a cache spares the pool a second pass."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Seeds, versions, commands, times: shown at the end as they are."""
    attention_layer: int | None = None
    """Decoder layer of the attention, from 0; None takes the one at 26/36 of the depth."""
    seed: int = 0
    """Of the maps and the bootstrap."""
    batch_size: int = 32
    """Requests embedded at a time."""
    workers: int = 0
    """Processes that decode pictures."""
    sizes: ElvaSizes = ElvaSizes()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names:
            raise ValueError("a report needs at least one embedder")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"embedders are named twice: {', '.join(twice)}")
        for name in (self.after, self.before):
            if name is not None and (name not in names or name not in self.embedders):
                raise ValueError(f"{name!r} is none of the rows {', '.join(names)}, or its embedder is not given")
        if self.after == self.before:
            raise ValueError(f"{self.after!r} is compared with itself: name another row as before, or None")

    def row(self, name: str) -> EmbedderRow:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)
