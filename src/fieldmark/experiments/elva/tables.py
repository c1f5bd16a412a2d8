"""ELVA's tables as data: rows of configs/elva/tables/*.yaml."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Literal, get_args

from fieldmark.data.multimodal.mbeir_layout import TaskName
from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.tables import rows
from fieldmark.experiments.tables.changes import override, require_known
from fieldmark.models.embedding_prompts import Mode
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.elva_config import ElvaConfig

Trains = Literal["none", "contrastive", "elva"]
FIELDGUIDE, MBEIR, EMOJI = "fieldguide", "mbeir", "emoji"
BENCHMARK_TITLES: Mapping[str, str] = {FIELDGUIDE: "Fieldguide", MBEIR: "M-BEIR", EMOJI: "emoji"}

Figures = Mapping[str, Any]
"""What a run measured, as JSON: `ElvaFigures.as_json`, or the part of it that a benchmark has."""


def _score(*places: str) -> Callable[[Figures], float | None]:
    def find(figures: Figures) -> float | None:
        found: Any = figures
        for place in places:
            found = None if found is None else found.get(place)
        return None if found is None else float(found)

    return find


def _over_tasks(*tasks: int) -> Callable[[Figures], float | None]:
    def find(figures: Figures) -> float | None:
        found = [v["mean"] for name, v in figures.get("recall", {}).items() if TaskName.parse(name).task in tasks]
        return mean(found) if found else None

    return find


HEADLINES: Mapping[str, tuple[str, Callable[[Figures], float | None]]] = {
    "multi_grain": ("R@5 of queries with two grains and more", _score("multi_grain", "mean")),
    "average": ("average over tasks", _score("average")),
    "mrbench": ("MRBench, R@5, average over its sources", _score("mrbench", "average")),
    "unseen_tasks": ("average over tasks 4, 6 and 8", _over_tasks(4, 6, 8)),
    "unseen_small_tasks": ("average over i→i and i,t→i", _over_tasks(4, 7)),
    "video": ("text to video, R@1", _score("video", "recall_at_1")),
}
"""What a table's gains are counted in: how it is called, and where it is among the figures. Shares."""


@dataclass(frozen=True)
class Row(rows.Row):
    """A row. ``set``, ``scale`` and ``fieldguide`` are of ElvaConfig, of ContrastiveConfig where that is trained; on
    emoji, ``fieldguide`` counts as well."""

    trains: Trains
    """none: the start is evaluated as it is. contrastive: its second stage goes on. elva: the third stage."""
    mode: Mode = "generative"
    """How what comes out is evaluated."""
    after: str | None = None
    """Key of the row whose embedder it starts from; null: the table's start."""


@dataclass(frozen=True)
class Table(rows.Table[Row]):
    """One table."""

    headline: str = "average"
    """What its gains are counted in, as printed: see `HEADLINES`."""
    small_headline: str = "multi_grain"
    """The same on Fieldguide and emoji."""
    judged: str | None = None
    """Key of the row that is compared with every other, world by world."""

    def gains_in(self, benchmark: str) -> str:
        """The headline on a benchmark."""
        return self.headline if benchmark == MBEIR else self.small_headline

    @property
    def is_about_video(self) -> bool:
        """Whether videos are searched, whatever was trained on."""
        return self.headline == "video"


_FILES = rows.TableFiles(
    CONFIGS / "elva" / "tables",
    Row,
    Table,
    {"trains": get_args(Trains), "mode": get_args(Mode)},
    tuple(BENCHMARK_TITLES),
)


def table_names() -> tuple[str, ...]:
    """Tables that configs/elva/tables holds, sorted."""
    return _FILES.names()


def load_table(name: str) -> Table:
    """Read a table.

    Raises:
        ValueError: see `TableFiles.read`; or rows that start from one another in a circle.
    """
    table: Table = _FILES.read(name)
    for headline in (table.headline, table.small_headline):
        require_known("headline", headline, HEADLINES, name)
    by_key = {row.key: row for row in table.rows}
    for key in (table.judged, *(row.after for row in table.rows)):
        if key is not None:
            require_known("row", key, by_key, name)
    for row in table.rows:
        before, seen = row, {row.key}
        while before.after is not None:
            before = by_key[before.after]
            if before.key in seen:
                raise ValueError(f"table {name!r}: row {row.key!r} would start from itself")
            seen.add(before.key)
        if row.after is not None and by_key[row.after].trains == "none":
            raise ValueError(f"table {name!r}: row {row.key!r} starts from {row.after!r}, which trains nothing")
    return table


def row_config(
    row: Row, elva: ElvaConfig, contrastive: ContrastiveConfig, benchmark: str
) -> ElvaConfig | ContrastiveConfig:
    """The recipe of what is trained, with what the row changes. Of a row that trains nothing: the third stage's.

    The start, its prompts and the data are the third stage's in both recipes.

    Raises:
        ValueError: for a field that the configuration does not have, or a value that it refuses.
    """
    small = benchmark != MBEIR
    if row.trains != "contrastive":
        return override(elva, _changes(row, elva, small))
    m = elva.model
    model = replace(
        contrastive.model,
        base=m.base,
        embedder=replace(m.embedder, mode="one_word"),
        dtype=m.dtype,
        device=m.device,
    )
    same = replace(contrastive, model=model, data=elva.data, seed=elva.seed)
    return override(same, _changes(row, same, small))


def _changes(row: Row, recipe: ElvaConfig | ContrastiveConfig, small: bool) -> dict[str, Any]:
    changes = rows.row_changes(row, recipe, on_fieldguide=small)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
