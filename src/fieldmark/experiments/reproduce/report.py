"""Our figures beside the printed ones: Markdown, JSON, figure. The two are never put into one column."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fieldmark.experiments.reproduce.plan import PlannedRun, ReproduceConfig
from fieldmark.experiments.reproduce.published import PRINTED, published
from fieldmark.experiments.reproduce.tables import BENCHMARK_TITLES, FIELDGUIDE, Row, Table, row_label
from fieldmark.experiments.tables.cells import spread
from fieldmark.report.dot_plot import DotRow, dot_plot
from fieldmark.training.run_folder import write_text

COLUMNS = {
    "recall_at_2": "R@2",
    "recall_at_4": "R@4",
    "recall_at_8": "R@8",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
}


def collect(planned: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """One entry per finished run of the table: row, seed, folder and what it measured (shares, not percent)."""
    rows = []
    for p in planned:
        if p.run.finished:
            stored = json.loads(p.run.results.read_text())
            rows.append(
                {
                    "row": p.row.key,
                    "label": row_label(p.row, p.run.config),
                    "seed": p.seed,
                    "run": str(p.run.folder),
                    **stored["test"],
                    "steps": stored["steps"],
                    "seconds": stored["seconds"],
                    "threads": stored["threads"],
                    "validation_recall_at_1": stored["validation"]["recall_at_1"],
                }
            )
    return rows


def write_report(
    table: Table,
    planned: Sequence[PlannedRun],
    config: ReproduceConfig,
    measures: Mapping[str, Any],
    sections: Iterable[str] = (),
) -> str:
    """Write DOCS/<table>-<benchmark>.md, .json and, with a finished run, .svg; returns the Markdown.

    Args:
        measures: what was measured besides the runs, for the JSON.
        sections: the same as Markdown, put under the table.
    """
    folder = config.docs_folder
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{table.name}-{config.benchmark}"
    measured = collect(planned)
    beside = [config.benchmark] if config.benchmark != FIELDGUIDE else list(PRINTED.benchmarks(table.name))
    figure = _figure(table, config, measured, planned, beside)
    if figure is not None:
        write_text(folder / f"{name}.svg", figure + "\n")
    text = _markdown(table, config, measured, planned, beside, sections, f"{name}.svg" if figure else None)
    write_text(folder / f"{name}.md", text)
    content = {
        "table": table.name,
        "benchmark": config.benchmark,
        "config": asdict(config),
        "published": {
            "source": f"{PRINTED.paper}, {table.paper}",
            "figures": [asdict(p) for p in PRINTED.of_table(table.name)],
        },
        "measured": measured,
        "measures": dict(measures),
    }
    write_text(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return text


def _markdown(
    table: Table,
    config: ReproduceConfig,
    measured: Sequence[Mapping[str, Any]],
    planned: Sequence[PlannedRun],
    beside: Sequence[str],
    sections: Iterable[str],
    figure: str | None,
) -> str:
    labels = _labels(planned)
    seeds = ", ".join(map(str, config.seeds))
    threads = sorted({r["threads"] for r in measured})
    seconds = sum({r["run"]: r["seconds"] for r in measured}.values())
    what = "seeds of world and training" if config.benchmark == FIELDGUIDE else "training seeds"
    intro = (
        f"Made by `{command(config)}`: {what} {seeds}; percent on unseen classes, mean ± sample standard deviation "
        f"over seeds. *Gain*: R@1 minus that of the row named under it, of the same seed. The runs shown took "
        f"{seconds / 60:.0f} minutes in all, each on {' or '.join(map(str, threads)) or 'no'} "
        f"thread{'' if threads == [1] else 's'}, {config.processes_used} at a time."
    )
    printed = f"Published: {PRINTED.paper}. {table.paper}."
    if config.benchmark == FIELDGUIDE and beside:
        printed += (
            " These are other pictures and a model a thousand times as large: only the order of the rows and the sign "
            "of the gains can be compared."
        )
    lines = [f"# {table.title}: {BENCHMARK_TITLES[config.benchmark]}", "", intro, "", printed, "", table.note, ""]
    if figure is not None:
        lines += [f"![Recall@1 of every run]({figure})", ""]
    heads = [f"published, {BENCHMARK_TITLES[b]} (gain)" for b in beside]
    heads += ["R@1", "gain", *COLUMNS.values(), "runs", "seconds"]
    lines += [f"| row | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in table.shown(config.benchmark):
        against = "" if row.against is None else f" (against: {labels[row.against]})"
        cells = [labels[row.key] + against, *(_printed(table, row, b) for b in beside)]
        cells += _measured_cells(measured, row, len(COLUMNS))
        lines.append(f"| {' | '.join(cells)} |")
    for section in sections:
        lines += ["", section]
    return "\n".join(lines) + "\n"


def command(config: ReproduceConfig) -> str:
    """The command line that makes this table again."""
    words = ["fieldmark reproduce saga", f"--table {config.table}", f"--benchmark {config.benchmark}"]
    for name in ("root", "supervisor", "recipe"):
        if getattr(config, name) is not None:
            words.append(f"--{name} {name.upper()}")
    words.append(f"--seeds [{','.join(map(str, config.seeds))}]")
    if config.benchmark == FIELDGUIDE and config.habitat != ReproduceConfig.habitat:
        words.append(f"--habitat {config.habitat:g}")
    return " ".join(words)


def _labels(planned: Sequence[PlannedRun]) -> dict[str, str]:
    return {p.row.key: row_label(p.row, p.run.config) for p in planned}


def _printed(table: Table, row: Row, benchmark: str) -> str:
    """'87.9 ± 0.3 (+6.3); R@4 93.1' of the publication, or a dash."""
    one = published(table.name, row.key, benchmark)
    if one is None:
        return "–"
    text = one.as_text()
    base = None if row.against is None else published(table.name, row.against, benchmark)
    if base is not None:
        text += f" ({one.percent - base.percent:+.1f})"
    for metric, title in COLUMNS.items():
        more = published(table.name, row.key, benchmark, metric)
        if more is not None:
            text += f"; {title} {more.as_text()}"
    return text


def _measured_cells(measured: Sequence[Mapping[str, Any]], row: Row, columns: int) -> list[str]:
    mine = [r for r in measured if r["row"] == row.key]
    if not mine:
        return ["not run yet", *[""] * (columns + 3)]
    base = {r["seed"]: r["recall_at_1"] for r in measured if r["row"] == row.against}
    gains = [100 * (r["recall_at_1"] - base[r["seed"]]) for r in mine if r["seed"] in base]
    return [
        spread(100 * r["recall_at_1"] for r in mine),
        spread(gains, sign=True) if gains else "–",
        *(spread(100 * r[metric] for r in mine) for metric in COLUMNS),
        str(len(mine)),
        spread((r["seconds"] for r in mine), digits=0),
    ]


def _figure(
    table: Table,
    config: ReproduceConfig,
    measured: Sequence[Mapping[str, Any]],
    planned: Sequence[PlannedRun],
    beside: Sequence[str],
) -> str | None:
    """Ours in the first panel, one dot per seed; the publication's in panels of their own."""
    if not measured:
        return None
    labels = _labels(planned)
    ours = f"measured, {BENCHMARK_TITLES[config.benchmark]}"
    rows = []
    for row in table.shown(config.benchmark):
        values = {ours: [100 * r["recall_at_1"] for r in measured if r["row"] == row.key]}
        for benchmark in beside:
            one = published(table.name, row.key, benchmark)
            values[f"published, {BENCHMARK_TITLES[benchmark]}"] = [] if one is None else [one.percent]
        rows.append(DotRow(labels[row.key], row.trains == "saga", values))
    printed = [p for p in (f"published, {BENCHMARK_TITLES[b]}" for b in beside) if any(r.values[p] for r in rows)]
    return dot_plot(rows, [ours, *printed], title=table.title, unit="Recall@1, percent")
