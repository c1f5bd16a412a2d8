"""The demo of ELVA: what its rows differ in, and a short pass through everything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.data.fieldguide.retrieval import write_fieldguide_retrieval
from fieldmark.experiments.elva import demo, world
from fieldmark.experiments.elva.demo import ROWS, DemoElvaConfig, demo_runs, demo_world, run_demo_elva, table
from fieldmark.experiments.elva.world import elva_world


def test_rows_differ_in_what_they_mean_only():
    runs = demo_runs(DemoElvaConfig(out="here", seed=3, base="models/mine"))
    method, control, continued = (runs[name] for name in ("stage3", "stage3_permuted", "continued"))
    assert replace(control.config, supervision="reward", run=method.config.run) == method.config
    assert (method.config.supervision, control.config.supervision) == ("reward", "permuted")
    assert continued.config.mined == method.config.negatives.mined
    assert continued.config.mined_depth == method.config.negatives.hard
    assert replace(continued.config.model.embedder, mode="generative") == method.config.model.embedder
    for run in runs.values():
        assert (run.config.seed, run.config.model.base, run.measurement) == (3, "models/mine", method.measurement)
        assert run.config.data.path == run.measurement.root
        assert run.config.model.embedder.mode == ("one_word" if run is continued else "generative")
    assert {name: run.mode for name, run in runs.items()} == {row.name: row.mode for row in ROWS}
    start, by_summaries = runs["stage2"], runs["stage2_generative"]
    assert start.folder == by_summaries.folder and start.results != by_summaries.results
    assert len({run.folder for run in runs.values()}) == 4


def test_the_world_is_the_evidences_with_fewer_test_species():
    ours, full = demo_world(DemoElvaConfig(seed=5)), elva_world(5)
    assert round(ours.world.species * ours.world.train_share) == round(full.world.species * full.world.train_share)
    assert ours.world.species < full.world.species and ours.world.seed == 5
    assert replace(ours.retrieval, test_queries=full.retrieval.test_queries) == full.retrieval


def test_both_worlds_can_be_drawn(tmp_path, monkeypatch):
    """Without their pictures: every split has queries in every direction."""
    monkeypatch.setattr("fieldmark.data.fieldguide.retrieval._draw", lambda *_: None)
    for short in (True, False):
        one = demo_world(DemoElvaConfig(short=short))
        written = write_fieldguide_retrieval(one.world, one.retrieval, tmp_path / str(short), workers=1)
        assert len(written.queries) == 12 and min(written.queries.values()) > 1
        assert one.world.habitat == 0


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        DemoElvaConfig(processes=0)
    with pytest.raises(ValueError, match="base is empty"):
        DemoElvaConfig(base="")
    base = demo_runs(DemoElvaConfig())["stage3"].config.model.base
    (tmp_path / "demo.json").write_text(json.dumps({"base": base, "seed": 1, "short": True}))
    with pytest.raises(ValueError, match="holds another demo"):
        run_demo_elva(DemoElvaConfig(out=str(tmp_path), short=True))


def test_the_table_shows_what_is_not_known():
    figures = {
        "single_grain": {"mean": 0.5}, "multi_grain": None, "sensitivity": {"relative": 0.123}, "compliance": None,
        "average": 0.25, "queries": {"tokens": None},
    }  # fmt: skip
    lines = table({row.name: {"figures": figures} for row in ROWS}).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert lines[1].split()[-6:] == ["50.0", "–", "12.3", "–", "25.0", "–"]


@pytest.mark.slow
def test_a_short_demo_and_the_same_again(tmp_path, monkeypatch):
    config = DemoElvaConfig(out=str(tmp_path / "demo"), short=True, processes=1)
    report = run_demo_elva(config)
    first = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [row["method"] for row in first["rows"]] == [row.name for row in ROWS]
    assert [row["steps"] for row in first["rows"]] == [0, 0, 2, 2, 2] and first["rows"][3]["mrbench"] is not None
    for section in ("result", "rankings", "ranks", "attention", "maps", "training"):
        assert f'id="{section}"' in report.read_text(encoding="utf-8")

    # The second pass only writes the report again.
    for name in ("write_fieldguide_retrieval", "mine_negatives", "build_mrbench"):
        monkeypatch.setattr(world, name, None)
    for name in ("train_elva", "train_contrastive", "measure_embedder"):
        monkeypatch.setattr(f"fieldmark.experiments.elva.runs.{name}", None)
    run_demo_elva(config)
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["rows"] == first["rows"]

    shorter = demo_runs(config)["stage3"]
    other = replace(shorter, config=replace(shorter.config, queries_per_step=2))
    monkeypatch.setattr(demo, "demo_runs", lambda _: {"stage3": other})
    with pytest.raises(ValueError, match=r"made with another queries_per_step"):
        run_demo_elva(config)
    assert Path(report).is_file()
