"""Which runs a table of ELVA asks for: rows × seeds, each with its whole configuration and a folder named after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fieldmark.experiments.elva.runs import ElvaRun, Measurement
from fieldmark.experiments.elva.tables import (
    BENCHMARK_TITLES,
    EMOJI,
    FIELDGUIDE,
    MBEIR,
    Row,
    Table,
    load_table,
    row_config,
    table_names,
)
from fieldmark.experiments.elva.world import (
    ElvaWorld,
    build_benchmark,
    draw_world,
    elva_world,
    mine_once,
    mining_name,
)
from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.mining import MiningConfig
from fieldmark.experiments.run_names import embedder_fingerprint, name_of_choices
from fieldmark.experiments.tables.changes import require_known
from fieldmark.experiments.tables.recipes import read_recipe
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.elva_config import ElvaConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.run_folder import to_plain

PUBLISHED_QUERIES = 11_000
"""Training queries of the third stage on M-BEIR: 1 % of each data set."""
EMOJI_QUERIES = 200
"""Test queries of each emoji task that are measured on."""
EMOJI_TRAINED = 4_000
"""Training queries of the third stage on emoji."""


@dataclass(frozen=True)
class ElvaTableConfig:
    """Which table, on what data, from which embedder."""

    table: str = "controls"
    """controls, ablation, weights, heldout, posttrain, main, mrbench or video."""
    benchmark: str = FIELDGUIDE
    """fieldguide: the bundled world, drawn; mbeir: M-BEIR; emoji: what `fieldmark data emoji` wrote."""
    root: str | None = None
    """The collection in M-BEIR's layout. Fieldguide is drawn and needs none."""
    base: str | None = None
    """The embedder that everything starts from, after its second stage: a run, a saved embedder, a peft adapter or a
    whole checkpoint. Not given: the recipe's."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Training seeds, and on Fieldguide the worlds': never used for development."""
    processes: int | None = None
    """Runs at a time. Not given: 2 on Fieldguide, each with half of the threads, else 1."""
    limit: int | None = None
    """Stop after so many new runs."""
    dry_run: bool = False
    """List the runs with what they are expected to cost, and stop."""
    out: str = "runs/reproduce"
    """Runs, worlds and mined negatives; runs that are finished are not repeated, and tables share them."""
    docs: str | None = None
    """Where the table goes as Markdown, JSON and figure. Not given: OUT/BENCHMARK."""
    recipe: str | None = None
    """YAML of `train elva` that rows are derived from. Not given: configs/elva/stage3.yaml, on Fieldguide and emoji
    elva.yaml of configs/fieldguide and configs/emoji."""
    contrastive: str | None = None
    """YAML of `train contrastive` for the second stage's continuation. Not given: configs/elva/stage2.yaml, on
    Fieldguide and emoji contrastive.yaml of configs/fieldguide and configs/emoji."""
    mrbench: str | None = None
    """Multi-grain benchmark (`fieldmark data mrbench`) about ROOT. Fieldguide and emoji list their grains: theirs is
    built."""
    annotations: str | None = None
    """Captions of videos, for the table "video"."""
    videos: str | None = None
    """Folder of the videos."""

    def __post_init__(self) -> None:
        require_known("table", self.table, table_names())
        require_known("benchmark", self.benchmark, BENCHMARK_TITLES)
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, for example [101,102,103]")
        if self.processes is not None and self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if self.benchmark == FIELDGUIDE and self.root is not None:
            raise ValueError("Fieldguide is drawn by its seed: leave --root out, or name another --benchmark")
        table = load_table(self.table)
        if not table.shown(self.benchmark):
            raise ValueError(f"the table {self.table!r} has no rows for {self.benchmark}: use --benchmark mbeir")
        if self.dry_run:
            return
        if self.benchmark != FIELDGUIDE and self.root is None:
            raise ValueError(f"no data given: set --root to the folder of {self.benchmark} (--dry_run needs none)")
        if table.is_about_video and (self.annotations is None or self.videos is None):
            raise ValueError("the table 'video' needs --annotations (captions) and --videos (the folder of videos)")
        if table.headline == "mrbench" and self.benchmark == MBEIR and self.mrbench is None:
            raise ValueError(
                "M-BEIR lists no grains: build a benchmark (`fieldmark data mrbench`) and give it with --mrbench"
            )

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
class Place:
    """The data of some runs, and what is made of it once for all of them.

    built: whether ``mrbench`` is ours to build.
    names: what stands for paths in the names of runs, by dotted field.
    """

    root: Path
    mining: MiningConfig
    model: EmbedderModelConfig
    world: ElvaWorld | None = None
    mrbench: Path | None = None
    built: bool = False
    names: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, *, mined: bool) -> None:
        """Draw, build and mine what is not there yet. mined: whether something is trained."""
        if self.world is not None:
            draw_world(self.world, self.root, workers=1)
        if self.built and self.mrbench is not None:
            build_benchmark(self.root, self.mrbench)
        if mined:
            mine_once(self.mining, self.model)


@dataclass(frozen=True)
class PlannedRun:
    """A row with a seed."""

    row: Row
    seed: int
    run: ElvaRun
    place: Place


@dataclass(frozen=True)
class Recipes:
    """What rows are derived from, the start filled in."""

    elva: ElvaConfig
    contrastive: ContrastiveConfig


def read_recipes(config: ElvaTableConfig) -> Recipes:
    """The recipes that every row is derived from."""
    own = CONFIGS / config.benchmark
    recipe, contrastive_recipe = own / "elva.yaml", own / "contrastive.yaml"
    if config.benchmark == MBEIR:
        recipe, contrastive_recipe = CONFIGS / "elva" / "stage3.yaml", CONFIGS / "elva" / "stage2.yaml"
    elva = read_recipe(ElvaConfig, Path(config.recipe or recipe))
    contrastive = read_recipe(ContrastiveConfig, Path(config.contrastive or contrastive_recipe))
    if config.base is not None:
        elva = replace(elva, model=replace(elva.model, base=config.base))
    return Recipes(elva, contrastive)


