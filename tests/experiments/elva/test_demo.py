"""The demo of ELVA: what its rows differ in, and a short pass through everything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.data.fieldguide.retrieval import write_fieldguide_retrieval
from fieldmark.experiments import demo_elva
from fieldmark.experiments.demo_elva import (
    ROWS,
    TRAINED,
    DemoElvaConfig,
    contrastive_config,
    elva_config,
    plan,
    run_demo_elva,
    table,
)
from fieldmark.experiments.elva_reports import MeasuredEmbedder


def test_the_control_differs_in_its_rewards_only():
    config = DemoElvaConfig(out="here", seed=3)
    method, control = elva_config(config), elva_config(config, permuted=True)
    assert replace(control, supervision="reward", run=method.run) == method
    assert (method.supervision, control.supervision) == ("reward", "permuted")
    continued = contrastive_config(config)
    assert (continued.data, continued.mined, continued.model.base) == (
        method.data, method.negatives.mined, method.model.base
    )  # fmt: skip
    assert method.reward.gamma == pytest.approx(1 / (method.negatives.hard + method.negatives.random))
    assert {Path(one.run).name for one in (method, control, continued)} == set(TRAINED)
    assert [row.name for row in ROWS if row.role == "method"] == ["stage3"]


def test_both_worlds_can_be_drawn(tmp_path, monkeypatch):
    """Without their pictures: every split has queries in every direction."""
    monkeypatch.setattr("fieldmark.data.fieldguide.retrieval._draw", lambda *_: None)
    for short in (True, False):
        p = plan(DemoElvaConfig(short=short))
        written = write_fieldguide_retrieval(p.world, p.queries, tmp_path / str(short), workers=1)
        assert len(written.queries) == 12 and min(written.queries.values()) > 3
        assert p.world.habitat == 0


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        DemoElvaConfig(processes=0)
    with pytest.raises(ValueError, match="no embedder given"):
        DemoElvaConfig(base="")
    (tmp_path / "demo.json").write_text(json.dumps({"base": "bundled", "seed": 1, "short": True}))
    with pytest.raises(ValueError, match="holds another demo"):
        run_demo_elva(DemoElvaConfig(out=str(tmp_path), short=True))


def test_the_table_shows_what_is_not_known():
    figures = {
        "single_grain": {"mean": 0.5}, "multi_grain": None, "sensitivity": {"relative": 0.123}, "compliance": None,
        "average": 0.25, "queries": {"tokens": None},
    }  # fmt: skip
    lines = table({row.name: MeasuredEmbedder(figures, []) for row in ROWS}).splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert lines[1].split()[-6:] == ["50.0", "–", "12.3", "–", "25.0", "–"]


@pytest.mark.slow
def test_a_short_demo_and_the_same_again(tmp_path, monkeypatch):
    config = DemoElvaConfig(out=str(tmp_path / "demo"), short=True, processes=1)
    report = run_demo_elva(config)
    first = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert [row["method"] for row in first["rows"]] == [row.name for row in ROWS]
    assert first["rows"][3]["steps"] == 2 and first["rows"][3]["mrbench"] is not None
    for section in ("result", "rankings", "ranks", "attention", "maps", "training"):
        assert f'id="{section}"' in report.read_text(encoding="utf-8")

    # The second pass only writes the report again.
    for name in ("train_elva", "train_contrastive", "mine_negatives", "measure_embedder", "write_fieldguide_retrieval"):
        monkeypatch.setattr(demo_elva, name, None)
    before = report.read_bytes()
    run_demo_elva(config)
    again = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert again["rows"] == first["rows"] and len(report.read_bytes()) > 0.9 * len(before)
    monkeypatch.setattr(demo_elva, "ASKED", replace(demo_elva.ASKED, max_text_tokens=100))
    with pytest.raises(ValueError, match=r"made with another model\.embedder\.max_text_tokens"):
        run_demo_elva(config)
