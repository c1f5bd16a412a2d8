"""What is looked for, and what was found.

A query is a weighted sum of parts, each a picture, words, both together, or a row of the index by its id; it may be
moved by examples ("more like these, less like those"), and narrowed by a condition on columns.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from fieldmark.data.decode import DEFAULT_LIMITS, DecodeLimits, decode_image
from fieldmark.search.arithmetic import combine, rocchio
from fieldmark.search.encoders import EncoderInput, SearchEncoder, load_search_encoder
from fieldmark.search.filters import checked_filters
from fieldmark.search.schema import IndexFacts, Row

if TYPE_CHECKING:
    import pandas
    import pyarrow

Picture = str | Path | bytes | Image.Image | np.ndarray
"""A file, the bytes of one, a decoded picture, or uint8 (H, W, 3)."""

MAX_RESULTS = 10_000
"""Most results of one query."""
MAX_PARTS = 64
"""Most parts, and most examples of either kind, of one query."""
MINUS_WEIGHT = -0.5
"""What `fieldmark search --minus` gives a part. With −1 what is wanted would weigh no more than what is not."""
_OWN_TYPES = {"id": "string", "path": "string", "size": "int64", "hash": "string", "width": "int32", "height": "int32"}


@dataclass(frozen=True, eq=False)
class Part:
    """One thing that a query consists of.

    Raises:
        ValueError: nothing in it, an id beside a picture or words, or a weight that is no number.
    """

    weight: float = 1.0
    """How much it counts; negative leads away from it, 0 leaves it out."""
    image: Picture | None = None
    """With `text`: both are read together, as one request, by an encoder that reads words."""
    text: str | None = None
    id: str | None = None
    """A row of the index: its own vector. It is not among the results."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"the weight of a part is {self.weight}: choose a finite number")
        if self.text is not None and not self.text.strip():
            raise ValueError("a part's text is empty: leave it out")
        given = [name for name in ("image", "text", "id") if getattr(self, name) is not None]
        if not given:
            raise ValueError("a part of the query is empty: give it an image, text, or an id")
        if "id" in given and len(given) > 1:
            raise ValueError(f"a part has an id and {given[0]}: make two parts of it")


@dataclass(frozen=True, eq=False)
class SearchQuery:
    """Parts, examples, a condition, and how many results are wanted.

    Raises:
        ValueError: nothing to look for, or too much of something.
    """

    parts: tuple[Part, ...] = ()
    more_like: tuple[str, ...] = ()
    """Ids of rows that are wanted more of (Rocchio). They are not among the results."""
    less_like: tuple[str, ...] = ()
    """Ids of rows that are wanted less of."""
    where: str | tuple[str, ...] | None = None
    """A condition on columns, or several that all have to hold; see `filters`."""
    k: int = 20
    instruction: str = ""
    """What kind of picture is wanted, told to an encoder that reads words along with every part."""
    min_score: float = -1.0
    """Results below this cosine similarity are left out."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_RESULTS:
            raise ValueError(f"k is {self.k}: choose from 1 to {MAX_RESULTS} results")
        if not -1 <= self.min_score <= 1:
            raise ValueError(f"min_score is {self.min_score}: choose a cosine similarity from -1 to 1")
        for name in ("parts", "more_like", "less_like"):
            if len(getattr(self, name)) > MAX_PARTS:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, {MAX_PARTS} are allowed")
        if not self.more_like and not any(part.weight > 0 for part in self.parts):
            raise ValueError("nothing says what to look for: give a picture, words or an example with a weight above 0")

    @property
    def condition(self) -> str:
        """`where` as people read it, "" if there is none."""
        return self.where or "" if not isinstance(self.where, tuple) else " AND ".join(f"({one})" for one in self.where)

    @property
    def counted(self) -> tuple[Part, ...]:
        """The parts whose weight is not 0."""
        return tuple(part for part in self.parts if part.weight != 0)

    @property
    def encoded(self) -> tuple[Part, ...]:
        """Of these, the ones that need an encoder."""
        return tuple(part for part in self.counted if part.id is None)

    @property
    def named_rows(self) -> frozenset[str]:
        """Ids of all rows that the query itself speaks of: they are no results."""
        return frozenset((*self.more_like, *self.less_like, *(part.id for part in self.counted if part.id)))


@dataclass(frozen=True)
class Hit:
    """One row that was found. rank from 1; score: cosine similarity to the query, from -1 to 1."""

    rank: int
    id: str
    path: str
    score: float
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchResults:
    """What was found, best first, and the seconds that encoding and searching took together. notes: what was not done
    as it was asked, for people."""

    hits: tuple[Hit, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __getitem__(self, position: int) -> Hit:
        return self.hits[position]

    def as_rows(self) -> list[dict[str, Any]]:
        """One flat dict per hit: rank, id, path, score, then the metadata (as "metadata.rank" where a column's name
        is one of those)."""
        own = ("rank", "id", "path", "score")
        return [
            {name: getattr(hit, name) for name in own}
            | {f"metadata.{name}" if name in own else name: value for name, value in hit.metadata.items()}
            for hit in self.hits
        ]

    def to_arrow(self) -> "pyarrow.Table":
        """As a table. Raises ValueError if pyarrow is not installed."""
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise ValueError("tables need pyarrow: pip install 'fieldmark[search]'") from error
        fixed = pyarrow.schema(
            [("rank", pyarrow.int32()), ("id", pyarrow.string()), ("path", pyarrow.string()),
             ("score", pyarrow.float32())]
        )  # fmt: skip
        rows = self.as_rows()
        names = list(dict.fromkeys(name for row in rows for name in row if name not in fixed.names))
        columns = [pyarrow.array([row.get(name) for row in rows], type=fixed.field(name).type) for name in fixed.names]
        columns += [pyarrow.array([row.get(name) for row in rows]) for name in names]
        return pyarrow.Table.from_arrays(columns, names=[*fixed.names, *names])

    def to_pandas(self) -> "pandas.DataFrame":
        """As a data frame. Raises ValueError if pandas is not installed."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ValueError("data frames need pandas: pip install pandas") from error
        names = ["rank", "id", "path", "score"]
        return pandas.DataFrame(self.as_rows(), columns=None if self.hits else names)


