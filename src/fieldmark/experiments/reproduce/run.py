"""`fieldmark reproduce saga`: run what a table lacks, measure what it asks for, write it after every run."""

from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import is_fieldguide
from fieldmark.experiments.fieldguide import make_world
from fieldmark.experiments.reproduce.cost import listing
from fieldmark.experiments.reproduce.measures import measure, measure_sections
from fieldmark.experiments.reproduce.plan import ReproduceConfig, plan_runs
from fieldmark.experiments.reproduce.report import write_report
from fieldmark.experiments.reproduce.tables import load_table
from fieldmark.experiments.runs import execute, in_processes
from fieldmark.experiments.tables.costs import missing_runs


def reproduce_saga(config: ReproduceConfig) -> str:
    """Run every row and seed that is not finished; returns the table as Markdown, or the list of a dry run.

    Raises:
        ValueError: bad input, before the first run or from it.
    """
    table, planned = load_table(config.table), plan_runs(config)
    if config.dry_run:
        return listing(planned, config)
    missing = missing_runs(planned)[: config.limit]
    for path, world in {p.run.config.data.path: p.world for p in missing}.items():
        if world is not None and not is_fieldguide(Path(path)):
            print(f"world: seed {world.seed}", flush=True)
            make_world(world, Path(path))
    done = 0
    by_folder = {p.run.folder: p for p in missing}
    for run, outcome in in_processes([p.run for p in missing], execute, config.processes_used):
        p, done = by_folder[run.folder], done + 1
        recall = 100 * outcome["test"]["recall_at_1"]
        print(f"\n[{done}/{len(missing)}] {p.row.key}, seed {p.seed}: R@1 {recall:.1f} %", flush=True)
        write_report(table, planned, config, {})
    measures: dict[str, Any] = {}
    if table.measure is not None:
        measures = measure(table.measure, planned, config)
    return write_report(table, planned, config, measures, measure_sections(table.measure, measures))
