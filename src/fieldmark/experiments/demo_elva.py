"""`make demo-elva`: ELVA's third stage against what one would do without it, and its control, on the bundled world."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.experiments.elva.measure import measure_embedder
from fieldmark.experiments.elva_reports import INTRO, MeasuredEmbedder, measured, shown_task
from fieldmark.experiments.evaluate_embedder import EmbedderSource
from fieldmark.experiments.mining import MiningConfig, mine_negatives
from fieldmark.experiments.mrbench_building import MrbenchBuildConfig, build_mrbench
from fieldmark.experiments.runs import in_processes
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig, Mode
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.report.elva import ElvaReport, EmbedderRow, build_elva_report
from fieldmark.report.inputs import Role
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive import train_contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig, HeldOutConfig
from fieldmark.training.elva import train_elva
from fieldmark.training.elva_config import CandidatesConfig, ElvaConfig, NegativesConfig
from fieldmark.training.embedder_model import EmbedderModelConfig, embedder_folder
from fieldmark.training.loop import MAY_DIFFER
from fieldmark.training.optimiser import AdapterOptimiserConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig
from fieldmark.training.run_folder import differing_fields, read_config, to_plain, versions, write_text

ASKED = EmbedderConfig(
    image_size=96,
    max_new_tokens=40,
    slot="summary_token",
    one_word_prompt="{text}\n{instruction}",
    generative_prompt="{text}\n{instruction}\nSum up: ",
)
"""How the bundled model is asked: in the words that it was taught."""


@dataclass(frozen=True)
class DemoElvaConfig:
    """The demo of ELVA."""

    out: str = "runs/demo-elva"
    """Folder of the collection, the runs, report.html and results.json. What is finished is not repeated."""
    base: str = "bundled"
    """The embedder after stage 2: "bundled", or the folder of a run, of a saved embedder or of a whole model."""
    seed: int = 0
    """World and training seed."""
    processes: int = 2
    """Trainings and measurements at a time, each with its share of the threads; 1: all in this process."""
    short: bool = False
    """A pass through everything on a handful of species, for tests: its figures mean nothing."""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if not self.base:
            raise ValueError("no embedder given: set base to 'bundled', or to the folder of an embedder")


@dataclass(frozen=True)
class Row:
    """One embedder of the demo. run: the folder of its training in ``out``, or stage2 itself."""

    name: str
    title: str
    role: Role
    run: str
    mode: Mode
    note: str


ROWS = (
    Row("stage2", "Stage 2, one word", "start", "stage2", "one_word", "The embedder as it was given."),
    Row("stage2_generative", "Stage 2, with summaries", "baseline", "stage2", "generative",
        "The same weights, embedding by summaries without any further training: what the summary alone does."),
    Row("continued", "Stage 2 continued", "baseline", "continued", "one_word",
        "Contrastive training goes on, with the data and the hard negatives of stage 3."),
    Row("stage3", "Stage 3 (ELVA)", "method", "stage3", "generative",
        "Reinforcement by how each summary's embedding ranks the positive and its negatives."),
    Row("stage3_permuted", "Stage 3, rewards permuted", "control", "stage3_permuted", "generative",
        "The same, but each reward goes to a random summary of its group: what the noise alone does."),
)  # fmt: skip
TRAINED = ("stage3", "continued", "stage3_permuted")
"""Of the rows, the trained ones; the most telling first."""


@dataclass(frozen=True)
class Plan:
    """Everything that the demo's length decides: worlds, steps, negatives."""

    world: FieldguideConfig
    queries: FieldguideRetrieval
    asked: EmbedderConfig
    hard: int
    random: int
    contrastive_steps: int
    contrastive_batch: int
    elva_steps: int
    queries_per_step: int
    group_size: int
    held_out: HeldOutConfig
    validations: int


def plan(config: DemoElvaConfig) -> Plan:
    """Sized for a quarter of an hour on two cores, or for a minute."""
    if config.short:
        return Plan(
            world=FieldguideConfig(species=24, per=3, siblings=2, size=48, habitat=0.0, seed=config.seed),
            queries=FieldguideRetrieval(train_queries=12, val_queries=4, test_queries=8, max_grains=3, nli=0),
            asked=replace(ASKED, image_size=48, max_new_tokens=6),
            hard=2, random=2, contrastive_steps=2, contrastive_batch=6, elva_steps=2, queries_per_step=3, group_size=3,
            held_out=HeldOutConfig(queries=4, candidates=16), validations=1,
        )  # fmt: skip
    return Plan(
        world=FieldguideConfig(species=96, per=6, habitat=0.0, seed=config.seed),
        queries=FieldguideRetrieval(train_queries=400, val_queries=60, test_queries=160, nli=0),
        asked=ASKED,
        hard=8, random=8, contrastive_steps=56, contrastive_batch=32, elva_steps=56, queries_per_step=8, group_size=8,
        held_out=HeldOutConfig(queries=48, candidates=160), validations=4,
    )  # fmt: skip