class Searched(Protocol):
    """What a search needs of an `Index`."""

    path: Path
    facts: IndexFacts

    def vectors(self, ids: Sequence[str]) -> np.ndarray: ...

    def nearest(
        self, vector: np.ndarray, k: int, where: str | None = None, exact: bool = False
    ) -> list[tuple[Row, float]]: ...

    def check_encoder(self, encoder: SearchEncoder) -> None: ...


def search(
    index: Searched, query: SearchQuery, encoder: SearchEncoder | None = None, *, exact: bool = False
) -> SearchResults:
    """Find what a query asks for.

    Args:
        encoder: the one that made the index; not needed where all parts are rows of the index.
        exact: compare with every row, whatever approximate index there is.

    Raises:
        ValueError: a condition that is not allowed, an unknown id, a missing or other encoder, one that cannot read
            what the query holds, or parts that cancel one another.
        BadImage: a picture that cannot be decoded.
    """
    started = time.perf_counter()
    where = check_where(index, query.where)  # before anything costly
    embedded = np.zeros((0, index.facts.embedding_size), np.float32)
    notes: tuple[str, ...] = ()
    if query.encoded:
        encoder = _checked_encoder(index, query, encoder)
        embedded = encoder.embed(encoder_inputs(query, encoder))
        notes = tuple(_notes(query, encoder))
    hits = search_vector(index, query_vector(index, query, embedded), query, where=where, exact=exact)
    return SearchResults(hits, time.perf_counter() - started, notes)


def load_index_encoder(index: Searched, path: str | Path | None = None, device: str = "cpu") -> SearchEncoder:
    """The encoder that made an index. path: its folder; None: where it lay when the index was built.

    Raises:
        ValueError: it is not there, or another one is.
    """
    folder = Path(index.facts.encoder_name if path is None else path)
    if path is None and not folder.is_dir():
        raise ValueError(f"the encoder of {index.path} is not at {folder} any more: say where it is (--encoder)")
    encoder = load_search_encoder(folder, device)
    index.check_encoder(encoder)
    return encoder


def check_where(index: Searched, where: str | Sequence[str] | None) -> str | None:
    """The condition, or all of several, checked against the columns of the index; None stays None.

    Raises:
        FilterError: it is not allowed, or cannot be understood.
    """
    texts = [where] if isinstance(where, str) else list(where or ())
    return checked_filters(texts, _OWN_TYPES | dict(index.facts.metadata)) if texts else None


