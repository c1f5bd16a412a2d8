"""Our figures beside the printed ones: Markdown, JSON, figure. The two are never put into one column."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fieldmark.experiments.elva.columns import MEASURED, Column, cells, shown_columns, signal_cells
from fieldmark.experiments.elva.comparison import Measured, compare
from fieldmark.experiments.elva.plan import ElvaTableConfig, PlannedRun
from fieldmark.experiments.elva.published import IN_WORDS, PRINTED, SMALLER
from fieldmark.experiments.elva.signals import SIGNALS
from fieldmark.experiments.elva.tables import BENCHMARK_TITLES, FIELDGUIDE, HEADLINES, MBEIR, Row, Table
from fieldmark.experiments.tables.cells import spread
from fieldmark.report.dot_plot import DotRow, dot_plot
from fieldmark.training.run_folder import to_plain, write_text

_PATHS = ("root", "base", "recipe", "contrastive", "mrbench", "annotations", "videos")
"""Options that name files of one's own: a report tells that they were given, not where they lay."""


def collect(planned: Sequence[PlannedRun], folder: Path) -> list[dict[str, Any]]:
    """One entry per finished run of the table (shares, not percent); ``run``: its place below ``folder``."""
    return [
        {
            "row": p.row.key,
            "label": p.row.label,
            "seed": p.seed,
            "run": p.run.folder.relative_to(folder).as_posix(),
            **p.run.read(),
        }
        for p in planned
        if p.run.finished
    ]


