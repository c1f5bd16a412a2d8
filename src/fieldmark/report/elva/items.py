"""Items of a retrieval task as HTML: their pictures, texts, and what of a query they satisfy."""

from collections.abc import Sequence
from pathlib import Path

from fieldmark.data.decode import decode_image
from fieldmark.data.retrieval import Item, Query
from fieldmark.report.html import Html, el
from fieldmark.report.pictures import picture_uri


class ItemPictures:
    """Reads each picture's file once. pixels: stored at most this large."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._uris: dict[Path, str] = {}

    def uri(self, file: Path) -> str:
        """Data URI.

        Raises:
            BadImage: it cannot be read.
        """
        if file not in self._uris:
            self._uris[file] = picture_uri(decode_image(file), self._pixels)
        return self._uris[file]

    def shown(self, item: Item, alt: str) -> Html:
        """The item: its picture, and its text where it has one."""
        parts = []
        if item.image is not None:
            parts.append(el("img", src=self.uri(item.image), alt=alt))
        if item.text:
            parts.append(el("span", item.text, class_="item-text"))
        if item.video is not None:
            parts.append(el("span", item.video.name, class_="item-text"))
        return el("span", parts, class_="item")


def query_words(query: Query) -> str:
    """A query in one line: its text, or the name of its picture."""
    if query.item.text:
        return query.item.text
    return query.item.image.name if query.item.image is not None else query.id


def grain_marks(query: Query, facts: Sequence[str]) -> Html | None:
    """A sign for each grain: satisfied or violated by what has these facts; None if nothing is known of it."""
    if not facts or not query.grains:
        return None
    marks = []
    for grain in query.grains:
        has = grain in facts
        sign = el("span", "✓" if has else "✗", aria_hidden="true")
        word = el("span", "has " if has else "lacks ", class_="visually-hidden")
        marks.append(el("li", sign, word, " ", grain, class_="has" if has else "lacks"))
    return el("ul", marks, class_="grains")
