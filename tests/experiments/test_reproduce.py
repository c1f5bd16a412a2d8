"""The publication's tables: rows, printed figures, plan, cost, report, resumption."""

import json
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.fieldguide import CONFIGS, load_recipe
from fieldmark.experiments.reproduce import plan, run
from fieldmark.experiments.reproduce.cost import estimate, listing, num_steps
from fieldmark.experiments.reproduce.measures import measure_sections
from fieldmark.experiments.reproduce.plan import ReproduceConfig, plan_runs
from fieldmark.experiments.reproduce.published import PRINTED, published
from fieldmark.experiments.reproduce.report import write_report
from fieldmark.experiments.reproduce.run import reproduce_saga
from fieldmark.experiments.reproduce.tables import (
    BENCHMARKS,
    Row,
    load_table,
    row_config,
    table_names,
)
from fieldmark.experiments.runs import load_saga_config
from fieldmark.experiments.tables.costs import missing_runs
from fieldmark.losses.registry import build_metric_loss
from fieldmark.policy.rewards import resolve_reward
from fieldmark.training.config import MetricConfig
from fieldmark.training.run_folder import to_plain

REAL = [name for name in BENCHMARKS if name != "fieldguide"]
TABLES = (
    "backbone",
    "components",
    "dimension",
    "extensions",
    "lambda",
    "layers",
    "losses",
    "main",
    "mechanism",
    "pooler",
    "prompt",
)


def leaves(config, prefix=""):
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def differing(one, other):
    other = dict(leaves(other))
    return {name for name, value in leaves(one) if value != other[name]}


# --- rows


def test_tables_are_those_of_the_publication():
    assert table_names() == TABLES
    for name in TABLES:
        assert load_table(name).rows


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("benchmark", ["cub", "fieldguide"])
def test_rows_differ_from_the_recipe_in_what_they_say_only(table, benchmark):
    recipe = load_recipe() if benchmark == "fieldguide" else load_saga_config(CONFIGS / "saga" / "cub.yaml")
    for row in load_table(table).shown(benchmark):
        said = {*row.set, *row.scale, *(row.fieldguide if benchmark == "fieldguide" else ())}
        if recipe.weights.policy_relative is not None and "weights.policy" in row.scale:
            said = {*(said - {"weights.policy"}), "weights.policy_relative"}
        assert differing(row_config(row, recipe, benchmark), recipe) <= said, row.key


def test_rows_mean_what_they_are_called():
    recipe = load_saga_config(CONFIGS / "saga" / "aircraft.yaml")
    components = {r.key: row_config(r, recipe, "aircraft") for r in load_table("components").rows}
    assert components["kl"].weights.policy == 0 and components["kl"].weights.alignment == 1
    assert components["grpo"].weights.policy == 1 and components["grpo"].weights.alignment == 0
    assert components["grpo_generic"].rollouts.style == "generic"
    assert components["saga"] == recipe
    sizes = {r.key: row_config(r, recipe, "cub").model.embedding_size for r in load_table("dimension").rows}
    assert (sizes["saga_full"], sizes["saga_512"], sizes["saga_128"]) == (4096, 512, 128)
    bundled = load_recipe()
    small = {r.key: row_config(r, bundled, "fieldguide").model.embedding_size for r in load_table("dimension").rows}
    assert (small["saga_full"], small["saga_512"], small["saga_128"]) == (160, 40, 20)
    assert [r.key for r in load_table("dimension").rows if r.trains == "metric"] == [
        "potential_field_full",
        "potential_field_512",
        "potential_field_128",
    ]
    high = next(r for r in load_table("lambda").rows if r.key == "lm_high")
    assert row_config(high, recipe, "cub").weights.policy == 10
    assert row_config(high, bundled, "fieldguide").weights.policy_relative == 10 * bundled.weights.policy_relative
    infonce = next(r for r in load_table("losses").rows if r.key == "infonce")
    assert row_config(infonce, recipe, "cub").metric.name == "infonce"


