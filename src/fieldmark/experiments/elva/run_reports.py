"""Reports of universal embedders: reads what runs' folders say, measures, and hands it to `report.elva`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import TASKS, Split, TaskName, find_tasks
from fieldmark.data.retrieval import RetrievalTask
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.experiments.elva.measure import TEXT_TO_IMAGE, measure_embedder
from fieldmark.experiments.evaluate_embedder import EmbedderSource
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.report.elva import ElvaReport, ElvaSizes, EmbedderRow, build_elva_report
from fieldmark.report.inputs import Role
from fieldmark.training.embedder_model import embedder_folder
from fieldmark.training.run_folder import read_config

INTRO = (
    "Every row below embeds text, pictures and both with one multimodal language model. In one-word mode the embedding "
    "is read at a slot of the prompt; in generative mode the model first writes a summary and the embedding is read "
    "behind it.\n\nA grain is an atomic part of what a query asks for: one field mark of a bird, say. Queries of "
    "several grains are hard because a picture that lacks one of them looks almost right."
)


def shown_task(root: Path, split: Split = "test") -> RetrievalTask:
    """The task whose single queries a report shows: the first text → image task, else the first."""
    names: Sequence[TaskName] = find_tasks(root, split)
    name = next((one for one in names if TASKS[one.task] == TEXT_TO_IMAGE), names[0])
    return open_mbeir_task(root, name, split)[0]


def report_embedder_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None = None,
    title: str = "Universal embedders",
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> Path:
    """Write one report about one or several finished runs on the same collection; returns its path.

    The embedder that the first run started from is a row of its own. Everything is measured on the collection's test
    queries. Single rankings compare ``baseline`` with the last run of stage 3 (without one, with the last run).

    Args:
        baseline: name (of its folder) of the run that rankings are compared with; None takes where the run started.
        say: told what is being done.

    Raises:
        ValueError: no run, an unfinished one, runs on different data, data without test queries, or an unknown
            baseline.
    """
    if not runs:
        raise ValueError("no run given: set --run FOLDER, once for every run of the report")
    opened = [_open(Path(run)) for run in runs]
    roots = {Path(run.config["data"]["path"]).resolve() for run in opened}
    if len(roots) > 1:
        raise ValueError(
            f"the runs were trained on different data ({', '.join(map(str, sorted(roots)))}): report apart"
        )
    root = roots.pop()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder in M-BEIR's layout: without test queries there is nothing to report")
    names = [run.path.resolve().name for run in opened]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two runs are called {', '.join(twice)}: give one of the folders another name")
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline {baseline!r} is none of the runs {', '.join(names)}")
    models = {"start": _start(opened[0])}
    rows = [EmbedderRow("start", "Where the first run began", "start", str(opened[0].config["model"]["base"]))]
    for run, name in zip(opened, names, strict=True):
        models[name] = EmbedderSource(str(run.path)).load()
        what, role = _title_and_role(run.config)
        log = run.path / "log.jsonl"
        note = f"{run.results['steps']} steps, {run.results['queries_seen']} queries seen, seed {run.config['seed']}."
        rows.append(EmbedderRow(name, f"{what} ({name})", role, note, log=log if log.is_file() else None))
    full = []
    for row in rows:
        say(f"measuring {row.title}")
        found = measure_embedder(models[row.name], root, encoding=EncodingConfig(workers=workers), say=say)
        full.append(replace(row, figures=found.as_json()))
    after = next((row.name for row in reversed(rows) if row.role == "method"), names[-1])
    before = baseline or "start"
    if after == before:
        raise ValueError(f"{after} is the only run that could be compared with baseline {before}: name another one")
    report = ElvaReport(
        title, INTRO, full, shown_task(root), after, before, models,
        settings={"data": str(root), **{name: _settings(run.path) for run, name in zip(opened, names, strict=True)}},
        workers=workers, sizes=ElvaSizes(),
    )  # fmt: skip
    return build_elva_report(report, out)


@dataclass(frozen=True)
class _Run:
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]


def _open(path: Path) -> _Run:
    config = read_config(path)
    results = path / "results.json"
    if not results.is_file():
        raise ValueError(f"{path} is not finished: continue it with --resume, or leave it out of the report")
    return _Run(path, config, json.loads(results.read_text(encoding="utf-8")))


def _start(run: _Run) -> UniversalEmbedder:
    """What the run began with, asked in one word, in the run's own words."""
    asked = EmbedderConfig(**run.config["model"]["embedder"])
    return load_embedder(embedder_folder(run.config["model"]["base"]), config=replace(asked, mode="one_word"))


def _title_and_role(config: Mapping[str, Any]) -> tuple[str, Role]:
    if "summaries" not in config:
        return "Contrastive", "baseline"
    if config["supervision"] == "permuted":
        return "Stage 3, rewards permuted within each group", "control"
    return "Stage 3", "method"


def _settings(path: Path) -> dict[str, Any]:
    record = path / "run.json"
    if not record.is_file():
        return {}
    start = json.loads(record.read_text(encoding="utf-8"))["starts"][-1]
    return {key: start[key] for key in ("command", "time", "git_commit", "versions") if key in start}
