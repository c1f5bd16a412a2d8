"""`make demo-elva`: ELVA's third stage against what one would do without it, and its control, on the bundled world."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.elva.run_reports import INTRO, shown_task
from fieldmark.experiments.elva.runs import ElvaRun, Measurement, execute, load_trained
from fieldmark.experiments.elva.tables import Trains
from fieldmark.experiments.elva.world import ElvaWorld, build_benchmark, draw_world, elva_world, mine_once
from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.mining import MiningConfig
from fieldmark.experiments.runs import in_processes, require_made_so
from fieldmark.experiments.tables.recipes import read_recipe
from fieldmark.models.embedding_prompts import Mode
from fieldmark.report.elva import ElvaReport, EmbedderRow, build_elva_report
from fieldmark.report.inputs import Role
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive_config import ContrastiveConfig, HeldOutConfig
from fieldmark.training.elva_config import ElvaConfig
from fieldmark.training.loop import MAY_DIFFER
from fieldmark.training.run_folder import to_plain, versions, write_text

TEST_SPECIES = 24
ELVA_STEPS, CONTRASTIVE_STEPS = 40, 36
"""About as long as each other, two minutes on one core; the evidence trains longer."""


@dataclass(frozen=True)
class DemoElvaConfig:
    """The demo of ELVA."""

    out: str = "runs/demo-elva"
    """Folder of the collection, the runs, report.html and results.json. What is finished is not repeated."""
    base: str | None = None
    """The embedder after stage 2: the folder of a run, of a saved embedder or of a whole model. Not given: that of
    configs/fieldguide/elva.yaml."""
    seed: int = 0
    """World and training seed."""
    processes: int = 2
    """Runs at a time, each with its share of the threads; 1: all in this process."""
    short: bool = False
    """A pass of a minute through everything, on a handful of species: for tests, its figures mean nothing."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if self.base == "":
            raise ValueError("base is empty: name an embedder, or leave it out for the recipe's")


@dataclass(frozen=True)
class DemoRow:
    """One embedder of the demo. folder: of its run; rows that share one share its training."""

    name: str
    title: str
    role: Role
    folder: str
    trains: Trains
    mode: Mode
    note: str


ROWS = (
    DemoRow("stage2", "Stage 2, one word", "start", "stage2", "none", "one_word", "The embedder as it was given."),
    DemoRow("stage2_generative", "Stage 2, with summaries", "baseline", "stage2", "none", "generative",
            "The same weights, embedding by summaries without further training: what the summary alone does."),
    DemoRow("continued", "Stage 2 continued", "baseline", "continued", "contrastive", "one_word",
            "Contrastive training goes on, with the data and the hard negatives of stage 3."),
    DemoRow("stage3", "Stage 3 (ELVA)", "method", "stage3", "elva", "generative",
            "Reinforcement by how each summary's embedding ranks the positive and its negatives."),
    DemoRow("stage3_permuted", "Stage 3, rewards permuted", "control", "stage3_permuted", "elva", "generative",
            "The same, but each reward goes to a random summary of its group: what the noise alone does."),
)  # fmt: skip
BEFORE, AFTER = "stage2", "stage3"
"""Rows whose single rankings the report compares, as the publication does."""


def demo_world(config: DemoElvaConfig) -> ElvaWorld:
    """The evidence's training species with fewer test species, so that measuring takes less than a minute."""
    world = elva_world(config.seed)
    if config.short:
        return ElvaWorld(
            FieldguideConfig(species=24, per=3, siblings=2, size=48, habitat=0.0, seed=config.seed),
            FieldguideRetrieval(train_queries=12, val_queries=4, test_queries=8, max_grains=3, nli=0),
        )
    train = round(world.world.species * world.world.train_share)
    return ElvaWorld(
        replace(world.world, species=train + TEST_SPECIES, train_share=train / (train + TEST_SPECIES)),
        replace(world.retrieval, test_queries=160),
    )


