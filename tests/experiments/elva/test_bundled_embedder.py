"""The bundled embedder fits into a package, finds birds by words and pictures, and writes summaries that are true."""

from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.experiments.elva.measure import ElvaFigures, measure_embedder
from fieldmark.experiments.tiny_embedder.train import EMBEDDER
from fieldmark.models.bundled import BUNDLED_EMBEDDER, bundled_path
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
