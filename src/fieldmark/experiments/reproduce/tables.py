"""Tables of the publication as data: rows of configs/saga/tables/*.yaml, each a recipe with as little changed as it
means."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.runs import TRAININGS, Training
from fieldmark.training.config import SagaConfig

FIELDGUIDE = "fieldguide"
BENCHMARKS: tuple[str, ...] = ("cub", "cars", "aircraft", "inat", FIELDGUIDE)
BENCHMARK_TITLES = {
    "cub": "CUB-200-2011",
    "cars": "Cars-196",
    "aircraft": "FGVC-Aircraft",
    "inat": "iNat-Aves",
    FIELDGUIDE: "Fieldguide",
}
MEASURES = ("layers", "mechanism")
_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Row:
    """One row: what is trained, and in what its configuration differs from the recipe."""

    key: str
    """Name by which other rows and the published figures refer to it."""
    label: str
    """As shown; ``{size}`` is the embedding's size."""
    trains: Training
    against: str | None = None
    """Key of the row that gains are counted from."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted field of SagaConfig → value."""
    fieldguide: dict[str, Any] = field(default_factory=dict)
    """Further fields on the bundled world, where sizes and weights are scaled; they win over ``set``."""
    scale: dict[str, float] = field(default_factory=dict)
    """Dotted field → multiple of the recipe's value. The policy's weight is whichever of λ_lm and its relative
    form the recipe uses."""
    only: tuple[str, ...] = ()
    """Benchmarks that have this row; empty: all."""


@dataclass(frozen=True)
class Table:
    """One table."""

    name: str
    title: str
    paper: str
    """Where the publication has it."""
    rows: tuple[Row, ...]
    note: str = ""
    first: tuple[str, ...] = ()
    """Keys of the rows to run first, most telling first; the others follow as they stand."""
    measure: str | None = None
    """What is measured besides the runs: see `MEASURES`."""
    needs_supervisor: bool = False
    """Whether the table is about another checkpoint than the recipe's."""

    def shown(self, benchmark: str) -> tuple[Row, ...]:
        """The rows that this benchmark has, in the table's order."""
        return tuple(row for row in self.rows if not row.only or benchmark in row.only)

    def run_order(self, benchmark: str) -> tuple[Row, ...]:
        """The same, most telling first."""
        shown = self.shown(benchmark)
        early = [row for key in self.first for row in shown if row.key == key]
        return (*early, *(row for row in shown if row.key not in self.first))


def table_names() -> tuple[str, ...]:
    """Tables that configs/saga/tables holds, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def load_table(name: str) -> Table:
    """Read a table.

    Raises:
        ValueError: for an unknown name (the nearest is named), or a file that says something unknown.
    """
    require_known("table", name, table_names())
    path = _folder() / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = []
    for number, entry in enumerate(content.pop("rows", []), start=1):
        where = f"{path}, row {number}"
        row = _build(Row, entry, where)
        require_known("trains", row.trains, TRAININGS, where)
        for benchmark in row.only:
            require_known("benchmark", benchmark, BENCHMARKS, where)
        rows.append(row)
    table: Table = _build(Table, {"name": name, "rows": tuple(rows), **content}, str(path))
    keys = [row.key for row in rows]
    for key in (*table.first, *(row.against for row in rows if row.against)):
        require_known("row", key, keys, str(path))
    if len(set(keys)) < len(keys):
        raise ValueError(f"{path}: two rows share a key among {', '.join(keys)}")
    if table.measure is not None:
        require_known("measure", table.measure, MEASURES, str(path))
    return table


def row_config(row: Row, recipe: SagaConfig, benchmark: str) -> SagaConfig:
    """The recipe with what the row changes.

    Raises:
        ValueError: for a field that SagaConfig does not have, or a value that it refuses.
    """
    changes = dict(row.set)
    for name, factor in row.scale.items():
        scaled = name
        if name == "weights.policy" and recipe.weights.policy_relative is not None:
            scaled = "weights.policy_relative"
        changes[scaled] = factor * _value(recipe, scaled)
    if benchmark == FIELDGUIDE:
        changes |= row.fieldguide
    return override(recipe, changes)


def row_label(row: Row, config: SagaConfig) -> str:
    """The row's label, its placeholders filled in."""
    return row.label.replace("{size}", str(config.model.embedding_size))


def override(config: _Config, changes: Mapping[str, Any]) -> _Config:
    """A copy of nested dataclasses with dotted fields replaced, all those of one dataclass at once.

    Raises:
        ValueError: for an unknown field, with the nearest one; or from the dataclass's own checks.
    """
    here: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        require_known("field", head, [f.name for f in fields(config)], name)  # type: ignore[arg-type]
        if rest and is_dataclass(getattr(config, head)):
            below.setdefault(head, {})[rest] = value
        elif rest:
            raise ValueError(f"{name}: {head} has no fields")
        else:
            here[head] = value
    parts = {head: override(getattr(config, head), rest) for head, rest in below.items()}
    return replace(config, **here, **parts)  # type: ignore[type-var]


def require_known(what: str, name: str, known: Collection[str], where: str = "") -> None:
    """Raises ValueError for a name that is not among the known ones, and says which is nearest."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    guess = f": did you mean {near[0]!r}?" if near else ""
    place = f"{where}: " if where else ""
    raise ValueError(f"{place}unknown {what} {name!r}{guess} Choose from {', '.join(known)}")


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _build(kind: type, entry: Mapping[str, Any], where: str) -> Any:
    for key in entry:
        require_known("key", key, [f.name for f in fields(kind)], where)
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    try:
        return kind(**lists)
    except TypeError as error:  # a key is missing
        raise ValueError(f"{where}: {error}") from error


def _folder() -> Path:
    folder = CONFIGS / "saga" / "tables"
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: the tables are part of the repository, run from a checkout of it")
    return folder
