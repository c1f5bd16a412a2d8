"""The bundled embedder fits into a package, finds birds by words and pictures, and writes summaries that are true."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import TaskName
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.retrieval import top_k
from fieldmark.experiments.elva.measure import ElvaFigures, measure_embedder
from fieldmark.experiments.tiny_embedder.train import EMBEDDER
from fieldmark.models.bundled import BUNDLED_ELVA_START, BUNDLED_EMBEDDER, bundled_path
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.search.encoders import load_search_encoder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = FieldguideConfig(species=24, per=3, nuisance=0.35, habitat=0.0, seed=77, train_share=0.5)
    sizes = FieldguideRetrieval(train_queries=8, val_queries=4, test_queries=32, max_grains=3, wording="plain", nli=0)
    return write_fieldguide_retrieval(world, sizes, tmp_path_factory.mktemp("birds") / "collection", workers=1).root


def measured(collection: Path, mode: str) -> ElvaFigures:
    embedder = load_embedder(BUNDLED_EMBEDDER, config=replace(EMBEDDER, mode=mode))  # type: ignore[arg-type]
    return measure_embedder(embedder, collection, encoding=EncodingConfig(batch_size=32, workers=0))


def test_it_fits_into_a_package() -> None:
    """16 MB for the model and both embedders together."""
    assert sum(path.stat().st_size for path in bundled_path().rglob("*") if path.is_file()) < 16e6


def test_it_says_how_it_wants_to_be_asked_and_searches_words_and_pictures() -> None:
    assert load_embedder(BUNDLED_EMBEDDER).config == EMBEDDER
    encoder = load_search_encoder(BUNDLED_EMBEDDER)
    assert encoder.reads_words and encoder.embedding_size == 160


def test_in_one_word_it_finds_unseen_species(collection: Path) -> None:
    figures = measured(collection, "one_word")
    assert figures.average > 0.8, {name: one.mean for name, one in figures.recall.items()}


def test_its_summaries_are_true_and_drop_grains(collection: Path) -> None:
    figures = measured(collection, "generative")
    assert figures.average > 0.7, {name: one.mean for name, one in figures.recall.items()}
    said = figures.truth["candidates"]
    assert said.true > 0.85 and said.unreadable < 0.02 and 0.3 < said.named < 0.8, said
    assert figures.queries.forced is not None and figures.queries.forced < 0.05, "its summaries end in [RET]"


def test_the_start_of_the_evidence_hears_what_a_summary_says(collection: Path) -> None:
    """Behind another query's summary it finds much less: an embedding that passes summaries over finds the same."""
    start = load_embedder(BUNDLED_ELVA_START)
    assert start.config == EMBEDDER
    task = open_mbeir_task(collection, TaskName.parse("fieldguide_task3"), "test")[0]
    pool = start.encode([Request(one) for one in task.candidates]).embeddings
    queries = task.queries[:24]
    said = [start.backbone.tokenizer(", ".join(one.grains), add_special_tokens=False)["input_ids"] for one in queries]

    def found(shift: int) -> float:
        summaries = [torch.tensor(said[(i + shift) % len(said)]) for i in range(len(said))]
        with torch.no_grad():
            rows = start.embed_summaries([Request(one.item, one.instruction) for one in queries], summaries)
        nearest = top_k(rows, pool, k=3).indices.tolist()
        ids = [[task.candidates[place].id for place in row] for row in nearest]
        hits = [any(one in task.relevance[query.id] for one in row) for query, row in zip(queries, ids, strict=True)]
        return sum(hits) / len(hits)

    assert found(0) > 0.8 and found(0) > found(7) + 0.15, (found(0), found(7))
