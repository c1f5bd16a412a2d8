"""The report: measured and printed apart, what is missing marked, rows compared seed by seed."""

import json
from pathlib import Path

import pytest

from fieldmark.experiments.elva.comparison import compare
from fieldmark.experiments.elva.plan import ElvaTableConfig, plan_runs
from fieldmark.experiments.elva.report import collect, write_report
from fieldmark.experiments.elva.signals import read_signals
from fieldmark.experiments.elva.tables import load_table


def share(value: float) -> dict[str, float]:
    return {"mean": value, "low": value, "high": value, "queries": 10}


def figures(value: float, mode: str) -> dict[str, object]:
    """As an embedder would have them whose every Recall@5 is ``value``, and its sensitivity a half of it."""
    cost = {"requests": 10, "seconds": 0.5, "tokens": 9.0 if mode == "generative" else None, "forced": None}
    return {
        "mode": mode,
        "average": value,
        "recall": {f"fieldguide_task{task}": share(value) for task in (0, 3, 4, 7)},
        "by_grains": {"1": share(value), "2": share(value)},
        "single_grain": share(value + 0.1),
        "multi_grain": share(value),
        "sensitivity": {"distance": 0.01, "relative": value / 2},
        "compliance": None,
        "truth": {} if mode == "one_word" else {"fieldguide_task3": {"true": 0.75, "named": 0.5}},
        "queries": cost,
        "candidates": cost,
        "mrbench": {"average": value},
    }


def finish(planned, value: float) -> None:
    run = planned.run
    run.folder.mkdir(parents=True, exist_ok=True)
    signals = {"reward": {"first": 0.1, "last": 0.25}} if run.trains == "elva" else {}
    run.results.write_text(
        json.dumps(
            {"steps": 2, "training_seconds": 100.0, "measuring_seconds": 50.0, "seconds": 150.0, "threads": 1,
             "signals": signals, "figures": figures(value, run.mode)}
        )
    )  # fmt: skip


def lines_of(text: str) -> dict[str, str]:
    """First table's lines by label."""
    head = text.split("\n## ")[0]
    return {x.split("|")[1].strip().split(" (against")[0]: x for x in head.splitlines() if x.startswith("| ")}


def test_controls(tmp_path: Path) -> None:
    config = ElvaTableConfig(seeds=(1, 2), out=str(tmp_path))
    planned = plan_runs(config)
    for p in planned:
        if p.row.key in ("stage2", "stage3", "continued"):
            finish(p, {"stage2": 0.4, "continued": 0.45, "stage3": 0.5}[p.row.key] + 0.1 * (p.seed == 2))
    text = write_report(load_table("controls"), planned, config)
    rows = lines_of(text)
    assert "| 55.0 ± 7.1 | +10.0 ± 0.0 | 2 | 100 ± 0 | 50 ± 0 |" in rows["stage 3"]
    assert "not run yet" in rows["stage 3, rewards permuted"] and text.count("not run yet") == 2
    assert "published" not in rows["row"]
    judged = text.split("## stage 3, seed by seed")[1]
    line = next(one for one in judged.splitlines() if one.startswith("| stage 2, one word"))
    assert line == "| stage 2, one word | +10.0 ± 0.0 (+10.0, +10.0) | +22.5 ± 3.5 % | × 1.23 ± 0.04 | +10.0 ± 0.0 |"
    assert "| stage 3 | 0.1 → 0.25 |" in text and "| 75.0 ± 0.0 | 50.0 ± 0.0 |" in text
    assert "grains satisfied" not in text  # measured by nobody
    stored = json.loads((tmp_path / "fieldguide" / "elva-controls-fieldguide.json").read_text())
    assert len(stored["measured"]) == 6 and stored["published"]["figures"] == []
    assert str(tmp_path) not in json.dumps(stored), "whose machine it was is nobody's business"
    assert stored["config"]["seeds"] == [1, 2] and stored["measured"][0]["run"].startswith("runs/")


def test_printed_figures_stand_beside_ours(tmp_path: Path) -> None:
    config = ElvaTableConfig(table="main", benchmark="mbeir", root="x", seeds=(1, 2), out=str(tmp_path))
    planned = plan_runs(config)
    for p in planned:
        finish(p, 0.5 + 0.01 * p.seed)
    rows = lines_of(write_report(load_table("main"), planned, config))
    assert "| 58.7 (+2.1); 2B 53.8 (+2.2) | 51.5 ± 0.7 | +0.5 ± 0.7 | 2 |" in rows["stage 3"]
    assert "| 56.6; 2B 51.6 | 51.0 | – | 1 |" in rows["stage 2, one word"]  # the start is measured once
    assert (tmp_path / "mbeir" / "elva-main-mbeir.svg").is_file()
    stored = json.loads((tmp_path / "mbeir" / "elva-main-mbeir.json").read_text())
    assert (stored["config"]["root"], stored["config"]["base"]) == ("ROOT", None)


def test_nothing_is_run_yet(tmp_path: Path) -> None:
    config = ElvaTableConfig(table="ablation", seeds=(1,), out=str(tmp_path), docs=str(tmp_path / "docs"))
    text = write_report(load_table("ablation"), plan_runs(config), config)
    assert text.count("not run yet") == 7 and "| 57.2 (-1.5) |" in text and "only the order" in text
    assert [path.name for path in sorted((tmp_path / "docs").iterdir())] == [
        "elva-ablation-fieldguide.json",
        "elva-ablation-fieldguide.md",
    ]


@pytest.mark.parametrize("table", ["weights", "heldout", "posttrain", "mrbench"])
def test_other_tables_are_written(tmp_path: Path, table: str) -> None:
    config = ElvaTableConfig(table=table, seeds=(1,), out=str(tmp_path))
    planned = plan_runs(config)
    for p in planned:
        finish(p, 0.5)
    text = write_report(load_table(table), planned, config)
    assert "not run yet" not in text and "| +0.0 |" in text
    assert ("+1.9 to +2.2" in text) == (table == "posttrain")


def test_figures_that_one_row_lacks_are_not_compared(tmp_path: Path) -> None:
    config = ElvaTableConfig(seeds=(1, 2), out=str(tmp_path))
    planned = plan_runs(config)
    table = load_table("controls")
    for p in planned:
        if (p.row.key, p.seed) in (("stage3", 1), ("stage3", 2), ("stage2", 2)):
            finish(p, 0.5)
    rows = {row.key: row for row in table.rows}
    found = compare(table, "fieldguide", collect(planned, config.folder), rows["stage3"], rows["stage2"])
    assert found.points == (0.0,) and found.sensitivity == (1.0,)
    assert compare(table, "fieldguide", collect(planned, config.folder), rows["stage3"], rows["permuted"]).points == ()


def test_signals_are_means_over_the_first_and_the_last_fifth(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    steps = [{"step": n, "kind": "train", "reward": float(n), "tokens": 3} for n in range(1, 11)]
    log.write_text("".join(json.dumps(one) + "\n" for one in steps))
    found = read_signals(log)
    assert (found["reward"].first, found["reward"].last) == (1.5, 9.5) and "kl" not in found
    assert read_signals(tmp_path / "none.jsonl") == {}
