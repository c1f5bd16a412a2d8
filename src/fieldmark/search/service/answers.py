"""What the service answers: facts, items, searches, explanations. Called in threads, many at once."""

import threading
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from fieldmark.evaluation.correspondence import explain_pair
from fieldmark.search import queries
from fieldmark.search.collection_mean import RememberedMean
from fieldmark.search.encoders import PictureEncoder
from fieldmark.search.filters import FilterError
from fieldmark.search.index import Index
from fieldmark.search.queries import Part, SearchQuery, SearchResults, check_where
from fieldmark.search.schema import Row, to_row
from fieldmark.search.service.batching import EncoderQueue
from fieldmark.search.service.config import Limits
from fieldmark.search.service.decoding import DecodePool
from fieldmark.search.service.errors import Refusal, about_picture
from fieldmark.search.service.pictures import Pictures
from fieldmark.search.service.schemas import ExplainIn, ExplainOut, Facet, Pair, PartIn, PictureOrItem, SearchIn

_FACET_ROWS = 20_000
_FACET_VALUES = 24
_FACET_SECONDS = 60.0
_MOST_CONTRIBUTIONS = 70_000
"""Numbers of a contribution matrix that are sent; 16 × 16 regions on either side."""


class Answers:
    """Everything that reads. The pieces are made and closed by `app.Service`."""

    def __init__(self, index: Index, queue: EncoderQueue, pool: DecodePool, pictures: Pictures, limits: Limits) -> None:
        self.index = index
        self._queue = queue
        self._pool = pool
        self._pictures = pictures
        self._limits = limits
        self._mean = RememberedMean(index)
        self._facets: tuple[float, list[Facet]] | None = None
        self._facets_lock = threading.Lock()

    @property
    def explains(self) -> bool:
        """Whether matches of this encoder can be split over regions."""
        return isinstance(self._queue.encoder, PictureEncoder)

    def row(self, id: str) -> Row:
        """An item. Raises Refusal (404)."""
        row = self.index.get(id)
        if row is None:
            raise Refusal(404, "not_found", "there is no item with this id")
        return row

    def sample(self, count: int) -> list[Row]:
        """Up to so many items, spread over the first thousand rows."""
        batch = next(iter(self.index.scan(batch_size=1024)), None)
        if batch is None or not batch.num_rows:
            return []
        places = np.unique(np.linspace(0, batch.num_rows - 1, min(count, batch.num_rows)).astype(int))
        return [to_row(record) for record in batch.take(places).to_pylist()]

    def facets(self) -> list[Facet]:
        """Columns with few values, and those that are most frequent; looked up at most once a minute. Of a large index,
        the first `_FACET_ROWS` rows stand for all."""
        with self._facets_lock:
            if self._facets is None or time.monotonic() - self._facets[0] > _FACET_SECONDS:
                self._facets = (time.monotonic(), self._count_facets())
            return self._facets[1]

    def search(self, asked: SearchIn, contents: Sequence[bytes]) -> SearchResults:
        """Embed what needs it, together with what others ask, and find the nearest rows. Of a query without parts
        and examples, each of the request's pictures is a part.

        Raises:
            Refusal: 400 or 404 for a query that makes no sense here, what `DecodePool` and `EncoderQueue` raise.
        """
        if not asked.parts and not asked.more_like:  # pictures alone are a query
            asked = asked.model_copy(
                update={"parts": [PartIn(weight=1.0, image=number, text=None) for number in range(len(contents))]}
            )
        self._check_limits(asked)
        where = _conditions(asked) or None
        named = [*asked.more_like, *asked.less_like, *(part.id for part in asked.parts if part.id is not None)]
        if len(self.index.rows(named)) < len(set(named)):
            raise Refusal(404, "not_found", "an item of the query is not in the index (any more)")
        used = sorted({part.image for part in asked.parts if part.image is not None and part.weight != 0})
        squares = {number: self._uploaded(contents, number) for number in used}
        try:
            check_where(self.index, where)
        except FilterError as error:
            raise Refusal(400, "bad_filter", self._without_paths(str(error)), where=error.number) from None
        try:
            parts = tuple(
                Part(part.weight, None if part.image is None else squares.get(part.image, _EMPTY), part.text, part.id)
                for part in asked.parts
            )
            query = SearchQuery(parts, tuple(asked.more_like), tuple(asked.less_like), where, asked.k)
            return queries.search(self.index, query, self._queue)
        except ValueError as error:
            raise Refusal(400, "bad_query", self._without_paths(str(error))) from None

    def explain(self, asked: ExplainIn, contents: Sequence[bytes]) -> ExplainOut:
        """Split the cosine of two pictures over their regions, without what all pictures of the index share if that is
        known. Raises Refusal: 409 if the encoder does not allow it."""
        encoder = self._queue.encoder
        if not isinstance(encoder, PictureEncoder):
            raise Refusal(
                409, "no_explanation", "matches of this encoder, which reads words, cannot be split over regions"
            )
        a, b = (self._either(one, contents) for one in (asked.a, asked.b))
        mean = self._mean.get()
        centre = None if mean is None else torch.from_numpy(mean)
        found = self._queue.take_turn(lambda: explain_pair(encoder.encoder, a, b, centre=centre))
        content = found.as_json(full=found.contribution.size <= _MOST_CONTRIBUTIONS)
        pairs = [Pair(**pair) for pair in content.pop("correspondences")]
        return ExplainOut(**{"contribution": None} | content, correspondences=pairs)

    # ---- parts of these

    def _either(self, one: PictureOrItem, contents: Sequence[bytes]) -> np.ndarray:
        if (one.image is None) == (one.id is None):
            raise Refusal(422, "bad_query", "give an image or an id for each of a and b")
        if one.id is not None:
            return self._pictures.square(self.row(one.id), self._queue.decode_size())[0]
        assert one.image is not None
        return self._uploaded(contents, one.image)

    def _uploaded(self, contents: Sequence[bytes], number: int) -> np.ndarray:
        if number >= len(contents):
            raise Refusal(422, "bad_query", f"the request has {len(contents)} pictures, there is no number {number}")
        with about_picture(number):
            return self._pool.square(contents[number], self._queue.decode_size())[0]

    def _check_limits(self, asked: SearchIn) -> None:
        limits = self._limits
        texts = [len(part.text) for part in asked.parts if part.text is not None]
        for what, found, most in (
            ("parts", len(asked.parts), limits.parts),
            ("examples", max(len(asked.more_like), len(asked.less_like)), limits.examples),
            ("k", asked.k, limits.results),
            ("characters of a text", max(texts, default=0), limits.text),
            ("characters of the filter", sum(map(len, _conditions(asked))), limits.filter),
        ):
            if found > most:
                raise Refusal(422, "bad_query", f"{what}: {found}, the service allows {most}")

    def _count_facets(self) -> list[Facet]:
        columns = [name for name, kind in self.index.facts.metadata.items() if kind in ("string", "bool")]
        if not columns:
            return []
        counts: dict[str, Counter[str | bool]] = {name: Counter() for name in columns}
        seen = 0
        for batch in self.index.scan(columns):
            seen += batch.num_rows
            for name in columns:
                counts[name].update(value for value in batch.column(name).to_pylist() if value is not None)
            if seen >= _FACET_ROWS:
                break
        whole = seen >= len(self.index)
        facets = []
        for name, found in counts.items():
            # A column of names or remarks is no filter, nor is one value that all have. That of the first rows of many
            # may not be: rows lie in the order of their paths.
            if (2 if whole else 1) <= len(found) <= max(_FACET_VALUES, seen // 3):
                frequent = [
                    str(value).lower() if isinstance(value, bool) else value
                    for value, _ in found.most_common(_FACET_VALUES)
                ]
                shown = [value for value in frequent if len(value) <= 80]
                facets.append(Facet(column=name, values=shown, total=len(found), whole=whole))
        return facets

    def _without_paths(self, message: str) -> str:
        for path, name in (
            (self.index.path, "the index"),
            (self.index.root, "the collection"),
            (f"the encoder {self._queue.name}", "the encoder"),
            (self._queue.name, "the encoder"),
        ):
            message = message.replace(str(path), name)
        return message[:500]


def _conditions(asked: SearchIn) -> tuple[str, ...]:
    return (asked.where,) if isinstance(asked.where, str) else tuple(asked.where or ())


_EMPTY = np.zeros((1, 1, 3), np.uint8)
"""Stands for a picture whose weight is 0: it is not looked at."""
