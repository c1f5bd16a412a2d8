"""What goes over the wire, as OpenAPI documents it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="id of an item of the index")]
Weight = Annotated[FiniteFloat, Field(ge=-10, le=10)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PartIn(_Strict):
    """One thing to look for: a picture of this request, words, both together, or an item of the index."""

    weight: Weight = Field(1.0, description="how much it counts; negative leads away from it")
    image: int | None = Field(None, ge=0, le=63, description="number of the request's picture, from 0")
    text: str | None = Field(None, min_length=1, description="words, for encoders that read them")
    id: Id | None = None


class SearchIn(_Strict):
    """A query. At least one part with a positive weight, or one example in `more_like`. Without both, each
    picture of the request is a part."""

    parts: list[PartIn] = Field([], max_length=64)
    more_like: list[Id] = Field([], max_length=64, description="items that are wanted more of")
    less_like: list[Id] = Field([], max_length=64, description="items that are wanted less of")
    where: str | Annotated[list[str], Field(max_length=16)] | None = Field(
        None,
        description="condition on columns, e.g. genus = 'Corvus' AND width >= 500; or several that all have to hold, "
        "each read by itself",
    )
    k: int = Field(20, ge=1, le=10_000, description="results wanted")


class PictureOrItem(_Strict):
    """A picture of this request, or an item of the index."""

    image: int | None = Field(None, ge=0, le=63)
    id: Id | None = None


class ExplainIn(_Strict):
    """Two pictures whose match is to be explained: the request's first two, unless said otherwise."""

    a: PictureOrItem = PictureOrItem(image=0)
    b: PictureOrItem = PictureOrItem(image=1)


class AddIn(_Strict):
    """Values of the new item's metadata columns; those that are left out stay empty."""

    metadata: dict[str, str | int | FiniteFloat | bool | None] = Field({}, max_length=256)


class Hit(BaseModel):
    """One result."""

    rank: int
    id: str
    path: str
    score: float = Field(description="cosine similarity to the query, from -1 to 1")
    metadata: dict[str, Any]


class SearchOut(BaseModel):
    """Results, best first."""

    hits: list[Hit]
    seconds: float = Field(description="time in the encoder's queue, the encoder and the index")
    notes: list[str] = Field(description="what was not done as it was asked: words that are too long and were cut")


class ItemOut(BaseModel):
    """One item of the index."""

    id: str
    path: str
    size: int
    hash: str
    width: int
    height: int
    metadata: dict[str, Any]


class ItemsOut(BaseModel):
    """Some items."""

    items: list[ItemOut]


class AddOut(BaseModel):
    """The item; `added` is false if it was in the index already."""

    added: bool
    item: ItemOut


class DeleteOut(BaseModel):
    """What was deleted."""

    deleted: str


class Pair(BaseModel):
    """A region of either picture, as (row, column), and what they carry together of the cosine that is explained."""

    a: tuple[int, int]
    b: tuple[int, int]
    contribution: float
    specific: float = Field(
        description="of it, what goes beyond what each carries with the other picture as a whole; of a centred cosine, "
        "all of it"
    )


class ExplainOut(BaseModel):
    """Where the similarity of two pictures comes from. Rows of grids from top to bottom, columns from the left. What is
    explained is the centred cosine; where there is none, the cosine."""

    cosine: float = Field(description="of the two embeddings: the score that a search shows")
    centred_cosine: float | None = Field(
        description="of the two embeddings minus the mean embedding of the index (of at most 4,096 of its items), "
        "which is what all its pictures share. Null for an index of fewer than 8 items, or of items that are all but "
        "the same"
    )
    pooler: str
    grid_a: tuple[int, int]
    grid_b: tuple[int, int]
    attention_a: list[list[float]] = Field(description="weight of each region in the embedding; sums to 1")
    attention_b: list[list[float]]
    similarity_a: list[list[float]] = Field(
        description="what each region of a carries with all of b; sums to the centred cosine, without one to the cosine"
    )
    similarity_b: list[list[float]]
    difference_a: list[list[float]] = Field(
        description="what keeps the two apart; a and b sum to 1 - cosine, centred or not"
    )
    difference_b: list[list[float]]
    correspondences: list[Pair] = Field(description="pairs of regions that carry most")
    contribution: list[list[float]] | None = Field(
        description="(regions of a, regions of b), row-major; sums as the similarities do. Null for grids with very "
        "many regions"
    )


class Facet(BaseModel):
    """A column and its most frequent values."""

    column: str
    values: list[str]
    total: int = Field(description="values that the column has, also those that are left out here")
    whole: bool = Field(description="whether all rows were counted; if not, total is what it has at least")


class About(BaseModel):
    """What the page needs to know of the service."""

    name: str
    rows: int
    encoder: str
    reads_words: bool
    explains: bool
    writable: bool
    columns: dict[str, str]
    facets: list[Facet]
    max_picture_bytes: int
    max_pictures: int
    max_parts: int
    max_results: int
    max_text: int


class Health(BaseModel):
    """Whether the service works."""

    status: Literal["ok"]
    rows: int | None = Field(default=None, description="left out where the token is needed and was not sent")
    encoder: str | None = None
    version: str | None = None


class ErrorText(BaseModel):
    """Why there is no answer."""

    code: str
    message: str
    request_id: str
    picture: int | None = Field(None, description="number of the request's picture that is meant; else left out")
    where: int | None = Field(None, description="number of the condition that is meant; else left out")


class ErrorOut(BaseModel):
    """Every answer that is no success."""

    error: ErrorText