def contrastive_config(config: DemoElvaConfig) -> ContrastiveConfig:
    """Stage 2 continued."""
    p, out = plan(config), Path(config.out)
    return ContrastiveConfig(
        run=str(out / "continued"),
        seed=config.seed,
        data=RetrievalDataConfig(path=str(out / "collection"), workers=0),
        validation=p.held_out,
        model=_model(config, "one_word"),
        batch_size=p.contrastive_batch,
        hard_negatives=2,
        mined=str(out / "mined"),
        optimiser=AdapterOptimiserConfig(lr=1e-4),
        schedule=_schedule(p.contrastive_steps, p.validations),
    )


def elva_config(config: DemoElvaConfig, permuted: bool = False) -> ElvaConfig:
    """Stage 3, and its control."""
    p, out = plan(config), Path(config.out)
    return ElvaConfig(
        run=str(out / ("stage3_permuted" if permuted else "stage3")),
        seed=config.seed,
        data=RetrievalDataConfig(path=str(out / "collection"), workers=0),
        validation=p.held_out,
        model=_model(config, "generative"),
        queries_per_step=p.queries_per_step,
        negatives=NegativesConfig(mined=str(out / "mined"), hard=p.hard, random=p.random),
        summaries=replace(ElvaConfig().summaries, group_size=p.group_size),
        candidates=CandidatesConfig(refresh_every=4),
        reward=replace(ElvaConfig().reward, gamma=1 / (p.hard + p.random)),
        supervision="permuted" if permuted else "reward",
        optimiser=AdapterOptimiserConfig(lr=1e-4),
        schedule=_schedule(p.elva_steps, p.validations),
    )


def _model(config: DemoElvaConfig, mode: Mode) -> EmbedderModelConfig:
    return EmbedderModelConfig(
        base=str(Path(config.out) / "stage2"),
        adapter=AdapterConfig(rank=16, alpha=32, dropout=0.0),
        embedder=replace(plan(config).asked, mode=mode),
    )


def _schedule(steps: int, validations: int) -> ScheduleConfig:
    every = max(1, steps // validations)
    return ScheduleConfig(steps=steps, validate_every=every, checkpoint_every=every, select="last")


def run_demo_elva(config: DemoElvaConfig) -> Path:
    """Draw, mine, train, measure; writes results.json and report.html. Returns the report's path.

    Raises:
        ValueError: the folder holds a demo of other settings, or there is no such embedder.
    """
    out, began = Path(config.out), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    _require_same_demo(config)
    _prepare(config)
    found = _measure_all(config)
    seconds = time.perf_counter() - began
    summary = summarise(found, config, seconds)
    write_text(out / "results.json", json.dumps(summary, indent=2) + "\n")
    report = _report(found, config, summary)
    print(f"\n{table(found)}\n\nReport: {report}\nFigures: {out / 'results.json'}")
    return report


def _require_same_demo(config: DemoElvaConfig) -> None:
    path = Path(config.out) / "demo.json"
    asked = {"base": config.base, "seed": config.seed, "short": config.short}
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored != asked:
            raise ValueError(f"{config.out} holds another demo ({stored}): delete it, or choose another --out")
        return
    write_text(path, json.dumps(asked, indent=1) + "\n")


def _prepare(config: DemoElvaConfig) -> None:
    """Collection, starting embedder, negatives and benchmark, each whole or not there."""
    out, p = Path(config.out), plan(config)
    collection = out / "collection"
    if not collection.is_dir():
        print(f"Drawing {p.world.species} species of birds as a retrieval collection …", flush=True)
        print(write_fieldguide_retrieval(p.world, p.queries, collection, workers=config.processes).as_text())
    if not (out / "stage2").is_dir():
        load_embedder(embedder_folder(config.base), config=p.asked).save_pretrained(out / "stage2")
    if not (out / "mined").is_dir():
        print("Mining negatives with the embedder of stage 2 …", flush=True)
        # No threshold: every right picture is known here, and what lies nearest besides is a near miss.
        mining = MiningConfig(
            embedder=str(out / "stage2"), out=str(out / "mined"), hard=p.hard, random=p.random, threshold=None,
            data=RetrievalDataConfig(path=str(collection), workers=0), seed=config.seed,
        )  # fmt: skip
        print(mine_negatives(mining).as_text())
    if not (out / "mrbench" / "mrbench.jsonl").is_file():
        build_mrbench(MrbenchBuildConfig(root=str(collection), per_task=100, seed=config.seed), out / "mrbench")


def _measure_all(config: DemoElvaConfig) -> dict[str, MeasuredEmbedder]:
    """Train what is not trained, measure what is not measured; two at a time."""
    order = [*TRAINED, *(row.name for row in ROWS if row.name not in TRAINED)]
    tasks = sorted(ROWS, key=lambda row: order.index(row.name))
    print(f"Training {', '.join(TRAINED)}, and measuring; {config.processes} at a time …", flush=True)
    found: dict[str, MeasuredEmbedder] = {}
    work = partial(_train_and_measure, config)
    done = ((row, work(row)) for row in tasks) if config.processes == 1 else in_processes(tasks, work, config.processes)
    for row, outcome in done:
        found[row.name] = outcome
        recall = outcome.figures["multi_grain"]
        value = "no queries" if recall is None else f"{100 * recall['mean']:.1f} %"
        print(f"  {row.title}: R@5 of queries of several grains: {value}", flush=True)
    return {row.name: found[row.name] for row in ROWS}


def _train_and_measure(config: DemoElvaConfig, row: Row) -> MeasuredEmbedder:
    """In a process of its own."""
    out = Path(config.out)
    if row.name in TRAINED:
        _train(contrastive_config(config) if row.name == "continued" else elva_config(config, "permuted" in row.name))
    path = out / "measured" / f"{row.name}.json"
    if path.is_file():
        return MeasuredEmbedder(**json.loads(path.read_text(encoding="utf-8")))
    model = EmbedderSource(str(out / row.run), mode=row.mode).load()
    figures = measure_embedder(
        model, out / "collection", benchmark=out / "mrbench" / "mrbench.jsonl", encoding=EncodingConfig(workers=0),
        seed=config.seed,
    )  # fmt: skip
    found = measured(figures, out / "collection")
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(to_plain(found.as_json()), indent=1) + "\n")
    return found


