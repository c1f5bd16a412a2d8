"""Tables of the publication as data: rows of configs/saga/tables/*.yaml, each a recipe with as little changed as it
means."""

from dataclasses import dataclass

from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.runs import TRAININGS, Training
from fieldmark.experiments.tables import rows
from fieldmark.experiments.tables.changes import override, require_known
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


@dataclass(frozen=True)
class Row(rows.Row):
    """A row; ``set``, ``scale`` and ``fieldguide`` are of SagaConfig. In ``label``, ``{size}`` is the embedding's size.
    To scale weights.policy is to scale whichever of λ_lm and its relative form the recipe uses."""

    trains: Training


@dataclass(frozen=True)
class Table(rows.Table[Row]):
    """One table."""

    measure: str | None = None
    """What is measured besides the runs: see `MEASURES`."""
    needs_supervisor: bool = False
    """Whether the table is about another checkpoint than the recipe's."""


_FILES = rows.TableFiles(CONFIGS / "saga" / "tables", Row, Table, {"trains": TRAININGS}, BENCHMARKS)


def table_names() -> tuple[str, ...]:
    """Tables that configs/saga/tables holds, sorted."""
    return _FILES.names()


def load_table(name: str) -> Table:
    """Read a table. Errors as `TableFiles.read`'s."""
    table: Table = _FILES.read(name)
    if table.measure is not None:
        require_known("measure", table.measure, MEASURES, name)
    return table


def row_config(row: Row, recipe: SagaConfig, benchmark: str) -> SagaConfig:
    """The recipe with what the row changes.

    Raises:
        ValueError: for a field that SagaConfig does not have, or a value that it refuses.
    """

    def scaled(name: str) -> str:
        relative = name == "weights.policy" and recipe.weights.policy_relative is not None
        return "weights.policy_relative" if relative else name

    return override(recipe, rows.row_changes(row, recipe, on_fieldguide=benchmark == FIELDGUIDE, scaled=scaled))


def row_label(row: Row, config: SagaConfig) -> str:
    """The row's label, its placeholders filled in."""
    return row.label.replace("{size}", str(config.model.embedding_size))