def test_every_extension_changes_what_it_is_called_and_its_parts_can_be_built():
    for benchmark, depth in (("fieldguide", 6), ("cub", 27)):
        recipe = load_recipe() if benchmark == "fieldguide" else load_saga_config(CONFIGS / "saga" / "cub.yaml")
        rows = {r.key: row_config(r, recipe, benchmark) for r in load_table("extensions").shown(benchmark)}
        losses = {"metric.name", "metric.options"}
        expected = {
            "saga": set(),
            "soft_verdict": {"rollouts.reward"},
            "mining": {"pairs.mining"},
            "matryoshka": {"metric.dimensions"},
            "lora": {"model.tuning.method"},
            "last_blocks": {"model.tuning.method", "model.tuning.blocks"},
            "saga_multi_similarity": losses,
            "multi_similarity_miner": losses | {"metric.miner"},
            "distance_weighted": losses | {"metric.miner"},
        }
        assert rows.keys() == expected.keys()
        for key, config in rows.items():
            assert differing(config, recipe) - {"weights.metric"} == expected[key], (benchmark, key)
            build_metric_loss(config.metric, 3, config.model.embedding_size)
            resolve_reward(config.rollouts.reward)
        assert rows["last_blocks"].model.tuning.blocks < depth


@pytest.mark.parametrize("benchmark", REAL)
def test_recipes_are_the_published_ones(benchmark):
    c = load_saga_config(CONFIGS / "saga" / f"{benchmark}.yaml")
    assert (c.data.batch_size, c.data.image_size, c.pairs.contributing_pairs) == (64, 224, 8)
    r = c.rollouts
    assert (r.group_size, r.temperature, r.top_p, r.max_new_tokens) == (8, 0.7, 0.95, 1024)
    assert r.attributes_per_prompt is None and r.tokens == "all"
    o = c.optimiser
    assert (o.tower_lr, o.pooler_lr, o.warmup_fraction, o.clip_norm, o.proxy_lr_factor) == (2e-5, 1e-4, 0.05, 1.0, 100)
    assert (c.schedule.epochs, c.schedule.steps, c.alignment_layer, c.model.embedding_size) == (3, 0, 26, 4096)
    assert c.metric.options == {"delta": 0.2, "alpha": 3.0, "proxies_per_class": 15}
    assert asdict(c.weights) == {"metric": 1, "policy": 1, "alignment": 1, "policy_relative": None}
    assert (c.model.dtype, c.model.pooler) == ("bfloat16", "attention")


# --- printed figures


def test_printed_figures():
    spots = {
        ("main", "saga", "inat"): (60.1, 0.4),
        ("main", "untrained", "cars"): (70.7, None),
        ("components", "grpo_generic", "aircraft"): (79.6, None),
        ("losses", "saga_multi_similarity", "aircraft"): (82.3, None),
        ("dimension", "potential_field_128", "cub"): (78.3, None),
        ("backbone", "saga", "cub"): (80.1, None),
    }
    for place, figures in spots.items():
        one = published(*place)
        assert (one.percent, one.spread) == figures
    assert published("dimension", "saga_128", "aircraft", "recall_at_4").percent == 91.7
    assert published("backbone", "untrained", "cub", "recall_at_8").percent == 85.8
    assert published("losses", "infonce", "cub") is None
    assert PRINTED.benchmarks("components") == ("cub", "aircraft") and PRINTED.benchmarks("lambda") == ()
    assert len({(p.table, p.row, p.benchmark, p.metric) for p in PRINTED.figures}) == len(PRINTED.figures)


def test_every_printed_figure_belongs_to_a_row():
    rows = {table: {row.key for row in load_table(table).rows} for table in TABLES}
    assert [p for p in PRINTED.figures if p.row not in rows[p.table]] == []


# --- which runs


def planned(tmp_path, **options):
    config = ReproduceConfig(out=str(tmp_path), seeds=(1, 2), **options)
    return config, plan_runs(config)


def test_same_runs_of_different_tables_share_a_folder_and_others_do_not(tmp_path):
    by_row = {}
    for table in ("main", "components", "dimension", "losses"):
        for p in planned(tmp_path, table=table)[1]:
            by_row[table, p.row.key, p.seed] = p.run.folder
    assert by_row["main", "saga", 1] == by_row["components", "saga", 1] == by_row["dimension", "saga_full", 1]
    assert by_row["main", "potential_field", 2] == by_row["losses", "potential_field", 2]
    assert len({by_row["components", key, 1] for key in ("potential_field", "kl", "grpo", "grpo_generic", "saga")}) == 5
    assert by_row["main", "saga", 1].parent == by_row["main", "saga", 2].parent
    assert by_row["main", "saga", 1] != by_row["main", "saga", 2]