def write_report(table: Table, planned: Sequence[PlannedRun], config: ElvaTableConfig) -> str:
    """Write DOCS/elva-<table>-<benchmark>.md, .json and, with a finished run, .svg; returns the Markdown."""
    folder = config.docs_folder
    folder.mkdir(parents=True, exist_ok=True)
    name = f"elva-{table.name}-{config.benchmark}"
    measured = collect(planned, config.folder)
    figure = _figure(table, config, measured)
    if figure is not None:
        write_text(folder / f"{name}.svg", figure + "\n")
    text = _markdown(table, config, measured, f"{name}.svg" if figure else None)
    write_text(folder / f"{name}.md", text)
    content = {
        "table": table.name,
        "benchmark": config.benchmark,
        "config": _described(config),
        "published": {
            "source": f"{PRINTED.paper}, {table.paper}",
            "figures": [asdict(p) for p in PRINTED.of_table(table.name)],
        },
        "measured": measured,
    }
    write_text(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return text


def _described(config: ElvaTableConfig) -> dict[str, Any]:
    """What decides about the figures; paths of one's own as NAMES."""
    plain: dict[str, Any] = to_plain(config)
    for name in ("limit", "dry_run", "out", "docs"):
        plain.pop(name)
    return plain | {name: name.upper() for name in _PATHS if plain[name] is not None}


def command(config: ElvaTableConfig) -> str:
    """The command line that makes this table again; paths of one's own as NAMES."""
    words = ["fieldmark reproduce elva", f"--table {config.table}", f"--benchmark {config.benchmark}"]
    for name in _PATHS:
        if getattr(config, name) is not None:
            words.append(f"--{name} {name.upper()}")
    return " ".join([*words, f"--seeds [{','.join(map(str, config.seeds))}]"])


def _markdown(table: Table, config: ElvaTableConfig, measured: Sequence[Measured], figure: str | None) -> str:
    lines = [f"# ELVA. {table.title}: {BENCHMARK_TITLES[config.benchmark]}", "", _intro(table, config, measured), ""]
    lines += [_printed_text(table, config), ""]
    if table.note:
        lines += [table.note, ""]
    if figure is not None:
        lines += [f"![The headline of every run]({figure})", ""]
    lines += _main_table(table, config, measured)
    for section in MEASURED:
        columns = shown_columns(section, measured)
        if columns:
            lines += ["", f"## {section.title}", "", section.note, ""]
            lines += _table([], columns, table.shown(config.benchmark), measured)
    lines += _signals(table, config, measured)
    if table.judged is not None:
        lines += _judgement(table, config, measured)
    return "\n".join(lines) + "\n"


def _intro(table: Table, config: ElvaTableConfig, measured: Sequence[Measured]) -> str:
    title = HEADLINES[table.gains_in(config.benchmark)][0]
    seeds = ", ".join(map(str, config.seeds))
    threads = sorted({r["threads"] for r in measured})
    what = "seeds of world and training" if config.benchmark == FIELDGUIDE else "training seeds"
    return (
        f"Made by `{command(config)}`: {what} {seeds}; percent, mean ± sample standard deviation over seeds. *Gain*: "
        f"{title}, in points above the row named under it, of the same seed. Each run on "
        f"{' or '.join(map(str, threads)) or 'no'} thread{'' if threads == [1] else 's'}, "
        f"{config.processes_used} at a time."
    )


def _printed_text(table: Table, config: ElvaTableConfig) -> str:
    text = f"Published: {PRINTED.paper}. {table.paper}."
    if table.name in IN_WORDS:
        text += f" {IN_WORDS[table.name]}"
    if PRINTED.of_table(table.name) and config.benchmark != MBEIR:
        text += (
            " Printed figures are of other data and a model a thousand times as large: only the order of the rows and "
            "the sign of the gains can be compared."
        )
    return text


def _main_table(table: Table, config: ElvaTableConfig, measured: Sequence[Measured]) -> list[str]:
    labels = {row.key: row.label for row in table.rows}
    title, score = HEADLINES[table.gains_in(config.benchmark)]
    printed = bool(PRINTED.of_table(table.name))
    heads = ["published, M-BEIR (gain)"] if printed else []
    heads += [title, "gain", "runs", "training, s", "measuring, s"]
    lines = [f"| row | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in table.shown(config.benchmark):
        mine = [r for r in measured if r["row"] == row.key]
        found = [100 * value for r in mine if (value := score(r["figures"])) is not None]
        own = [spread(found) if found else "–"]
        above: tuple[float, ...] = ()
        if row.against is not None:
            against = next(one for one in table.rows if one.key == row.against)
            above = compare(table, config.benchmark, measured, row, against).points
        own += [spread(above, sign=True) if above else "–", str(len(mine))]
        own += [spread((r[key] for r in mine), digits=0) for key in ("training_seconds", "measuring_seconds") if mine]
        if not mine:
            own = ["not run yet", "", "", "", ""]
        under = "" if row.against is None else f" (against: {labels[row.against]})"
        lines.append(f"| {' | '.join([row.label + under, *([_printed(table, row)] if printed else []), *own])} |")
    return lines


def _printed(table: Table, row: Row) -> str:
    """'58.7 (+2.1); 2B 53.8 (+2.2)' of the publication, or a dash."""
    parts = []
    for metric, before in ((table.headline, ""), (SMALLER, "2B ")):
        one = PRINTED.find(table.name, row.key, MBEIR, metric)
        base = None if row.against is None else PRINTED.find(table.name, row.against, MBEIR, metric)
        if one is not None:
            gain = "" if base is None else f" ({one.percent - base.percent:+.1f})"
            parts.append(f"{before}{one.as_text()}{gain}")
    return "; ".join(parts) or "–"


def _table(
    first: Sequence[str], columns: Sequence[Column], rows: Iterable[Row], measured: Sequence[Measured]
) -> list[str]:
    heads = [*first, *(column.title for column in columns)]
    lines = [f"| row | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        mine = [r for r in measured if r["row"] == row.key]
        if mine:
            lines.append(f"| {' | '.join([row.label, *cells(columns, mine)])} |")
    return lines


def _signals(table: Table, config: ElvaTableConfig, measured: Sequence[Measured]) -> list[str]:
    """What the third stage saw of itself, for whoever asks why."""
    trained = [
        row for row in table.shown(config.benchmark) if any(r["row"] == row.key and r["signals"] for r in measured)
    ]
    if not trained:
        return []
    lines = ["", "## What training saw", "", "First → last fifth of the steps, mean over seeds.", ""]
    lines += [f"| row | {' | '.join(SIGNALS.values())} |", "|---" * (len(SIGNALS) + 1) + "|"]
    for row in trained:
        mine = [r["signals"] for r in measured if r["row"] == row.key and r["signals"]]
        lines.append(f"| {' | '.join([row.label, *signal_cells(mine)])} |")
    return lines


def _judgement(table: Table, config: ElvaTableConfig, measured: Sequence[Measured]) -> list[str]:
    """One row against every other."""
    judged = next(row for row in table.rows if row.key == table.judged)
    lines = []
    for row in table.shown(config.benchmark):
        found = compare(table, config.benchmark, measured, judged, row)
        if row.key != judged.key and found.points:
            by_seed = ", ".join(f"{value:+.1f}" for value in found.points)
            own = [f"{spread(found.points, sign=True)} ({by_seed})"]
            own.append(f"{spread(found.relative, sign=True)} %" if found.relative else "–")
            own.append(f"× {spread(found.sensitivity, digits=2)}" if found.sensitivity else "–")
            own.append(spread(found.single_grain, sign=True) if found.single_grain else "–")
            lines.append(f"| {' | '.join([row.label, *own])} |")
    if not lines:
        return []
    title = HEADLINES[table.gains_in(config.benchmark)][0]
    heads = [f"{judged.label} against", f"{title}, points (by seed)", "relative", "relative sensitivity"]
    heads.append("queries of one grain, points")
    return ["", f"## {judged.label}, seed by seed", "", f"| {' | '.join(heads)} |", "|---" * 5 + "|", *lines]


def _figure(table: Table, config: ElvaTableConfig, measured: Sequence[Measured]) -> str | None:
    """Ours in the first panel, one dot per seed; the publication's in a panel of its own."""
    title, score = HEADLINES[table.gains_in(config.benchmark)]
    ours, theirs = f"measured, {BENCHMARK_TITLES[config.benchmark]}", "published, M-BEIR"
    rows = []
    for row in table.shown(config.benchmark):
        found = [score(r["figures"]) for r in measured if r["row"] == row.key]
        one = PRINTED.find(table.name, row.key, MBEIR, table.headline)
        values = {ours: [100 * v for v in found if v is not None], theirs: [] if one is None else [one.percent]}
        rows.append(DotRow(row.label, row.trains == "elva", values))
    if not any(row.values[ours] for row in rows):
        return None
    printed = [theirs] if any(row.values[theirs] for row in rows) else []
    return dot_plot(rows, [ours, *printed], title=f"ELVA. {table.title}", unit=f"{title}, percent")
