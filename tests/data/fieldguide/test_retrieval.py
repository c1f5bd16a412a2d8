import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fieldmark.data.fieldguide.collections import FieldguideOptions
from fieldmark.data.fieldguide.retrieval import (
    NLI_FILE,
    FieldguideRetrieval,
    WrittenRetrieval,
    nli_triplets,
    write_fieldguide_retrieval,
)
from fieldmark.data.fieldguide.retrieval_pictures import plan_pictures
from fieldmark.data.fieldguide.retrieval_queries import grain_split
from fieldmark.data.fieldguide.species import FIELD_MARKS, is_reserved
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.data.multimodal.inspection import inspect_mbeir
from fieldmark.data.multimodal.mbeir import read_mbeir_task, read_mbeir_training
from fieldmark.data.multimodal.nli import read_nli
from fieldmark.data.retrieval import RetrievalTask, share_of_grains
from fieldmark.models.bundled import bundled_path

WORLD = FieldguideConfig(species=24, per=3, siblings=2, size=24, seed=3, habitat=0)
RETRIEVAL = FieldguideRetrieval(train_queries=40, val_queries=12, test_queries=24, max_grains=3, nli=60)
TASKS = ("fieldguide_task0", "fieldguide_task3", "fieldguide_task4", "fieldguide_task7")


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenRetrieval:
    return write_fieldguide_retrieval(WORLD, RETRIEVAL, tmp_path_factory.mktemp("world") / "birds", workers=1)


@pytest.fixture(scope="module")
def tasks(written: WrittenRetrieval) -> dict[tuple[str, str], RetrievalTask]:
    pairs = itertools.product(TASKS, ("val", "test"))
    return {(name, split): read_mbeir_task(written.root, name, split) for name, split in pairs}  # type: ignore[arg-type]


def test_same_settings_same_bytes_whatever_the_workers(written: WrittenRetrieval, tmp_path: Path) -> None:
    write_fieldguide_retrieval(WORLD, RETRIEVAL, tmp_path / "again", workers=2)
    assert digest(tmp_path / "again") == digest(written.root)
    with pytest.raises(ValueError, match="--force"):
        write_fieldguide_retrieval(WORLD, RETRIEVAL, tmp_path / "again", workers=1)


def test_it_is_complete_mbeir(written: WrittenRetrieval) -> None:
    found = inspect_mbeir(written.root)
    assert found.complete and not [note for one in found.tasks for note in one.notes]
    assert {(one.name, one.split): one.queries for one in found.tasks} == {
        (f"fieldguide_{key.split()[0]}", key.split()[1]): count
        for key, count in written.queries.items()
        if "train" not in key
    }
    assert found.training == {
        f"fieldguide {key.split()[0]}": n for key, n in written.queries.items() if key.endswith("train")
    }
    assert "near misses a query" in written.as_text()


def test_relevant_is_what_satisfies_every_grain_and_near_misses_abound(
    tasks: dict[tuple[str, str], RetrievalTask],
) -> None:
    for (name, _), task in tasks.items():
        candidates = list(task.candidates)
        near = []
        for query in task.queries:
            shares = {one.id: share_of_grains(query, one) for one in candidates}
            assert {one for one, share in shares.items() if share == 1} == set(task.relevance[query.id])
            if len(query.grains) > 1:
                near.append(sum(round((1 - share) * len(query.grains)) == 1 for share in shares.values()))
        assert np.mean(near) >= 2 and (name != "fieldguide_task0" or min(near) >= 2)


def test_text_queries_say_their_grains(tasks: dict[tuple[str, str], RetrievalTask]) -> None:
    queries = tasks["fieldguide_task0", "test"].queries
    assert all(one.item.text == ", ".join(one.grains) for one in queries)
    assert {len(one.grains) for one in queries} == {1, 2, 3}
    assert len({frozenset(one.grains) for one in queries}) == len(queries)


def test_changed_birds(written: WrittenRetrieval, tasks: dict[tuple[str, str], RetrievalTask]) -> None:
    lines = (written.root / "query/test/mbeir_fieldguide_task7_test.jsonl").read_text().splitlines()
    for query, line in zip(tasks["fieldguide_task7", "test"].queries, lines, strict=True):
        changed = json.loads(json.loads(line)["query_src_content"])["changed"]
        assert query.item.text == ", ".join(changed) and set(changed) < set(query.grains) and len(query.grains) == 8
        assert query.item.modality == "image,text" and 1 <= len(changed) <= 2


