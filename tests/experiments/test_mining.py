"""Mining with a tiny random model: what is stored, what is passed over, and training on it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

from fieldmark.data.mined_negatives import read_mined
from fieldmark.experiments.mining import MiningConfig, mine_negatives
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """With every query twice in the training file, as small data sets are upsampled, and query 9 in the pool itself."""
    root = write_squares(tmp_path_factory.mktemp("squares") / "mbeir")
    union = root / "query" / "union_train" / "mbeir_union_up_train.jsonl"
    union.write_text(union.read_text() * 2)
    pool = root / "cand_pool" / "global" / "mbeir_union_train_cand_pool.jsonl"
    twin = {"did": "10:777", "txt": "plain green", "img_path": None, "modality": "text", "src_content": None}
    pool.write_text(pool.read_text() + json.dumps(twin) + "\n")
    return root


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("embedder")
    config = EmbedderConfig(image_size=16)
    load_embedder(save_tiny(folder / "base"), config=config).save_pretrained(folder / "saved")
    return str(folder / "saved")


@pytest.fixture
def config(squares, embedder, tmp_path) -> MiningConfig:
    data = RetrievalDataConfig(path=str(squares))
    return MiningConfig(embedder, str(tmp_path / "mined"), data, hard=5, random=4, threshold=0.8)


def test_what_is_stored_is_what_a_sort_of_everything_finds(config):
    report = mine_negatives(config)
    mined = read_mined(Path(config.out))
    task = load_training_task(config.data)
    model = load_embedder(config.embedder)
    pool = model.encode([Request(one) for one in task.candidates]).embeddings
    assert len(mined) == report.queries == 48 and report.candidates == 49
    passed = 0
    for query in task.queries[:48]:
        right = set(task.relevance[query.id])
        cosine = pool @ model.encode([Request(query.item, query.instruction)]).embeddings[0]
        ranked = [task.candidates[i] for i in cosine.argsort(descending=True)]
        others = [
            (c.id, float(s))
            for c, s in zip(ranked, cosine.sort(descending=True).values, strict=True)
            if c.id not in right and (c.text, c.image) != (query.item.text, query.item.image)
        ]
        passed += sum(s > 0.8 for _, s in others)
        found = mined[query.id]
        assert list(found.hard) == [one for one, s in others if s <= 0.8][:5]
        assert not (set(found.random) | set(found.hard)) & right and not set(found.random) & set(found.hard)
        assert len(set(found.random)) == 4
        if query.item.text == "plain green":  # the pool's own "plain green" is no negative of it
            assert "10:777" not in found.hard + found.random
    assert report.passed_over == pytest.approx(passed / 48)
    about = mined.about
    assert about["embedder"]["fingerprint"] == model.fingerprint() and about["config"]["hard"] == 5
    assert "48 queries, 49 candidates" in report.as_text()


def test_a_picture_is_no_negative_of_itself(config):
    """Queries of task 3 are pictures that the pool has under other ids."""
    mine_negatives(replace(config, hard=40, threshold=None, random=0))
    mined = read_mined(Path(config.out))
    for number in range(24):
        assert f"10:{number}" not in mined[f"10:{100 + number}"].hard
        assert mined[f"10:{100 + number}"].random == ()


def test_same_seed_same_negatives_and_a_part_of_the_queries(config, tmp_path):
    mine_negatives(config)
    again = replace(config, out=str(tmp_path / "again"))
    mine_negatives(again)
    few = replace(config, out=str(tmp_path / "few"), queries=7)
    report = mine_negatives(few)
    one, two, three = (read_mined(Path(c.out)) for c in (config, again, few))
    assert dict(one) == dict(two)
    assert 1 <= len(three) == report.queries <= 7 and all(three[qid] == one[qid] for qid in three)
    other = replace(config, out=str(tmp_path / "other"), seed=5)
    mine_negatives(other)
    assert any(found.random != one[qid].random for qid, found in read_mined(Path(other.out)).items())


def test_a_small_pool_gives_what_it_has(config):
    report = mine_negatives(replace(config, hard=100, random=100, threshold=None))
    assert report.short == 48
    assert all(
        len(found.hard) in (45, 46, 47, 48) and not found.random for found in read_mined(Path(config.out)).values()
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [({"embedder": ""}, "--embedder"), ({"out": ""}, "--out"), ({"data": RetrievalDataConfig()}, "--data")],
)
def test_bad_input_is_named(config, change, named):
    with pytest.raises(ValueError, match=named):
        mine_negatives(replace(config, **change))
    assert not Path(config.out).exists()


def test_nothing_is_overwritten(config):
    Path(config.out).mkdir()
    with pytest.raises(ValueError, match="exists already"):
        mine_negatives(config)
    with pytest.raises(ValueError, match="hard"):
        replace(config, hard=0)


def test_random_negatives_are_uniform(config):
    """Each of the 40 or so that are left for a query is drawn about as often as any other, over seeds."""
    from fieldmark.experiments.mining import _random

    task = load_training_task(config.data)
    counts = torch.zeros(49)
    for seed in range(400):
        for place in _random(replace(config, seed=seed), task.queries[3], 49, {1, 2, 3}):
            counts[place] += 1
    assert counts[1:4].sum() == 0 and counts.sum() == 1600
    left = torch.cat([counts[:1], counts[4:]])
    assert left.min() > 15 and left.max() < 60  # 35 ± 5.8 expected
