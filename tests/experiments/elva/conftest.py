"""A handful of drawn birds as a retrieval collection, and a tiny random model that reads it."""

from pathlib import Path

import pytest
from tests.fixtures_models import save_tiny

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig

WORLD = FieldguideConfig(species=20, per=3, siblings=2, size=24, seed=3, habitat=0)
RETRIEVAL = FieldguideRetrieval(train_queries=16, val_queries=4, test_queries=9, max_grains=3, variants=1, nli=0)


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fieldguide_retrieval(WORLD, RETRIEVAL, tmp_path_factory.mktemp("world") / "birds", workers=1).root


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))