def test_another_recipe_world_or_supervisor_is_another_run(tmp_path):
    def folder(**options):
        return planned(tmp_path, **options)[1][0].run.folder

    recipe = tmp_path / "recipe.yaml"
    changed = load_recipe()
    recipe.write_text(yaml.safe_dump(to_plain(replace(changed, schedule=replace(changed.schedule, steps=7)))))
    other = tmp_path / "checkpoint"
    other.mkdir()
    (other / "config.json").write_text("{}")
    folders = [folder(), folder(recipe=str(recipe)), folder(habitat=0.0), folder(supervisor=str(other))]
    assert len(set(folders)) == 4
    (other / "config.json").write_text('{"a": 1}')
    assert folder(supervisor=str(other)) not in folders
    recipe.write_text(yaml.safe_dump(to_plain(replace(changed, data=replace(changed.data, workers=5)))))
    assert folder(recipe=str(recipe)) == folders[0]


def test_order_is_most_telling_first_and_stored_configurations_fit_the_training(tmp_path):
    _, runs = planned(tmp_path, table="main")
    assert [(p.row.key, p.seed) for p in runs[:3]] == [("saga", 1), ("saga", 2), ("potential_field", 1)]
    kinds = {p.row.key: p.run.resolved for p in runs}
    assert isinstance(kinds["potential_field"], MetricConfig) and kinds["potential_field"].model.pooler == "mean"
    assert kinds["untrained"].model.embedding_size is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"table": "componets"}, "unknown table 'componets': did you mean 'components'"),
        ({"benchmark": "cars196"}, "unknown benchmark 'cars196': did you mean 'cars'"),
        ({"benchmark": "cub"}, "set --root"),
        ({"root": "x"}, "leave --root out"),
        ({"table": "backbone"}, "set --supervisor"),
        ({"table": "mechanism", "benchmark": "cub", "root": "x"}, "no rows for cub"),
        ({"seeds": ()}, "at least one seed"),
        ({"processes": 0}, "processes must be at least 1"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(options, said):
    with pytest.raises(ValueError, match=said):
        ReproduceConfig(**options)


# --- cost, report, resumption, on runs that are said to be finished


def finish(p, recall, seconds=60.0):
    p.run.folder.mkdir(parents=True)
    test = {f"recall_at_{k}": recall for k in (1, 2, 4, 8)} | {"map_at_r": 0.1, "nmi": 0.5}
    (p.run.folder / "results.json").write_text(
        json.dumps(
            {
                "test": test,
                "validation": {"recall_at_1": 0.9, "best_step": 1},
                "steps": 40,
                "seconds": seconds,
                "threads": 1,
            }
        )
    )


def test_cost_comes_from_finished_runs_where_there_are_any_and_says_so(tmp_path):
    config, runs = planned(tmp_path, table="components")
    saga, other, grpo = (
        next(p for p in runs if (p.row.key, p.seed) == place) for place in (("saga", 1), ("saga", 2), ("grpo", 1))
    )
    assert num_steps(saga, config) == 40
    stated = estimate(saga, runs, config)
    assert stated.basis.startswith("stated: 40 steps of 6 s") and stated.seconds == 40 * 6 + 15
    finish(saga, 0.5, seconds=100.0)
    assert estimate(other, runs, config).seconds == 100 and "of this row" in estimate(other, runs, config).basis
    assert estimate(grpo, runs, config).seconds == pytest.approx(100)
    assert "same training" in estimate(grpo, runs, config).basis
    text = listing(runs, config)
    assert text.count("finished   saga") == 1 and "9 of 10 runs to do" in text and "stated figures: measured" in text
    _, real = planned(tmp_path, table="main", benchmark="cub", dry_run=True)
    assert num_steps(real[0], ReproduceConfig(benchmark="cub", dry_run=True)) == round(3 * 5864 * 0.9 / 64)


def test_dry_run_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "in_processes", lambda *_: pytest.fail("a dry run ran"))
    text = reproduce_saga(ReproduceConfig(table="prompt", benchmark="cub", out=str(tmp_path), seeds=(0,), dry_run=True))
    assert text.count("to run") == 3 and "not a measurement" in text and list(tmp_path.iterdir()) == []