def _train(config: ContrastiveConfig | ElvaConfig) -> None:
    folder = Path(config.run)
    if (folder / "results.json").is_file():
        differing = differing_fields(read_config(folder), to_plain(config), MAY_DIFFER)
        if differing:
            raise ValueError(
                f"{folder} holds a finished run that was made with another {', '.join(differing)}: delete it, or "
                "choose another --out"
            )
    elif isinstance(config, ElvaConfig):
        train_elva(config, resume=True)
    else:
        train_contrastive(config, resume=True)


def summarise(found: Mapping[str, MeasuredEmbedder], config: DemoElvaConfig, seconds: float) -> dict[str, Any]:
    """results.json: every row's figures, and how they were made."""
    p = plan(config)
    return {
        "rows": [
            {"method": row.name, "mode": row.mode, **_training(config, row), **found[row.name].figures} for row in ROWS
        ],
        "seed": config.seed,
        "base": config.base,
        "world": asdict(p.world),
        "queries": asdict(p.queries),
        "versions": versions(),
        "command": f"fieldmark demo-elva --out {config.out} --base {config.base} --seed {config.seed}"
        + (" --short" if config.short else ""),
        "seconds": seconds,
    }


def _training(config: DemoElvaConfig, row: Row) -> dict[str, Any]:
    if row.name not in TRAINED:
        return {}
    results = json.loads((Path(config.out) / row.run / "results.json").read_text(encoding="utf-8"))
    return {"steps": results["steps"], "queries_seen": results["queries_seen"], "training_seconds": results["seconds"]}


def _report(found: Mapping[str, MeasuredEmbedder], config: DemoElvaConfig, summary: Mapping[str, Any]) -> Path:
    out = Path(config.out)
    rows = [
        EmbedderRow(
            row.name, row.title, row.role, row.note, found[row.name].figures, found[row.name].multi_grain_hits,
            out / row.run / "log.jsonl" if row.name in TRAINED else None,
        )
        for row in ROWS
    ]  # fmt: skip
    sides = [row for row in ROWS if row.name in ("stage2", "stage3")]
    report = ElvaReport(
        "ELVA on Fieldguide", INTRO, rows, shown_task(out / "collection"), "stage3", "stage2",
        {row.name: EmbedderSource(str(out / row.run), mode=row.mode).load() for row in sides},
        settings={key: summary[key] for key in ("command", "base", "seed", "world", "queries", "versions", "seconds")},
        seed=config.seed,
    )  # fmt: skip
    return build_elva_report(report, out / "report.html")


def table(found: Mapping[str, MeasuredEmbedder]) -> str:
    """What the demo prints at its end: percent, and tokens."""
    heads = ("R@5 1 grain", "R@5 2+", "sensitivity", "satisfied", "mean of tasks", "tokens")
    lines = [f"{'':<28}" + "".join(f"{head:>14}" for head in heads)]
    for row in ROWS:
        f = found[row.name].figures
        values: Sequence[float | None] = (
            _of(f["single_grain"], "mean"), _of(f["multi_grain"], "mean"), _of(f["sensitivity"], "relative"),
            _of(f["compliance"], "satisfied"), f["average"],
        )  # fmt: skip
        cells = ["–" if value is None else f"{100 * value:.1f}" for value in values]
        tokens = _of(f["queries"], "tokens")
        cells.append("–" if tokens is None else f"{tokens:.1f}")
        lines.append(f"{row.title:<28}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _of(figures: Mapping[str, Any] | None, key: str) -> Any:
    return None if figures is None else figures[key]
