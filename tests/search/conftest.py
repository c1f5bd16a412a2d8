"""One encoder for all tests of a process; a collection, a server and a browser for each module that asks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.search import serving
from tests.search.browser import open_browser, open_page

from fieldmark.search.encoders import SearchEncoder, load_search_encoder


@pytest.fixture(scope="session")
def bird_encoder(tmp_path_factory: pytest.TempPathFactory) -> SearchEncoder:
    return load_search_encoder(serving.save_encoder(tmp_path_factory.mktemp("encoder") / "birds"))


@pytest.fixture(scope="module")
def birds(bird_encoder: SearchEncoder, tmp_path_factory: pytest.TempPathFactory) -> serving.Index:
    folder = tmp_path_factory.mktemp("birds")
    return serving.make_collection(folder / "pictures", bird_encoder, folder / "birds.index")


@pytest.fixture(scope="module")
def served(birds: serving.Index, bird_encoder: SearchEncoder) -> Iterator[serving.Served]:
    with serving.serve(birds, bird_encoder) as running:
        yield running


@pytest.fixture
def picture_file(birds: serving.Index) -> Path:
    """One picture of the collection."""
    return next(iter(sorted(birds.root.rglob("*.png"))))


@pytest.fixture
def make_birds(bird_encoder: SearchEncoder) -> Callable[[Path], serving.Index]:
    """Makes a small collection of its own that a test may damage."""

    def make(folder: Path) -> serving.Index:
        root, index = folder / "pictures", folder / "birds.index"
        return serving.make_collection(root, bird_encoder, index, species=2, per=2, size=48)

    return make


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with open_browser() as opened:
            yield opened
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(browser: Any, served: serving.Served) -> Iterator[Any]:
    with open_page(browser, served.url) as opened:
        opened.wait_for_selector("#samples button")
        yield opened
        assert opened.strangers == []
        assert opened.complaints == []
