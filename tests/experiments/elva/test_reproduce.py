"""A table from nothing to its figures, with a tiny random model and two steps of each training."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from tests.experiments.elva.conftest import RETRIEVAL, WORLD

from fieldmark.data.mined_negatives import read_mined
from fieldmark.experiments.elva import plan, reproduce, runs
from fieldmark.experiments.elva.plan import ElvaTableConfig, plan_runs
from fieldmark.experiments.elva.reproduce import reproduce_elva
from fieldmark.experiments.elva.world import ElvaWorld
from fieldmark.experiments.runs import in_processes
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive_config import ContrastiveConfig, HeldOutConfig
from fieldmark.training.elva_config import CandidatesConfig, ElvaConfig, NegativesConfig, SummaryConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig
from fieldmark.training.run_folder import to_plain

ROWS = ("stage2", "continued", "stage2_generative", "stage3", "permuted")


def write_recipes(folder: Path, checkpoint: Path) -> dict[str, str]:
    prompt = "{text}\n{instruction}"
    embedder = EmbedderConfig(
        "generative", image_size=16, max_new_tokens=3, one_word_prompt=prompt, generative_prompt=f"{prompt}\nSum up: "
    )
    adapter = AdapterConfig(rank=2, alpha=4, dropout=0.0)
    common = {
        "data": RetrievalDataConfig(workers=0),
        "validation": HeldOutConfig(2, 8),
        "schedule": ScheduleConfig(steps=2, validate_every=2, checkpoint_every=2, select="last"),
    }
    recipes = {
        "recipe": ElvaConfig(
            model=EmbedderModelConfig(str(checkpoint), adapter, embedder),
            queries_per_step=2,
            negatives=NegativesConfig(hard=2, random=2),
            summaries=SummaryConfig(group_size=3),
            candidates=CandidatesConfig(refresh_every=2),
            replay=ReplayConfig(prompts_per_chunk=2),
            **common,
        ),
        "contrastive": ContrastiveConfig(
            model=EmbedderModelConfig(adapter=adapter), batch_size=4, hard_negatives=1, **common
        ),
    }
    files = {name: folder / f"{name}.yaml" for name in recipes}
    for name, recipe in recipes.items():
        files[name].write_text(yaml.safe_dump(to_plain(recipe)))
    return {name: str(path) for name, path in files.items()}


@pytest.fixture(scope="module", autouse=True)
def done() -> Iterator[list[str]]:
    """A world of a handful of species, and work done in this process. Gives what was trained, in order."""
    trained: list[str] = []

    def watched(kind, train):
        return lambda config, resume: (trained.append(f"{kind} {config.run}"), train(config, resume=resume))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "elva_world", lambda seed: ElvaWorld(replace(WORLD, seed=seed), RETRIEVAL))
        patch.setattr(reproduce, "in_processes", lambda tasks, work, _: ((task, work(task)) for task in tasks))
        patch.setattr(runs, "train_elva", watched("elva", runs.train_elva))
        patch.setattr(runs, "train_contrastive", watched("contrastive", runs.train_contrastive))
        yield trained


@pytest.fixture(scope="module")
def config(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ElvaTableConfig:
    folder = tmp_path_factory.mktemp("tables")
    return ElvaTableConfig(seeds=(3,), out=str(folder / "out"), processes=1, **write_recipes(folder, checkpoint))


@pytest.fixture(scope="module")
def text(config: ElvaTableConfig) -> str:
    """The table of the controls, in two calls: the second does what the first left."""
    first = reproduce_elva(replace(config, limit=2))
    assert first.count("not run yet") == 3
    return reproduce_elva(config)


def stored(config: ElvaTableConfig, table: str) -> dict[str, dict]:
    content = json.loads((config.docs_folder / f"elva-{table}-fieldguide.json").read_text())
    return {one["row"]: one for one in content["measured"]}


def test_every_row_is_trained_once_and_measured(config, text, done):
    assert "not run yet" not in text
    kinds = [one.split()[0] for one in done]
    assert kinds == ["elva", "contrastive", "elva"]  # stage 3, the continued stage 2, permuted rewards
    found = stored(config, "controls")
    assert set(found) == set(ROWS)
    for row, one in found.items():
        assert one["steps"] == (0 if row.startswith("stage2") else 2)
        assert (one["training_seconds"] > 0) == (one["steps"] > 0) and one["measuring_seconds"] > 0
        assert one["figures"]["mode"] == ("one_word" if row in ("stage2", "continued") else "generative")
        assert one["figures"]["mrbench"]["average"] >= 0 and one["figures"]["multi_grain"]["queries"] > 0
    assert found["stage3"]["signals"]["reward"].keys() == {"first", "last"} and found["continued"]["signals"] == {}
    # the start's two modes differ in what is read, and a trained adapter in what is embedded
    figures = [json.dumps(found[row]["figures"]["sensitivity"]) for row in ROWS]
    assert len(set(figures)) == len(ROWS)


def test_the_world_is_whole_and_shared(config, text):
    (seed,) = (Path(config.out) / "fieldguide" / "worlds").glob("mbeir-*/seed-3")
    assert {p.name.split("-")[0] for p in seed.iterdir()} == {"collection", "mrbench", "mined"}
    (mined,) = seed.glob("mined-*")
    found = next(iter(read_mined(mined).values()))
    assert len(found.hard) == len(found.random) == 4


def test_finished_runs_are_not_repeated_and_tables_share_them(config, text, done):
    before = list(done)
    assert reproduce_elva(config) == text and done == before
    reproduce_elva(replace(config, table="main"))
    assert done == before
    main = stored(config, "main")
    assert main["stage3"] | {"label": ""} == stored(config, "controls")["stage3"] | {"label": ""}


def test_stage_3_after_another_run(config, text, done):
    before = list(done)
    table = reproduce_elva(replace(config, table="posttrain"))
    assert "not run yet" not in table
    (new,) = done[len(before) :]  # the retriever is the controls' continued second stage
    last = next(p for p in plan_runs(replace(config, table="posttrain")) if p.row.key == "after")
    assert new == f"elva {last.run.folder}"
    # what it started from is folded in and saved with it
    description = json.loads((last.run.folder / "encoder" / "embedder.json").read_text())
    assert description["folded"] == 1 and description["adapter"]


def test_a_run_of_another_recipe_in_the_folder_is_refused(config, text):
    (one,) = (p.run for p in plan_runs(config) if p.row.key == "permuted")
    other = replace(one, mode="one_word", config=replace(one.config, queries_per_step=3))
    with pytest.raises(ValueError, match="another queries_per_step"):
        runs.execute([other])


def test_another_world_in_the_folder_is_refused(config, text):
    place = plan_runs(config)[0].place
    with pytest.raises(ValueError, match="another world"):
        replace(place, world=ElvaWorld(WORLD, replace(RETRIEVAL, test_queries=5))).prepare(mined=False)


def test_report(config, text):
    assert text.startswith("# ELVA. Is it the rewards?: Fieldguide")
    assert "## Recall by direction" in text and "i,t→i" in text and "3 grains" in text
    assert "## What training saw" in text and "## stage 3, seed by seed" in text
    assert "| stage 3, rewards permuted (against: stage 2, one word) |" in text
    figure = ElementTree.parse(config.docs_folder / "elva-controls-fieldguide.svg")
    assert len(figure.findall(".//{*}circle")) == len(ROWS)


@pytest.mark.slow
def test_runs_and_worlds_in_processes_of_their_own(config, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "in_processes", in_processes)
    config = replace(config, table="main", out=str(tmp_path), seeds=(3, 4), processes=2)
    assert "not run yet" not in reproduce_elva(config)
    assert len(stored(config, "main")) == 2
