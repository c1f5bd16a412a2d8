"""What the demo and the evidence are made of: methods derived from one recipe, tables from runs."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.demo import DEMO_METHODS, DemoConfig, run_demo, summarise
from fieldmark.experiments.evidence import EvidenceConfig, collect, evidence_runs, run_evidence
from fieldmark.experiments.evidence_table import paired_difference, write_table
from fieldmark.experiments.fieldguide import METHODS, Job, load_recipe, make_world, method_config
from fieldmark.experiments.reproduce.plan import ReproduceConfig, plan_runs
from fieldmark.training.config import MetricConfig, SagaConfig


def job(method: str) -> Job:
    return Job(method, Path("world"), Path("run") / method, 7)


def test_recipe_loads_and_a_missing_one_is_named(tmp_path):
    recipe = load_recipe()
    assert isinstance(recipe, SagaConfig) and recipe.rollouts.vocabulary == "fieldguide"
    with pytest.raises(ValueError, match=r"none\.yaml is missing"):
        load_recipe(tmp_path / "none.yaml")


def test_methods_differ_from_the_recipe_in_what_they_mean_only():
    recipe = load_recipe()
    configs = {m: method_config(job(m), recipe) for m in METHODS if m != "untrained"}
    assert isinstance(configs["metric"], MetricConfig) and configs["metric_mean"].model.pooler == "mean"
    for config in configs.values():
        assert config.data == replace(recipe.data, path="world")
        assert (config.metric, config.optimiser, config.schedule) == (recipe.metric, recipe.optimiser, recipe.schedule)
        assert config.seed == 7
    saga = configs["saga"]
    for method, supervision in (
        ("saga_permuted_reward", "permuted"),
        ("oracle", "oracle"),
        ("wrong_descriptions", "wrong"),
    ):
        assert replace(configs[method], supervision="verdict", run=saga.run) == saga
        assert configs[method].supervision == supervision
    assert configs["kl"].weights.policy == 0 and configs["kl"].weights.policy_relative is None
    assert configs["grpo"].weights.alignment == 0


def test_another_world_in_the_folder_is_refused(tmp_path):
    config = FieldguideConfig(species=4, per=1, size=48)
    folder = make_world(config, tmp_path / "w")
    assert make_world(config, folder) == folder
    with pytest.raises(ValueError, match="another world"):
        make_world(replace(config, seed=1), folder)


def row(method, seed, recall, habitat=1.0):
    return {
        "method": method,
        "seed": seed,
        "habitat": habitat,
        "recall_at_1": recall,
        "recall_at_2": recall,
        "map_at_r": 0.1,
        "nmi": 0.5,
        "seconds": 60.0,
        "validation_recall_at_1": 0.9,
        "best_step": 5,
    }


def test_differences_are_paired_by_world_and_seed_with_the_better_baseline():
    rows = [
        row("metric", 1, 0.2),
        row("metric_mean", 1, 0.3),
        row("metric", 2, 0.5),
        row("metric_mean", 2, 0.1),
        row("metric_mean", 1, 0.9, habitat=0.0),
        row("saga", 1, 0.4),
        row("saga", 2, 0.4),
    ]
    assert paired_difference(rows, rows[5]) == pytest.approx(10)
    assert paired_difference(rows, rows[6]) == pytest.approx(-10)
    assert paired_difference(rows, rows[5], ("metric",)) == pytest.approx(20)
    assert paired_difference(rows, row("saga", 3, 0.4)) is None
    # one pooler of two is no baseline yet: a difference to it would change when the other is finished
    assert paired_difference(rows[:1], row("saga", 1, 0.4)) is None


def test_table_marks_what_is_missing_and_holds_means(tmp_path):
    rows = [row(m, s, r) for m, s, r in (("metric", 1, 0.2), ("metric", 2, 0.3), ("saga", 1, 0.4), ("saga", 2, 0.5))]
    rows += [row("metric_mean", 1, 0.1), row("metric_mean", 2, 0.1), row("saga_permuted_reward", 2, 0.45)]
    listed = {1.0: ("saga", "metric", "metric_mean", "saga_permuted_reward", "oracle"), 0.0: ("saga",)}
    write_table(rows, listed, tmp_path, "Where from.", {"seeds": [1, 2]})
    text = (tmp_path / "fieldguide.md").read_text()
    saga, metric, oracle = (
        next(x for x in text.splitlines() if x.startswith(f"| {n}")) for n in ("SAGA", "Pot", "ceil")
    )
    assert "| 45.0 ± 7.1 |" in saga and "| +20.0 ± 0.0 | +5.0 | 2 |" in saga
    assert "| – | -15.0 | 2 |" in metric and "not run yet" in oracle
    assert text.count("not run yet") == 2
    stored = json.loads((tmp_path / "fieldguide.json").read_text())
    assert stored == {"config": {"seeds": [1, 2]}, "rows": rows}
    figure = ElementTree.parse(tmp_path / "fieldguide.svg")
    assert len(figure.findall(".//{*}circle")) == len(rows)
    assert "SAGA: + GRPO + KL, ρ = 1: 45" in figure.getroot().find("{*}title").text


def say_finished(run, recall):
    run.folder.mkdir(parents=True)
    test = {k: v for k, v in row("x", 0, recall).items() if k in ("recall_at_1", "recall_at_2", "map_at_r", "nmi")}
    (run.folder / "results.json").write_text(
        json.dumps({"test": test, "validation": {"recall_at_1": 0.9, "best_step": 1}, "seconds": 2.0, "threads": 1})
    )


def test_evidence_runs_are_listed_most_telling_first_and_collected_when_finished(tmp_path):
    config = EvidenceConfig(out=str(tmp_path), docs=str(tmp_path / "d"), seeds=(1, 2))
    runs = evidence_runs(config)
    assert [r.method for r in runs[:2]] == ["saga", "saga"] and runs[-1].habitat == config.habitats[-1]
    assert len({r.run.folder for r in runs}) == len(runs)
    assert collect(config) == []
    done = runs[3]
    say_finished(done.run, 0.5)
    assert [(r["method"], r["seed"]) for r in collect(config)] == [(done.method, done.seed)]
    with pytest.raises(ValueError, match="unknown method 'magic'"):
        EvidenceConfig(methods=("magic",))
    with pytest.raises(ValueError, match="processes must be at least 1"):
        EvidenceConfig(processes=0)


def test_evidence_and_published_tables_share_runs(tmp_path):
    ours = {
        (r.method, r.seed): r.run.folder for r in evidence_runs(EvidenceConfig(out=str(tmp_path), seeds=(1, 2)))[:18]
    }
    table = plan_runs(ReproduceConfig(table="components", out=str(tmp_path), seeds=(1, 2)))
    theirs = {(p.row.key, p.seed): p.run.folder for p in table}
    for method, row_key in (("saga", "saga"), ("metric_mean", "potential_field"), ("kl", "kl"), ("grpo", "grpo")):
        assert [ours[method, seed] for seed in (1, 2)] == [theirs[row_key, seed] for seed in (1, 2)]


def test_rows_of_the_stored_table_are_kept_until_the_run_is_made_again_or_differs(tmp_path):
    config = EvidenceConfig(out=str(tmp_path / "a"), docs=str(tmp_path / "d"), seeds=(1,), habitats=(0.8,))
    runs = evidence_runs(config)
    for one in runs[:2]:
        say_finished(one.run, 0.5)
    rows = run_evidence(replace(config, limit=0))
    assert [r["recall_at_1"] for r in rows] == [0.5, 0.5]
    elsewhere = replace(config, out=str(tmp_path / "b"), limit=0)
    assert run_evidence(elsewhere) == rows
    say_finished(evidence_runs(elsewhere)[0].run, 0.7)
    assert [r["recall_at_1"] for r in run_evidence(elsewhere)] == [0.7, 0.5]
    stored = json.loads((tmp_path / "d" / "fieldguide.json").read_text())
    stored["rows"][1]["run"] = "saga-of-another-recipe"
    (tmp_path / "d" / "fieldguide.json").write_text(json.dumps(stored))
    assert [r["recall_at_1"] for r in run_evidence(elsewhere)] == [0.7]


@pytest.mark.slow
def test_evidence_runs_in_processes_and_repeats_nothing(tmp_path, monkeypatch):
    small = FieldguideConfig(species=8, per=4, size=48, train_share=0.5)
    monkeypatch.setattr("fieldmark.experiments.evidence.evidence_world", lambda h, s: replace(small, habitat=h, seed=s))
    config = EvidenceConfig(
        out=str(tmp_path / "runs"), docs=str(tmp_path / "docs"), seeds=(1, 2), habitats=(1.0,), methods=("untrained",)
    )
    assert len(run_evidence(replace(config, limit=1))) == 1
    rows = run_evidence(config)
    assert [r["seed"] for r in rows] == [1, 2] and all(0 <= r["recall_at_1"] <= 1 for r in rows)
    assert json.loads((tmp_path / "docs" / "fieldguide.json").read_text())["rows"] == rows
    assert run_evidence(config) == rows  # the stored seconds included: nothing ran again


def test_summary_names_the_pooler_that_is_better_on_validation():
    test = {"recall_at_1": 0.5, "recall_at_2": 0.6, "map_at_r": 0.2, "nmi": 0.4}
    rows = [
        {
            "run": m,
            "test": test,
            "validation": {"recall_at_1": 0.9 if m == "metric_mean" else 0.8},
            "steps": 1,
            "pictures_seen": 64,
            "seconds": 1.0,
        }
        for m in DEMO_METHODS
    ]
    summary = summarise(rows, DemoConfig(), FieldguideConfig(), 10.0)
    names = {r["run"]: r["method"] for r in summary["rows"]}
    assert names["metric_mean"] == "potential_field" and names["metric"] == "potential_field_other_pooler"
    assert summary["baseline"] == "metric_mean"
    assert {"untrained", "potential_field", "saga", "saga_permuted_reward", "oracle"} <= set(names.values())


@pytest.mark.slow
def test_short_demo_goes_through_everything(tmp_path):
    report = run_demo(DemoConfig(out=str(tmp_path / "demo"), short=True))
    assert report.is_file() and report.stat().st_size > 50_000
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert len(results["rows"]) == len(DEMO_METHODS)
    assert all(0 <= r["recall_at_1"] <= 1 for r in results["rows"])