def encoder_inputs(
    query: SearchQuery, encoder: SearchEncoder, limits: DecodeLimits = DEFAULT_LIMITS
) -> list[EncoderInput]:
    """What an encoder has to embed for a query: one input per part of `query.encoded`, pictures decoded.

    Raises:
        ValueError: the query holds words, and the encoder reads none.
        BadImage: a picture that cannot be decoded, or above the limits.
    """
    wordy = next((part.text for part in query.encoded if part.text is not None), query.instruction)
    if wordy and not encoder.reads_words:
        raise ValueError(
            f"the encoder {encoder.name} reads pictures only, so it cannot look for {wordy[:60]!r}: search by "
            "picture, or build the index with a universal embedder (fieldmark train elva)"
        )
    side = encoder.decode_size()
    return [
        EncoderInput(None if part.image is None else as_pixels(part.image, side, limits), part.text, query.instruction)
        for part in query.encoded
    ]


def _notes(query: SearchQuery, encoder: SearchEncoder) -> Iterator[str]:
    """What people should know of how their words were read."""
    most = encoder.max_text_tokens
    for text in dict.fromkeys(part.text for part in query.encoded if part.text is not None):
        # a token is a byte at least: what is short needs no counting
        if len(text.encode(errors="replace")) > most and encoder.cuts(text):
            yield (
                f"the words that begin with {text[:40]!r} are longer than the encoder reads: what stands behind the "
                f"first {most} tokens did not count. Say it in fewer words, or in several parts"
            )


def query_vector(index: Searched, query: SearchQuery, embedded: np.ndarray) -> np.ndarray:
    """The query as one vector of unit length, float32 (D,).

    Args:
        embedded: (n, D), what the encoder gave for `encoder_inputs`.
    """
    parts, fresh = query.counted, iter(embedded)
    rows = index.vectors([part.id for part in parts if part.id is not None])
    stored = iter(rows)
    asked = None
    if parts:
        vectors = np.stack([next(fresh) if part.id is None else next(stored) for part in parts])
        asked = combine(vectors, [part.weight for part in parts])
    if not query.more_like and not query.less_like:
        assert asked is not None  # SearchQuery wants a positive part otherwise
        return asked
    return rocchio(asked, index.vectors(query.more_like), index.vectors(query.less_like))


def search_vector(
    index: Searched, vector: np.ndarray, query: SearchQuery, *, where: str | None = None, exact: bool = False
) -> tuple[Hit, ...]:
    """The nearest rows of a vector, without the rows that the query speaks of. where: from `check_where`."""
    named = query.named_rows
    found = index.nearest(vector, query.k + len(named), where=where, exact=exact)
    kept = [(row, score) for row, score in found if row.id not in named and score >= query.min_score - 1e-6]
    return as_hits(kept[: query.k])


def as_hits(found: Sequence[tuple[Row, float]]) -> tuple[Hit, ...]:
    """Rows with their scores, best first, as hits."""
    return tuple(
        # rounding may lead a little past 1
        Hit(rank, row.id, row.path, min(1.0, max(-1.0, float(score))), row.metadata)
        for rank, (row, score) in enumerate(found, start=1)
    )


def as_pixels(picture: Picture, side: int, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """A picture as the encoder takes it: RGB, resized to side × side (bicubic), uint8 (side, side, 3).

    Errors as in `as_image`.
    """
    return np.asarray(as_image(picture, limits).resize((side, side), Image.Resampling.BICUBIC))


def as_image(picture: Picture, limits: DecodeLimits = DEFAULT_LIMITS) -> Image.Image:
    """A picture, decoded, as RGB.

    Raises:
        ValueError: an array of another shape or type.
        BadImage: a file or bytes that cannot be decoded, or above the limits.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(f"a picture must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
        return Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return decode_image(picture if isinstance(picture, bytes) else Path(picture), limits)


def _checked_encoder(index: Searched, query: SearchQuery, encoder: SearchEncoder | None) -> SearchEncoder:
    if encoder is None:
        kinds = {"pictures" if part.image is not None else "words" for part in query.encoded}
        raise ValueError(
            f"looking for {' and '.join(sorted(kinds))} needs the encoder that made the index "
            f"({index.facts.encoder_name}): load_search_encoder gives it"
        )
    index.check_encoder(encoder)
    return encoder
