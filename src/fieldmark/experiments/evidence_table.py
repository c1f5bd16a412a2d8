"""What docs/evidence holds: the rows of finished runs as a table, a figure and JSON."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.report.dot_plot import DotRow, dot_plot
from fieldmark.training.run_folder import write_text

TITLES = {
    "untrained": "untrained tower, mean pooled",
    "metric_mean": "Potential Field, mean pooler",
    "metric": "Potential Field, attention pooler",
    "kl": "+ attention alignment (KL)",
    "grpo": "+ GRPO",
    "saga": "SAGA: + GRPO + KL",
    "saga_permuted_reward": "control: SAGA, rewards permuted",
    "oracle": "ceiling: true descriptions in place of rollouts",
    "wrong_descriptions": "control: true descriptions of other pictures",
}
BASELINES = ("metric", "metric_mean")


def write_table(
    rows: Sequence[Mapping[str, Any]], listed: Mapping[float, Sequence[str]], folder: Path, intro: str, config: Any
) -> None:
    """Write fieldguide.md, fieldguide.svg and fieldguide.json into ``folder``.

    Args:
        rows: finished runs: habitat, seed, method and test figures.
        listed: the methods to list, by ρ; those without a run are named as such.
        intro: first paragraph: where the rows come from.
        config: stored in the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# SAGA on Fieldguide",
        "",
        f"{intro} Figures in percent on unseen species, mean ± sample standard deviation over seeds. *− baseline*, *− "
        "permuted*: R@1 minus the better of both Potential Field rows, and minus the control with permuted rewards, of "
        "the same world and seed.",
        "",
        "![Recall@1 of every run](fieldguide.svg)",
    ]
    for habitat, methods in listed.items():
        here = [r for r in rows if r["habitat"] == habitat]
        lines += [
            "",
            f"## Habitat dial ρ = {habitat:g}",
            "",
            "| method | R@1 | R@2 | MAP@R | NMI | − baseline | − permuted | runs | R@1 on validation | seconds |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(here, method) for method in methods]
    plotted = [
        DotRow(
            TITLES[method],
            method == "saga",
            {
                f"ρ = {habitat:g}": [
                    100 * r["recall_at_1"] for r in rows if r["habitat"] == habitat and r["method"] == method
                ]
                for habitat in listed
            },
        )
        for method in TITLES
        if any(r["method"] == method for r in rows)
    ]
    if plotted:
        figure = dot_plot(
            plotted, [f"ρ = {h:g}" for h in listed], title="Unseen species, one dot per seed", unit="Recall@1, percent"
        )
        write_text(folder / "fieldguide.svg", figure + "\n")
    write_text(folder / "fieldguide.md", "\n".join(lines) + "\n")
    write_text(folder / "fieldguide.json", json.dumps({"config": config, "rows": list(rows)}, indent=1) + "\n")


def stored_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``folder``/fieldguide.json; none if there is no such file."""
    path = folder / "fieldguide.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


def paired_difference(
    rows: Iterable[Mapping[str, Any]], row: Mapping[str, Any], others: Sequence[str] = BASELINES
) -> float | None:
    """R@1 in points of ``row`` minus the best of ``others`` in the same world and seed; None if one is missing."""
    found = {
        r["method"]: r["recall_at_1"]
        for r in rows
        if r["method"] in others and r["seed"] == row["seed"] and r["habitat"] == row["habitat"]
    }
    return 100 * (row["recall_at_1"] - max(found.values())) if len(found) == len(others) else None


def _line(here: Sequence[Mapping[str, Any]], method: str) -> str:
    mine = [r for r in here if r["method"] == method]
    if not mine:
        return f"| {TITLES[method]} | not run yet | | | | | | | | |"
    cells = [
        TITLES[method],
        *(_spread(100 * r[column] for r in mine) for column in ("recall_at_1", "recall_at_2", "map_at_r", "nmi")),
    ]
    for others in (BASELINES, ("saga_permuted_reward",)):
        gaps = [gap for r in mine if (gap := paired_difference(here, r, others)) is not None]
        cells.append(_spread(gaps, sign=True) if gaps and method not in others else "–")
    cells += [
        str(len(mine)),
        _spread(100 * r["validation_recall_at_1"] for r in mine),
        _spread((r["seconds"] for r in mine), digits=0),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Iterable[float], sign: bool = False, digits: int = 1) -> str:
    numbers = list(values)
    form = f"{'+' if sign else ''}.{digits}f"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):{form}}{spread}"
