"""The bundled embedder's own recipe: what its summaries say, and that its steps follow each other and resume."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldmark.data.fieldguide.retrieval_queries import grain_split
from fieldmark.data.fieldguide.species import FIELD_MARKS, is_reserved
from fieldmark.data.fieldguide.wording import statement, statements
from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import TaskName
from fieldmark.data.retrieval import Item
from fieldmark.data.summaries import read_summaries
from fieldmark.experiments.tiny_embedder.summaries import as_example, draw_copy, draw_described
from fieldmark.experiments.tiny_embedder.train import EMBEDDER, TinyEmbedderConfig, train_tiny_embedder
from fieldmark.experiments.tiny_model.pictures import draw_pool
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import load_embedder


@pytest.fixture(scope="module")
def pool():
    return draw_pool(2, 4, 2, 0.35, 1.0, seed=8, workers=1)


def asked(text: str | None) -> dict[str, str]:
    """Mark → value in a text; of a mark that stands twice, the last: the change."""
    found = {}
    for line in (text or "").split("\n"):
        for part in filter(None, line.split(", ")):
            name = next(name for name in FIELD_MARKS if part.startswith(f"{name} "))
            found[name] = part.removeprefix(f"{name} ")
    return found


def test_summaries_of_texts_say_a_part_of_what_is_asked_for():
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        request, summary = draw_copy(rng)
        truth, said = asked(request.item.text), asked(summary)
        assert request.picture is None and said and said.items() <= truth.items(), (request, summary)
        shares.append(len(said) / len(truth))
        assert len(truth) < 8 or not is_reserved(truth), "an evaluation species"
        if 1 < len(truth) <= 4 and "\n" not in request.item.text:
            assert grain_split(statements(truth)) == "train", "a combination that test queries ask for"
    assert 0.4 < np.mean(shares) < 0.8 and max(shares) == 1, "some drop grains, some do not"


def test_summaries_of_pictures_are_true_of_them_but_for_the_change(pool):
    rng = np.random.default_rng(1)
    changed = 0
    for number in range(120):
        picture = number % len(pool.images)
        request, summary = draw_described(pool, picture, rng)
        attributes = pool.attributes(picture)
        truth = {name: attributes[name] for name in FIELD_MARKS} | asked(request.item.text)
        assert asked(summary).items() <= truth.items() and not is_reserved(truth)
        assert torch.equal(request.picture, torch.from_numpy(pool.images[picture]))
        changed += request.item.text is not None
    assert 20 < changed < 60


def test_a_statement_costs_two_tokens_and_the_summary_ends_in_ret():
    embedder = load_embedder("bundled", config=replace(EMBEDDER, mode="generative"))
    text = ", ".join(statement(name, values[0]) for name, values in FIELD_MARKS.items())
    example = as_example(embedder, text)
    assert len(example.answer) == 3 * len(FIELD_MARKS) and example.answer[-1] == embedder.summary_id
    assert all(example.targets)


@pytest.mark.slow
def test_four_steps_resume_and_the_export_embeds(tmp_path: Path):
    config = TinyEmbedderConfig(
        rank=4,
        copying_steps=2,
        copying_batch=4,
        summary_steps=1,
        summary_batch=4,
        genera=2,
        stage1_steps=1,
        stage1_batch=4,
        stage2_steps=1,
        stage2_batch=4,
        species=60,
        pictures=3,
        max_grains=2,
        drafts=2,
        contrasted=0.5,
        alone=0.5,
        checkpoint_every=1,
    )
    folder = train_tiny_embedder(config, tmp_path / "run", tmp_path / "exported")
    written = (tmp_path / "run" / "stage2" / "encoder" / "adapter_model.safetensors").read_bytes()
    logged = (tmp_path / "run" / "stage1" / "log.jsonl").read_bytes()
    assert train_tiny_embedder(config, tmp_path / "run") == tmp_path / "run" / "stage2" / "encoder"
    assert (tmp_path / "run" / "stage2" / "encoder" / "adapter_model.safetensors").read_bytes() == written
    assert (tmp_path / "run" / "stage1" / "log.jsonl").read_bytes() == logged, "a finished stage is not trained again"

    asked = open_mbeir_task(tmp_path / "run" / "collection", TaskName.parse("fieldguide_task0"), "train")[0].queries
    assert {len(query.grains) for query in asked} == {1, 2}
    known = Counter((one.of, one.id) for one in read_summaries(tmp_path / "run" / "stage2-summaries.jsonl"))
    assert set(known.values()) == {1, 2}, "two drafts, which may be alike"

    embedder, trained = load_embedder(folder), load_embedder(tmp_path / "run" / "stage2" / "encoder")
    requests = [Request(Item("a", "bill shape hooked")), Request(Item("b", "leg color red, eye ring none"))]
    ours, theirs = embedder.encode(requests).embeddings, trained.encode(requests).embeddings
    assert torch.allclose(ours, theirs, atol=1e-5) and not torch.allclose(ours[0], ours[1], atol=1e-3)
    assert embedder.base == "bundled" and len(embedder.folded) == 4 and embedder.config == EMBEDDER

    with pytest.raises(ValueError, match="another recipe"):
        train_tiny_embedder(replace(config, rank=8), tmp_path / "run")
