"""Reports of runs: reads what their folders say and hands it to `report`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.experiments.saved_runs import read_part
from fieldmark.models.backbone import Backbone
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.report import MethodReport, Report, build_report, method_from_run
from fieldmark.report.inputs import Role
from fieldmark.training.config import DataConfig, LossWeights, ModelConfig
from fieldmark.training.run_folder import read_config
from fieldmark.training.session import load_split, load_supervisor

INTRO = (
    "Every method below embeds pictures of classes that it never saw in training. Each picture in turn is the "
    "query, and all the others are searched. Recall@1 is the share of queries whose nearest picture is of the "
    "same class."
)


@dataclass(frozen=True)
class _Run:
    path: Path
    config: dict[str, Any]
    results: dict[str, Any]
    data: DataConfig

    @property
    def is_saga(self) -> bool:
        return "supervision" in self.config


def report_runs(
    runs: Sequence[Path],
    out: Path,
    *,
    baseline: str | None = None,
    title: str = "Retrieval of unseen classes",
    intro: str = INTRO,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> Path:
    """Write one report about one or several finished runs on the same pictures; returns its path.

    Args:
        baseline: name (of its folder) of the run that the others are compared with; None takes the first run
            of a metric loss alone.
        settings: shown at the end; None tells the command and versions of each run.

    Raises:
        ValueError: no run, an unfinished one, runs on different pictures, or an unknown baseline.
    """
    if not runs:
        raise ValueError("no run given: set --run FOLDER, once for every run of the report")
    opened = [_open(Path(run)) for run in runs]
    _require_same_pictures(opened)
    names = _names(opened)
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline {baseline!r} is none of the runs {', '.join(names)}")
    methods = [_method(run, name) for run, name in zip(opened, names, strict=True)]
    supervisor, rollouts, layer = _supervisor(opened)
    report = Report(
        title=title,
        intro=intro,
        methods=methods,
        test=load_split(opened[0].data).test,
        settings=_settings(opened, names) if settings is None else settings,
        baseline=baseline,
        supervisor=supervisor,
        rollouts=rollouts,
        attention_layer=layer,
        workers=workers,
    )
    return build_report(report, Path(out))


def _open(path: Path) -> _Run:
    config = read_config(path)
    results = path / "results.json"
    if not results.is_file():
        raise ValueError(f"{path} is not finished: continue it with --resume, or leave it out of the report")
    return _Run(
        path,
        config,
        json.loads(results.read_text(encoding="utf-8")),
        read_part(DataConfig, config, "data", path),
    )


def _require_same_pictures(runs: Sequence[_Run]) -> None:
    def pictures(run: _Run) -> tuple[Path, float]:
        return Path(run.data.path).resolve(), run.data.train_fraction

    first = runs[0]
    for run in runs[1:]:
        if pictures(run) != pictures(first):
            raise ValueError(
                f"{run.path} was tested on other classes than {first.path} ({run.data.path}, train_fraction "
                f"{run.data.train_fraction}; {first.data.path}, {first.data.train_fraction}): report apart"
            )


def _names(runs: Sequence[_Run]) -> list[str]:
    """Folder names, with as many parents as make them different."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError("a run is given twice")


def _method(run: _Run, name: str) -> MethodReport:
    title, role = _title_and_role(run)
    return method_from_run(run.path, name, title, role, _note(run))


def _title_and_role(run: _Run) -> tuple[str, Role]:
    pooler = run.config["model"]["pooler"]
    if run.results.get("steps") == 0:
        return f"untrained tower, {pooler} pooled", "start"
    if not run.is_saga:
        loss = str(run.config["metric"]["name"]).rsplit(":", 1)[-1].replace("_", " ")
        return f"{loss[:1].upper()}{loss[1:]}, {pooler} pooler", "baseline"
    weights = read_part(LossWeights, run.config, "weights", run.path)
    if weights.policy == 0 and weights.policy_relative is None:
        form = "Attention alignment only" if weights.alignment > 0 else "Metric loss only"
    else:
        form = "SAGA" if weights.alignment > 0 else "SAGA without attention alignment"
    kinds: dict[str, tuple[str, Role]] = {
        "verdict": (form, "method"),
        "permuted": (f"{form}, rewards permuted within each group", "control"),
        "oracle": ("True descriptions in place of rollouts", "ceiling"),
        "wrong": ("Descriptions of other pictures in place of rollouts", "control"),
    }
    return kinds[run.config["supervision"]]


def _note(run: _Run) -> str:
    steps = run.results.get("steps", 0)
    if steps == 0:
        return "Not trained."
    chosen = run.results.get("validation", {}).get("best_step", steps)
    kept = run.config["schedule"]["select"]
    rate = run.config["optimiser"]["tower_lr"]
    choice = f"step {chosen} chosen by Recall@1 on validation classes" if kept == "best" else "the last step kept"
    seed = run.config["seed"]
    seen = f"{steps} steps, {run.results['pictures_seen']} pictures seen"
    return f"{seen}, tower learning rate {rate:g}, seed {seed}; {choice}."


def _supervisor(runs: Sequence[_Run]) -> tuple[Backbone | None, RolloutConfig | None, int | None]:
    """The supervisor of the first run that asked one."""
    for run in runs:
        if run.is_saga:
            model = read_part(ModelConfig, run.config, "model", run.path)
            rollouts = read_part(RolloutConfig, run.config, "rollouts", run.path)
            return load_supervisor(model), rollouts, run.config["alignment_layer"]
    return None, None, None


def _settings(runs: Sequence[_Run], names: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {"pictures": runs[0].data.path}
    for run, name in zip(runs, names, strict=True):
        record = run.path / "run.json"
        if record.is_file():
            start = json.loads(record.read_text(encoding="utf-8"))["starts"][-1]
            settings[name] = {key: start[key] for key in ("command", "time", "git_commit", "versions") if key in start}
    return settings
