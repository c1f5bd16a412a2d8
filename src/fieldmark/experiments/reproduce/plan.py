"""Which runs a table asks for: rows × seeds, each with its whole configuration and a folder named after it."""

from dataclasses import dataclass, replace
from pathlib import Path

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.evidence import evidence_world
from fieldmark.experiments.fieldguide import CONFIGS, load_recipe
from fieldmark.experiments.reproduce.tables import (
    BENCHMARKS,
    FIELDGUIDE,
    Row,
    Table,
    load_table,
    row_config,
    table_names,
)
from fieldmark.experiments.run_names import placed, world_folder
from fieldmark.experiments.runs import Run, load_saga_config
from fieldmark.experiments.tables.changes import require_known
from fieldmark.training.config import SagaConfig


@dataclass(frozen=True)
class ReproduceConfig:
    """Which table, on which pictures, with which supervisor."""

    table: str = "main"
    """main, components, losses, prompt, dimension, backbone, lambda, pooler, layers, mechanism or extensions."""
    benchmark: str = FIELDGUIDE
    """cub, cars, aircraft, inat, or fieldguide: the bundled world with the bundled model."""
    root: str | None = None
    """The benchmark's pictures. Fieldguide is drawn and needs none."""
    supervisor: str | None = None
    """Checkpoint folder or hub id in place of the recipe's; the table "backbone" needs it."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Training seeds, and on Fieldguide the worlds': never used for development."""
    processes: int | None = None
    """Runs at a time. Not given: 2 on Fieldguide, each with half of the threads, else 1."""
    limit: int | None = None
    """Stop after so many new runs."""
    dry_run: bool = False
    """List the runs with what they are expected to cost, and stop."""
    out: str = "runs/reproduce"
    """Runs and worlds; runs that are finished are not repeated, and tables share them."""
    docs: str | None = None
    """Where the table goes as Markdown, JSON and figure. Not given: OUT/BENCHMARK."""
    recipe: str | None = None
    """The YAML that rows are derived from. Not given: configs/saga/BENCHMARK.yaml, or configs/fieldguide/saga.yaml."""
    habitat: float = 0.8
    """ρ of the bundled world, as in the demo."""

    def __post_init__(self) -> None:
        require_known("table", self.table, table_names())
        require_known("benchmark", self.benchmark, BENCHMARKS)
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, for example [101,102,103]")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if self.benchmark == FIELDGUIDE and self.root is not None:
            raise ValueError("Fieldguide is drawn by its seed: leave --root out, or name another --benchmark")
        if self.benchmark != FIELDGUIDE and self.root is None and not self.dry_run:
            raise ValueError(f"no pictures given: set --root to the folder of {self.benchmark} (--dry_run needs none)")
        table = load_table(self.table)
        if table.needs_supervisor and self.supervisor is None:
            raise ValueError(f"the table {self.table!r} is about another backbone: set --supervisor to its checkpoint")
        if not table.shown(self.benchmark):
            raise ValueError(f"the table {self.table!r} has no rows for {self.benchmark}: use --benchmark fieldguide")

    @property
    def folder(self) -> Path:
        """Where this benchmark's runs are."""
        return Path(self.out) / self.benchmark

    @property
    def docs_folder(self) -> Path:
        """Where the table goes."""
        return self.folder if self.docs is None else Path(self.docs)

    @property
    def processes_used(self) -> int:
        """Runs at a time."""
        return self.processes or (2 if self.benchmark == FIELDGUIDE else 1)


@dataclass(frozen=True)
class PlannedRun:
    """A row with a seed."""

    row: Row
    seed: int
    run: Run
    world: FieldguideConfig | None
    """What must be drawn at ``run.config.data.path`` first."""


def plan_runs(config: ReproduceConfig) -> list[PlannedRun]:
    """Every run of the table, most telling first. Rows that ask for the same run share its folder."""
    table: Table = load_table(config.table)
    recipe = base_recipe(config)
    planned = []
    for row in table.run_order(config.benchmark):
        for seed in config.seeds:
            world = None
            path = Path(config.root) if config.root is not None else Path("ROOT")
            if config.benchmark == FIELDGUIDE:
                world = evidence_world(config.habitat, seed)
                path = world_folder(config.folder, world)
            changed = row_config(row, recipe, config.benchmark)
            changed = replace(changed, seed=seed, data=replace(changed.data, path=str(path)))
            planned.append(PlannedRun(row, seed, placed(Run(row.trains, changed), config.folder, world), world))
    return planned


def base_recipe(config: ReproduceConfig) -> SagaConfig:
    """The recipe that every row is derived from."""
    if config.recipe is not None:
        recipe = load_saga_config(Path(config.recipe))
    elif config.benchmark == FIELDGUIDE:
        recipe = load_recipe()
    else:
        recipe = load_saga_config(CONFIGS / "saga" / f"{config.benchmark}.yaml")
    if config.supervisor is None:
        return recipe
    return replace(recipe, model=replace(recipe.model, supervisor=config.supervisor))