def demo_runs(config: DemoElvaConfig) -> dict[str, ElvaRun]:
    """By row: the evidence's recipes, shortened."""
    out = Path(config.out)
    elva = read_recipe(ElvaConfig, CONFIGS / "fieldguide" / "elva.yaml")
    contrastive = read_recipe(ContrastiveConfig, CONFIGS / "fieldguide" / "contrastive.yaml")
    elva = replace(elva, schedule=_schedule(elva.schedule, ELVA_STEPS))
    contrastive = replace(contrastive, schedule=_schedule(contrastive.schedule, CONTRASTIVE_STEPS))
    if config.short:
        embedder = replace(elva.model.embedder, image_size=48, max_new_tokens=6)
        held_out = HeldOutConfig(queries=4, candidates=16)
        elva = replace(
            elva,
            queries_per_step=3,
            summaries=replace(elva.summaries, group_size=3),
            negatives=replace(elva.negatives, hard=2, random=2),
            model=replace(elva.model, embedder=embedder),
            validation=held_out,
            schedule=_schedule(elva.schedule, 2),
        )
        contrastive = replace(
            contrastive, batch_size=6, validation=held_out, schedule=_schedule(contrastive.schedule, 2)
        )
    elva = replace(
        elva,
        seed=config.seed,
        data=replace(elva.data, path=str(out / "collection")),
        model=replace(elva.model, base=config.base or elva.model.base),
        negatives=replace(elva.negatives, mined=str(out / "mined")),
    )
    one_word = replace(elva.model.embedder, mode="one_word")
    contrastive = replace(
        contrastive,
        seed=config.seed,
        data=elva.data,
        model=replace(elva.model, embedder=one_word),
        mined=elva.negatives.mined,
        mined_depth=elva.negatives.hard or None,
    )
    measurement = Measurement(root=str(out / "collection"), mrbench=str(out / "mrbench" / "mrbench.jsonl"))
    found = {}
    for row in ROWS:
        chosen: ElvaConfig | ContrastiveConfig = contrastive if row.trains == "contrastive" else elva
        if row.role == "control":
            chosen = replace(elva, supervision="permuted")
        run = replace(chosen, run=str(out / row.folder))
        found[row.name] = ElvaRun(row.trains, row.mode, run, measurement)
    return found