def plan_runs(config: ElvaTableConfig) -> list[PlannedRun]:
    """Every run of the table, most telling first. Rows that ask for the same run share its folder.

    Rows that train nothing are measured once, but on Fieldguide in every world.
    """
    table: Table = load_table(config.table)
    recipes = read_recipes(config)
    base = embedder_fingerprint(recipes.elva.model.base)
    planned = []
    places = {seed: _place(config, recipes.elva, base, seed) for seed in config.seeds}
    for row in table.run_order(config.benchmark):
        seeds = config.seeds
        if row.trains == "none" and config.benchmark != FIELDGUIDE:
            seeds = seeds[:1]
        for seed in seeds:
            run = _run(row, table, recipes, config, places[seed], seed)
            planned.append(PlannedRun(row, seed, run, places[seed]))
    return planned


def _run(row: Row, table: Table, recipes: Recipes, config: ElvaTableConfig, place: Place, seed: int) -> ElvaRun:
    before = None
    if row.after is not None:
        start = next(one for one in table.rows if one.key == row.after)
        before = _run(start, table, recipes, config, place, seed)
    changed = row_config(row, recipes.elva, recipes.contrastive, config.benchmark)
    changed = replace(changed, seed=seed, data=replace(changed.data, path=str(place.root)))
    if isinstance(changed, ElvaConfig):
        changed = replace(changed, negatives=replace(changed.negatives, mined=place.mining.out))
    elif changed.hard_negatives:
        changed = replace(changed, mined=place.mining.out, mined_depth=recipes.elva.negatives.hard or None)
    names = dict(place.names)
    if before is not None:
        changed = replace(changed, model=replace(changed.model, base=str(before.folder)))
        names["model.base"] = before.folder.parent.name
    run = ElvaRun(row.trains, row.mode, changed, _measurement(table, config, place), before, names)
    folder = config.folder / "runs" / run_name(run) / f"seed-{seed}"
    return replace(run, config=replace(changed, run=str(folder)))


def run_name(run: ElvaRun) -> str:
    """Same name, same training but for its seed, or same start: another recipe, start or collection gives another.

    Fields at their defaults are left out, so that a field that a later version adds renames no finished run.
    """
    plain: dict[str, Any] = to_plain(run.config)
    for free in ("run", "seed", "tensorboard"):
        plain.pop(free)
    plain["data"].pop("workers")
    plain["schedule"].pop("checkpoint_every")
    defaults = to_plain(type(run.config)())
    if run.trains == "none":
        plain = {"data": {"path": None}, "model": plain["model"]}
        for unused in ("adapter", "train_tower", "train_words", "new_words"):
            plain["model"].pop(unused)
        plain["model"]["embedder"]["mode"] = defaults["model"]["embedder"]["mode"]  # of the results file's name
    for name, value in run.names.items():
        *parts, last = name.split(".")
        here: Any = plain
        for part in parts:
            here = here.get(part, {})
        if here.get(last) is not None or name == "data.path":
            here[last] = value
    return name_of_choices(run.trains, plain, defaults)


def _measurement(table: Table, config: ElvaTableConfig, place: Place) -> Measurement:
    if table.is_about_video:
        # A dry run may not say which.
        return Measurement(
            annotations=config.annotations or "ANNOTATIONS",
            videos=config.videos or "VIDEOS",
            workers=place.mining.data.workers,
        )
    return Measurement(
        root=str(place.root),
        published_mbeir=config.benchmark == MBEIR,
        mrbench=None if place.mrbench is None else str(place.mrbench),
        most_queries=EMOJI_QUERIES if config.benchmark == EMOJI else None,
        workers=place.mining.data.workers,
    )


def _place(config: ElvaTableConfig, elva: ElvaConfig, base: str, seed: int) -> Place:
    """Where the data of a seed are, and what is made of them."""
    world: ElvaWorld | None = None
    if config.benchmark == FIELDGUIDE:
        world = elva_world(seed)
        folder = config.folder / "worlds" / world.name / f"seed-{seed}"
        root, identity = folder / "collection", world.name
    else:
        root = Path(config.root or "ROOT")
        folder, identity = config.folder / "shared", str(root.resolve())
    mrbench = None if config.mrbench is None else Path(config.mrbench)
    built = mrbench is None and config.benchmark != MBEIR
    if built:
        name = "mrbench" if world is not None else name_of_choices("mrbench", {"root": identity}, {})
        mrbench = folder / name / "mrbench.jsonl"
    n = elva.negatives
    count = n.hard + n.random
    mining = MiningConfig(
        data=replace(elva.data, path=str(root), held_out_tasks=(), held_out_datasets=()),
        queries={MBEIR: PUBLISHED_QUERIES, EMOJI: EMOJI_TRAINED}.get(config.benchmark, 0),
        # Twice as many of either kind: a row without the other has as many in all.
        hard=max(1, count),
        random=count,
        # Fieldguide's relevance is complete: there are no right candidates that nobody called right.
        threshold=None if config.benchmark == FIELDGUIDE else MiningConfig.threshold,
        seed=seed if config.benchmark == FIELDGUIDE else 0,
    )
    name = mining_name(mining, base, elva.model, identity)
    mining = replace(mining, out=str(folder / name))
    names = {"data.path": identity, "model.base": base, "negatives.mined": name, "mined": name}
    if config.mrbench is not None:
        names["mrbench"] = str(Path(config.mrbench).resolve())
    return Place(root, mining, elva.model, world, mrbench, built, names)
