"""Rows of a table, and their YAML files: each row is a recipe with as little changed as it means."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from fieldmark.experiments.tables.changes import require_known, value_of


@dataclass(frozen=True)
class Row:
    """One row: what is trained, and in what its configuration differs from the recipe."""

    key: str
    """Name by which other rows and the published figures refer to it."""
    label: str
    """As shown."""
    trains: str
    """Which training."""
    against: str | None = None
    """Key of the row that gains are counted from."""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted field of the recipe → value."""
    fieldguide: dict[str, Any] = field(default_factory=dict)
    """Further fields on the bundled world, where sizes and weights are scaled; they win over ``set``."""
    scale: dict[str, float] = field(default_factory=dict)
    """Dotted field → multiple of the recipe's value."""
    only: tuple[str, ...] = ()
    """Benchmarks that have this row; empty: all."""


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class Table(Generic[AnyRow]):
    """One table."""

    name: str
    title: str
    paper: str
    """Where the publication has it."""
    rows: tuple[AnyRow, ...]
    note: str = ""
    first: tuple[str, ...] = ()
    """Keys of the rows to run first, most telling first; the others follow as they stand."""

    def shown(self, benchmark: str) -> tuple[AnyRow, ...]:
        """The rows that this benchmark has, in the table's order."""
        return tuple(row for row in self.rows if not row.only or benchmark in row.only)

    def run_order(self, benchmark: str) -> tuple[AnyRow, ...]:
        """The same, most telling first."""
        shown = self.shown(benchmark)
        early = [row for key in self.first for row in shown if row.key == key]
        return (*early, *(row for row in shown if row.key not in self.first))


@dataclass(frozen=True)
class TableFiles:
    """Where a publication's tables are, and what their files may say."""

    folder: Path
    row: Callable[..., Row]
    """The dataclass of a row …"""
    table: Callable[..., Table[Any]]
    """… and of a table."""
    choices: Mapping[str, Collection[str]]
    """Field of a row → the values that it may have."""
    benchmarks: Collection[str]

    def names(self) -> tuple[str, ...]:
        """Tables that there are, sorted.

        Raises:
            ValueError: the folder is missing.
        """
        if not self.folder.is_dir():
            raise ValueError(
                f"{self.folder} is missing: the tables are part of the repository, run from a checkout of it"
            )
        return tuple(sorted(path.stem for path in self.folder.glob("*.yaml")))

    def read(self, name: str) -> Any:
        """Read a table; it is of the dataclass `table`.

        Raises:
            ValueError: for an unknown name (the nearest is named), or a file that says something unknown.
        """
        require_known("table", name, self.names())
        path = self.folder / f"{name}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows: list[Row] = []
        for number, entry in enumerate(content.pop("rows", []), start=1):
            where = f"{path}, row {number}"
            row = _build(self.row, entry, where)
            for name_of, choices in self.choices.items():
                require_known(name_of, getattr(row, name_of), choices, where)
            for benchmark in row.only:
                require_known("benchmark", benchmark, self.benchmarks, where)
            rows.append(row)
        table: Table[Any] = _build(self.table, {"name": name, "rows": tuple(rows), **content}, str(path))
        keys = [row.key for row in rows]
        for key in (*table.first, *(row.against for row in rows if row.against)):
            require_known("row", key, keys, str(path))
        if len(set(keys)) < len(keys):
            raise ValueError(f"{path}: two rows share a key among {', '.join(keys)}")
        return table


def row_changes(
    row: Row, recipe: Any, *, on_fieldguide: bool, scaled: Callable[[str], str] = lambda name: name
) -> dict[str, Any]:
    """Dotted field of the recipe → value, as the row says. Whole numbers stay whole.

    Args:
        scaled: field that a row scales → the field that this recipe has for it.

    Raises:
        ValueError: for a field that the recipe does not have, or a multiple of a whole number that is none.
    """
    changes = dict(row.set)
    for name, factor in row.scale.items():
        before = value_of(recipe, scaled(name))
        after = factor * before
        if isinstance(before, int) and not isinstance(before, bool):
            if after != int(after):
                raise ValueError(f"row {row.key!r}: {factor} times {name} = {before} is no whole number")
            after = int(after)
        changes[scaled(name)] = after
    return changes | (row.fieldguide if on_fieldguide else {})


def _build(kind: Any, entry: Mapping[str, Any], where: str) -> Any:
    for key in entry:
        require_known("key", key, [f.name for f in fields(kind)], where)
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    try:
        return kind(**lists)
    except TypeError as error:  # a key is missing
        raise ValueError(f"{where}: {error}") from error
