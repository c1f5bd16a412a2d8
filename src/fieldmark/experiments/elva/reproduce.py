"""`fieldmark reproduce elva`: run what a table lacks, wave by wave, and write it after every run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fieldmark.experiments.elva.cost import listing
from fieldmark.experiments.elva.inputs import check_inputs
from fieldmark.experiments.elva.plan import ElvaTableConfig, Place, PlannedRun, plan_runs
from fieldmark.experiments.elva.report import write_report
from fieldmark.experiments.elva.runs import ElvaRun, execute
from fieldmark.experiments.elva.tables import HEADLINES, load_table
from fieldmark.experiments.runs import in_processes
from fieldmark.experiments.tables.costs import missing_runs


def reproduce_elva(config: ElvaTableConfig) -> str:
    """Run every row and seed that is not finished; returns the table as Markdown, or the list of a dry run.

    Raises:
        ValueError: bad input, before the first run or from it.
    """
    inputs = check_inputs(config)
    table, planned = load_table(config.table), plan_runs(config)
    if config.dry_run:
        return "\n".join([*inputs, "", listing(planned, config)])
    missing = with_starts(missing_runs(planned)[: config.limit])
    _prepare(missing, planned, config)
    waves = sorted({run.depth for run in missing})
    title, headline = HEADLINES[table.gains_in(config.benchmark)]
    by_results = {p.run.results: p for p in planned}
    done = 0
    for depth in waves:
        for group, outcomes in in_processes(
            by_folder([run for run in missing if run.depth == depth]), execute, config.processes_used
        ):
            for run, outcome in zip(group, outcomes, strict=True):
                done += 1
                one, score = by_results.get(run.results), headline(outcome["figures"])
                what = "the start of another row" if one is None else f"{one.row.key}, seed {one.seed}"
                figure = "–" if score is None else f"{100 * score:.1f} %"
                print(f"\n[{done}/{len(missing)}] {what}: {title} {figure}", flush=True)
            write_report(table, planned, config)
    return write_report(table, planned, config)


def with_starts(planned: Sequence[PlannedRun]) -> list[ElvaRun]:
    """Their runs, and those that they start from and that are not finished, each once."""
    found: dict[Path, ElvaRun] = {}

    def add(run: ElvaRun) -> None:
        if run.after is not None and not run.after.finished:
            add(run.after)
        found.setdefault(run.results, run)

    for p in planned:
        add(p.run)
    return list(found.values())


def by_folder(runs: Sequence[ElvaRun]) -> list[tuple[ElvaRun, ...]]:
    """Runs that share a training together, in the order of the first of each: two processes must not train one."""
    groups: dict[Path, list[ElvaRun]] = {}
    for run in runs:
        groups.setdefault(run.folder, []).append(run)
    return [tuple(group) for group in groups.values()]


def _prepare(missing: Sequence[ElvaRun], planned: Sequence[PlannedRun], config: ElvaTableConfig) -> None:
    """Worlds, benchmarks and mined negatives of the runs that are to be done."""
    wanted = {run.results: run for run in missing}
    trained: dict[Path, bool] = {}
    places: dict[Path, Place] = {}
    for p in planned:
        run = wanted.get(p.run.results)
        if run is not None:
            place = Path(p.place.mining.out)
            places[place] = p.place
            trained[place] = trained.get(place, False) or run.trains != "none"
    for mined in (False, True):
        tasks = [place for key, place in places.items() if trained[key] is mined]
        if tasks:
            print(f"data: {', '.join(str(place.root) for place in tasks)}", flush=True)
        for _ in in_processes(tasks, partial(Place.prepare, mined=mined), config.processes_used):
            pass