def test_report_keeps_measured_and_printed_apart_and_marks_what_is_missing(tmp_path):
    config, runs = planned(tmp_path, table="components")
    for p in runs:
        if p.row.key in ("saga", "potential_field"):
            finish(p, (0.3 if p.row.key == "saga" else 0.2) + 0.1 * p.seed)
    text = write_report(load_table("components"), runs, config, {"x": 1}, ["## Section"])
    lines = {
        line.split("|")[1].strip().split(" (against")[0]: line for line in text.splitlines() if line.startswith("| ")
    }
    assert "| 87.9 (+6.3) | 83.5 (+6.1) | 45.0 ± 7.1 | +10.0 ± 0.0 |" in lines["SAGA: + GRPO + KL"]
    assert "| 81.6 | 77.4 | 35.0 ± 7.1 | – |" in lines["Potential Field"]
    assert "not run yet" in lines["+ GRPO"] and text.count("not run yet") == 3
    assert text.rstrip().endswith("## Section") and "arXiv 2606.15134" in text
    stored = json.loads((tmp_path / "fieldguide" / "components-fieldguide.json").read_text())
    assert len(stored["measured"]) == 4 and stored["measures"] == {"x": 1}
    assert {p["percent"] for p in stored["published"]["figures"]} >= {87.9, 77.4}
    assert all("percent" not in row for row in stored["measured"])
    figure = ElementTree.parse(tmp_path / "fieldguide" / "components-fieldguide.svg")
    assert len(figure.findall(".//{*}circle")) == 4 + 2 * 5


def test_finished_runs_are_not_repeated_and_shared_ones_run_once(tmp_path, monkeypatch):
    config, runs = planned(tmp_path, table="prompt")
    finish(runs[0], 0.4)
    asked = []

    def pretend(tasks, work, processes):
        assert processes == 2
        by_folder = {p.run.folder: p for p in runs}
        for task in tasks:
            asked.append(task.folder)
            finish(by_folder[task.folder], 0.5)
            yield task, json.loads((task.folder / "results.json").read_text())

    monkeypatch.setattr(run, "in_processes", pretend)
    monkeypatch.setattr(run, "make_world", lambda world, folder: folder)
    reproduce_saga(replace(config, limit=2))
    assert asked == [p.run.folder for p in runs[1:3]]
    text = reproduce_saga(config)
    assert len(asked) == len(set(asked)) == 5 and runs[0].run.folder not in asked
    assert "not run yet" not in text and missing_runs(runs) == []
    reproduce_saga(config)
    assert len(asked) == 5


def test_a_row_twice_in_a_table_is_one_run(tmp_path):
    _, runs = planned(tmp_path, table="prompt")
    doubled = [*runs, *(replace(p, row=Row("again", "again", p.row.trains)) for p in runs)]
    assert len(missing_runs(doubled)) == len(runs)


def test_sections_of_measures():
    assert measure_sections(None, {}) == [] and "not run yet" in measure_sections("layers", {})[0]
    assert "nothing" in measure_sections("layers", {"layers": [], "reason": "nothing"})[0]


@pytest.mark.slow
def test_a_table_from_nothing_to_its_figures(tmp_path, monkeypatch):
    """Two steps on a handful of species: every part once, with the measure of the mechanism, and nothing twice."""
    monkeypatch.setattr(
        plan,
        "evidence_world",
        lambda habitat, seed: FieldguideConfig(species=16, per=6, train_share=0.625, habitat=habitat, seed=seed),
    )
    recipe = load_recipe()
    small = replace(
        recipe,
        data=replace(recipe.data, batch_size=12, workers=0),
        pairs=replace(recipe.pairs, pairs_per_round=4),
        rollouts=replace(recipe.rollouts, group_size=4),
        schedule=replace(recipe.schedule, steps=2, validate_every=2, checkpoint_every=2),
    )
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(to_plain(small)))
    config = ReproduceConfig(table="components", seeds=(1,), out=str(tmp_path / "out"), recipe=str(path))
    text = reproduce_saga(config)
    assert "not run yet" not in text
    folder = Path(config.out) / "fieldguide"
    first = json.loads((folder / "components-fieldguide.json").read_text())["measured"]
    assert len(first) == 5 and all(0 <= r["recall_at_1"] <= 1 and r["steps"] == 2 for r in first)
    # the mechanism shares SAGA's run, and only measures
    text = reproduce_saga(replace(config, table="mechanism"))
    assert "1, after, random" in text and "all alike" in text
    reproduce_saga(config)
    assert json.loads((folder / "components-fieldguide.json").read_text())["measured"] == first