def test_query_pictures_are_in_no_pool_of_evaluation(tasks: dict[tuple[str, str], RetrievalTask]) -> None:
    asked = {q.item.image for task in tasks.values() for q in task.queries} - {None}
    assert asked and not asked & {c.image for task in tasks.values() for c in task.candidates}


def test_combinations_of_test_are_not_in_training(
    written: WrittenRetrieval, tasks: dict[tuple[str, str], RetrievalTask]
) -> None:
    training = read_mbeir_training(written.root)
    seen = {frozenset(one.grains) for one in training.queries if len(one.grains) > 1}
    facts = {frozenset(one.facts) for one in training.candidates}
    for task in tasks.values():
        assert not seen & {frozenset(one.grains) for one in task.queries if len(one.grains) > 1}
        assert not facts & {frozenset(one.facts) for one in task.candidates}


def test_species_and_variants_of_the_splits_are_apart() -> None:
    plan = plan_pictures(replace(WORLD, species=40), 2, 0.25)
    combinations: dict[str, set[tuple[str, ...]]] = {"train": set(), "val": set(), "test": set()}
    for shot in plan.shots:
        combinations[shot.split].add(tuple(shot.marks.values()))
        assert is_reserved(shot.marks) == (shot.split == "test")
    assert not combinations["train"] & combinations["val"]
    assert len({shot.path for shot in plan.shots}) == len(plan.shots) == len({shot.seed for shot in plan.shots})
    names = {shot.split: {s.species for s in plan.shots if s.split == shot.split} for shot in plan.shots}
    assert not names["train"] & names["val"] and len(names["val"]) == 4  # whole genera


def test_half_of_the_combinations_train() -> None:
    pairs = itertools.combinations([f"{name} {value}" for name, values in FIELD_MARKS.items() for value in values], 2)
    splits = [grain_split(pair) for pair in pairs]
    assert 0.28 < splits.count("test") / len(splits) < 0.38 and 0.12 < splits.count("val") / len(splits) < 0.21
    assert grain_split(("a", "b")) == grain_split(("b", "a"))


def test_triplets(written: WrittenRetrieval) -> None:
    triplets = read_nli(written.root / NLI_FILE)
    assert len(triplets) == 60 and triplets == nli_triplets(60, np.random.default_rng([WORLD.seed, 13]))
    for one in triplets:
        first, second, third = (
            {part.replace(": ", " ") for part in text.split(", ")}
            for text in (one.sentence, one.entailed, one.contradicted)
        )
        assert first == second and one.sentence != one.entailed
        assert len(first - third) == len(third - first) == 1
        if 1 < len(first) <= 4:
            assert grain_split(first) == grain_split(third) == "train"


def test_texts_cost_the_bundled_model_three_tokens_a_mark(tasks: dict[tuple[str, str], RetrievalTask]) -> None:
    tokenizer = Tokenizer.from_file(str(bundled_path() / "tokenizer.json"))

    def cost(text: str | None) -> int:
        return len(tokenizer.encode(text or "").ids)

    for name in ("fieldguide_task0", "fieldguide_task7"):
        for query in tasks[name, "test"].queries:
            assert query.item.text is not None
            assert cost(query.item.text) == 3 * (query.item.text.count(",") + 1) - 1
    assert cost(tasks["fieldguide_task3", "test"].candidates[0].text) == 23
    assert max(cost(one) for one in tasks["fieldguide_task0", "test"].queries[0].wordings) <= 24


def test_natural_words(tmp_path: Path) -> None:
    few = replace(RETRIEVAL, wording="natural", train_queries=4, test_queries=4, val_queries=4, nli=0)
    root = write_fieldguide_retrieval(replace(WORLD, size=16), few, tmp_path / "w", workers=1).root
    assert read_mbeir_task(root, "fieldguide_task7").queries[0].item.text.startswith("the same bird, but ")  # type: ignore[union-attr]
    assert not (root / NLI_FILE).exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_grains": 9}, "max_grains"), ({"validation_share": 0.0}, "validation_share"),
        ({"test_queries": 0}, "test_queries"), ({"nli": -1}, "nli"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(change: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FieldguideRetrieval(**change)  # type: ignore[arg-type]


def test_worlds_that_are_too_small(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 pictures"):
        write_fieldguide_retrieval(replace(WORLD, per=1), RETRIEVAL, tmp_path / "w")
    with pytest.raises(ValueError, match="leaves one side empty"):
        write_fieldguide_retrieval(replace(WORLD, species=4), RETRIEVAL, tmp_path / "w")
    assert not list(tmp_path.iterdir())


def test_options_hold_the_world() -> None:
    assert FieldguideOptions(species=24, per=3, siblings=2, size=24, seed=3, habitat=0).world == WORLD
