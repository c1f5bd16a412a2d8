"""Rows of ELVA's tables, the recipes that they are derived from, and the printed figures beside them."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import yaml

from fieldmark.experiments.elva import tables
from fieldmark.experiments.elva.published import PRINTED
from fieldmark.experiments.elva.tables import BENCHMARK_TITLES, load_table, row_config, table_names
from fieldmark.experiments.fieldguide import CONFIGS
from fieldmark.experiments.tables.recipes import read_recipe
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.elva_config import ElvaConfig

TABLES = ("ablation", "controls", "heldout", "main", "mrbench", "posttrain", "video", "weights")


def recipes(benchmark: str) -> tuple[ElvaConfig, ContrastiveConfig]:
    if benchmark == "mbeir":
        places = CONFIGS / "elva" / "stage3.yaml", CONFIGS / "elva" / "stage2.yaml"
    else:
        places = CONFIGS / "fieldguide" / "elva.yaml", CONFIGS / "fieldguide" / "contrastive.yaml"
    return read_recipe(ElvaConfig, places[0]), read_recipe(ContrastiveConfig, places[1])


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


@pytest.fixture(scope="module", params=["fieldguide", "mbeir"])
def benchmark(request):
    return request.param, *recipes(request.param)


def test_rows_differ_from_the_recipe_in_what_they_say_only(benchmark):
    name, elva, contrastive = benchmark
    assert table_names() == TABLES
    for table in TABLES:
        for row in load_table(table).shown(name):
            said = {*row.set, *row.scale, *(row.fieldguide if name == "fieldguide" else ())}
            changed = row_config(row, elva, contrastive, name)
            recipe = contrastive if row.trains == "contrastive" else elva
            assert type(changed) is type(recipe)
            shared = {"model.base", "data.workers", *(f"model.{one}" for one in ("dtype", "device"))}
            shared |= {one for one, _ in leaves(changed) if one.startswith("model.embedder.")}
            assert differing(changed, recipe) - (shared if row.trains == "contrastive" else set()) <= said, row.key


def test_the_continued_second_stage_starts_and_asks_as_the_third(benchmark):
    name, elva, contrastive = benchmark
    row = next(r for r in load_table("controls").rows if r.key == "continued")
    changed = row_config(row, elva, contrastive, name)
    assert changed.model.base == elva.model.base and changed.model.embedder.mode == "one_word"
    assert changed.model.embedder.generative_prompt == elva.model.embedder.generative_prompt
    assert changed.model.adapter == contrastive.model.adapter


def test_rows_mean_what_they_are_called(benchmark):
    name, elva, contrastive = benchmark

    def config(table, key):
        return row_config(next(r for r in load_table(table).rows if r.key == key), elva, contrastive, name)

    total = elva.negatives.hard + elva.negatives.random
    assert config("controls", "stage3") == config("ablation", "stage3") == config("main", "stage3") == elva
    assert config("weights", "stage3") == elva
    assert config("controls", "permuted").supervision == "permuted"
    assert config("ablation", "no_ranking").reward.ranking == "none" and config("ablation", "no_ranking").reward.margin
    assert not config("ablation", "no_margin").reward.margin
    assert not config("ablation", "no_negative_ranking").reward.negative_ranking
    for key, (hard, random) in {"no_hard": (0, total), "no_random": (total, 0)}.items():
        negatives = config("ablation", key).negatives
        assert (negatives.hard, negatives.random) == (hard, random)
    assert config("ablation", "ndcg").reward.ranking == "ndcg"
    for row in load_table("weights").rows:
        reward = row_config(row, elva, contrastive, name).reward
        assert reward.alpha + reward.epsilon == pytest.approx(1)
    assert config("weights", "kl_high").policy.kl_weight == 4 * elva.policy.kl_weight
    assert config("weights", "hot").summaries.temperature > 1 > config("weights", "cold").summaries.temperature
    tasks = (4, 7) if name == "fieldguide" else (4, 6, 8)
    assert config("heldout", "stage3_heldout").data.held_out_tasks == tasks


def test_published_recipes():
    stage1, stage2 = (read_recipe(ContrastiveConfig, CONFIGS / "elva" / f"stage{n}.yaml") for n in (1, 2))
    stage3 = read_recipe(ElvaConfig, CONFIGS / "elva" / "stage3.yaml")
    assert (stage1.batch_size, stage1.optimiser.lr, stage1.schedule.epochs, stage1.hard_negatives) == (576, 4e-5, 2, 1)
    assert (stage2.batch_size, stage2.optimiser.lr, stage2.schedule.epochs) == (960, 1e-4, 1)
    for one, rank, alpha in ((stage1, 64, 128), (stage2, 128, 256)):
        a, o = one.model.adapter, one.optimiser
        assert (a.rank, a.alpha, a.dropout, one.temperature) == (rank, alpha, 0.05, 0.05)
        assert (o.warmup_fraction, o.weight_decay, o.schedule) == (0.03, 0, "cosine")
    for one in (stage1, stage2, stage3):
        assert one.model.embedder.max_text_tokens == 480 and not one.model.train_tower
        assert (one.schedule.steps, one.schedule.select) == (0, "last")
    assert (stage3.optimiser.lr, stage3.schedule.epochs, stage3.policy.kl_weight) == (1e-6, 1, 0.2)
    assert (stage3.summaries.group_size, stage3.negatives.hard, stage3.negatives.random) == (8, 50, 50)
    assert (stage3.reward.alpha, stage3.reward.epsilon, stage3.candidates.source) == (0.4, 0.6, "per_rollout")
    assert stage3.model.embedder.mode == "generative" and stage3.model.base == "runs/elva/stage2"


def test_printed_figures_belong_to_rows():
    rows = {table: {row.key for row in load_table(table).rows} for table in TABLES}
    assert [p for p in PRINTED.figures if p.row not in rows[p.table]] == []
    assert PRINTED.find("main", "stage3", "mbeir", "average").percent == 58.7
    assert PRINTED.find("main", "stage3", "mbeir", "average_2b").percent == 53.8
    assert PRINTED.find("mrbench", "stage2", "mbeir", "mrbench").percent == 38.1
    assert PRINTED.find("ablation", "no_ranking", "mbeir", "average").percent == 57.2
    assert PRINTED.find("weights", "alpha_6", "mbeir", "average").percent == 58.2


def test_every_benchmark_has_rows_but_for_video():
    for table in TABLES:
        shown = {name for name in BENCHMARK_TITLES if load_table(table).shown(name)}
        assert shown == ({"mbeir"} if table == "video" else set(BENCHMARK_TITLES))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"trains": "elva", "after": "b"}, {"trains": "elva", "after": "a"}], "would start from itself"),
        ([{"trains": "none"}, {"trains": "elva", "after": "a"}], "which trains nothing"),
        ([{"trains": "elva"}, {"trains": "elva", "after": "c"}], "unknown row 'c'"),
        ([{"trains": "elva"}, {"trains": "metric"}], "unknown trains 'metric'"),
        ([{"trains": "elva"}, {"trains": "elva", "mode": "one"}], "unknown mode 'one'"),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, monkeypatch, rows, said):
    entries = [{"key": key, "label": key, **row} for key, row in zip("ab", rows, strict=True)]
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"title": "T", "paper": "P", "rows": entries}))
    monkeypatch.setattr(tables, "_FILES", replace(tables._FILES, folder=tmp_path))
    with pytest.raises(ValueError, match=said):
        load_table("x")