def _schedule(schedule: ScheduleConfig, steps: int) -> ScheduleConfig:
    every = max(1, steps // 2)  # a validation costs as much as a step and a half
    return replace(schedule, steps=steps, validate_every=every, checkpoint_every=every)


def run_demo_elva(config: DemoElvaConfig) -> Path:
    """Draw, mine, train, measure; writes results.json and report.html. Returns the report's path.

    Raises:
        ValueError: the folder holds a demo of other settings, or there is no such embedder.
    """
    out, began = Path(config.out), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    runs = demo_runs(config)
    _require_same_demo(config, runs)
    _prepare(config, runs)
    found = _execute(config, runs)
    summary = summarise(found, config, runs, time.perf_counter() - began)
    write_text(out / "results.json", json.dumps(to_plain(summary), indent=2) + "\n")
    print("Writing the report …", flush=True)
    report = _report(found, config, runs, summary)
    print(f"\n{table(found)}\n\nReport: {report}\nFigures: {out / 'results.json'}")
    return report


def _require_same_demo(config: DemoElvaConfig, runs: Mapping[str, ElvaRun]) -> None:
    path = Path(config.out) / "demo.json"
    asked = {"base": runs[AFTER].config.model.base, "seed": config.seed, "short": config.short}
    if not path.is_file():
        write_text(path, json.dumps(asked, indent=1) + "\n")
    elif (stored := json.loads(path.read_text(encoding="utf-8"))) != asked:
        raise ValueError(f"{config.out} holds another demo ({stored}): delete it, or choose another --out")


def _prepare(config: DemoElvaConfig, runs: Mapping[str, ElvaRun]) -> None:
    """Collection, benchmark and negatives, each whole or not there."""
    world, stage3 = demo_world(config), runs[AFTER].config
    assert isinstance(stage3, ElvaConfig) and stage3.negatives.mined is not None
    root = Path(stage3.data.path)
    print(f"The world: {world.world.species} species of birds as a retrieval collection …", flush=True)
    draw_world(world, root, workers=config.processes)
    build_benchmark(root, root.with_name("mrbench") / "mrbench.jsonl", per_task=100)
    print("Negatives: what the embedder of stage 2 finds besides the right ones …", flush=True)
    mining = MiningConfig(
        out=stage3.negatives.mined,
        data=stage3.data,
        hard=stage3.negatives.hard,
        random=stage3.negatives.random,
        threshold=None,  # every right picture is known here, and what lies nearest besides is a near miss
        seed=config.seed,
    )
    mine_once(mining, stage3.model)


def _execute(config: DemoElvaConfig, runs: Mapping[str, ElvaRun]) -> dict[str, dict[str, Any]]:
    """What each run stored. The trainings first, so that two are always at work; runs of one folder together."""
    for run in runs.values():
        if (run.folder / "results.json").is_file():
            require_made_so(run.folder, run.config, MAY_DIFFER)
    folders: dict[str, list[str]] = {}
    for row in sorted(ROWS, key=lambda row: (row.trains == "none", row.name != AFTER)):
        folders.setdefault(row.folder, []).append(row.name)
    groups = [tuple(runs[name] for name in names) for names in folders.values()]
    print(f"Training and measuring, {config.processes} at a time …", flush=True)
    done = (
        ((group, execute(group)) for group in groups)
        if config.processes == 1
        else in_processes(groups, execute, config.processes)
    )
    found = {}
    titles = {(runs[row.name].folder, row.mode): row for row in ROWS}
    for group, outcomes in done:
        for run, outcome in zip(group, outcomes, strict=True):
            row = titles[run.folder, run.mode]
            found[row.name] = outcome
            recall = _of(outcome["figures"]["multi_grain"], "mean")
            shown = "no queries" if recall is None else f"{100 * recall:.1f} %"
            print(f"  {row.title}: R@5 of queries of several grains {shown}", flush=True)
    return {row.name: found[row.name] for row in ROWS}


def summarise(
    found: Mapping[str, Mapping[str, Any]], config: DemoElvaConfig, runs: Mapping[str, ElvaRun], seconds: float
) -> dict[str, Any]:
    """results.json: every row's figures, and how they were made."""
    rows = []
    for row in ROWS:
        stored = {key: value for key, value in found[row.name].items() if key not in ("figures", "seed")}
        rows.append({"method": row.name, **stored, **found[row.name]["figures"]})
    base = runs[AFTER].config.model.base
    command = f"fieldmark demo-elva --out {config.out} --base {base} --seed {config.seed}"
    return {
        "rows": rows,
        "seed": config.seed,
        "base": base,
        **to_plain(demo_world(config)),
        "versions": versions(),
        "command": command + (" --short" if config.short else ""),
        "seconds": seconds,
    }


def _report(
    found: Mapping[str, Mapping[str, Any]],
    config: DemoElvaConfig,
    runs: Mapping[str, ElvaRun],
    summary: Mapping[str, Any],
) -> Path:
    rows = []
    for row in ROWS:
        log = None if row.trains == "none" else runs[row.name].folder / "log.jsonl"
        rows.append(EmbedderRow(row.name, row.title, row.role, row.note, found[row.name]["figures"], log))
    kept = ("command", "base", "seed", "world", "retrieval", "versions", "seconds")
    report = ElvaReport(
        title="ELVA on Fieldguide",
        intro=INTRO,
        rows=rows,
        task=shown_task(Path(config.out) / "collection"),
        after=AFTER,
        before=BEFORE,
        embedders={name: load_trained(runs[name]) for name in (BEFORE, AFTER)},
        settings={key: summary[key] for key in kept},
        seed=config.seed,
    )
    return build_elva_report(report, Path(config.out) / "report.html")


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the demo prints at its end: percent, and tokens."""
    heads = ("R@5 1 grain", "R@5 2+", "sensitivity", "satisfied", "mean of tasks", "tokens")
    lines = [f"{'':<28}" + "".join(f"{head:>14}" for head in heads)]
    for row in ROWS:
        f = found[row.name]["figures"]
        values: Sequence[float | None] = (
            _of(f["single_grain"], "mean"),
            _of(f["multi_grain"], "mean"),
            _of(f["sensitivity"], "relative"),
            _of(f["compliance"], "satisfied"),
            f["average"],
        )
        cells = ["–" if value is None else f"{100 * value:.1f}" for value in values]
        tokens = _of(f["queries"], "tokens")
        cells.append("–" if tokens is None else f"{tokens:.1f}")
        lines.append(f"{row.title:<28}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _of(figures: Mapping[str, Any] | None, key: str) -> Any:
    return None if figures is None else figures[key]
