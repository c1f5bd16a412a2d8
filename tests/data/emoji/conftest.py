from pathlib import Path

import pytest
from tests.data.emoji.miniature import TITLES, miniature, write_installed

from fieldmark.data.emoji.catalogue import Catalogue, Picture
from fieldmark.data.emoji.concepts import Concept, read_concepts
from fieldmark.data.emoji.packages import EMOJIBASE, STYLES


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature packages as npm installs them. Not to be changed."""
    return write_installed(tmp_path_factory.mktemp("installed"), miniature())


@pytest.fixture(scope="session")
def concepts(installed: Path) -> dict[str, Concept]:
    found = read_concepts(installed / "node_modules" / EMOJIBASE, ("en", "de"))
    return {concept.hexcode: concept for concept in found}


@pytest.fixture(scope="session")
def catalogue(concepts: dict[str, Concept]) -> Catalogue:
    """All concepts in one split, drawn in all styles; France and Clipperton alike in Twemoji."""
    flags = frozenset({"1F1EB-1F1F7", "1F1E8-1F1F5"})
    pictures = tuple(
        Picture(
            style,
            hexcode,
            f"{style}/{hexcode}.png",
            flags if style == "twemoji" and hexcode in flags else frozenset({hexcode}),
        )
        for style in STYLES
        for hexcode in concepts
    )
    return Catalogue(tuple(concepts.values()), pictures, TITLES, ("en", "de"), dict.fromkeys(concepts, "test"))
