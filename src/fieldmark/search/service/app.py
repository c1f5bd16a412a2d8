"""The service as an ASGI application: its routes, put together from an index and an encoder."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from fieldmark import __version__
from fieldmark.search.encoders import SearchEncoder
from fieldmark.search.index import Index
from fieldmark.search.schema import Row
from fieldmark.search.service.answers import Answers
from fieldmark.search.service.batching import EncoderQueue
from fieldmark.search.service.changes import Changes
from fieldmark.search.service.config import ServiceConfig, is_loopback
from fieldmark.search.service.decoding import DecodePool
from fieldmark.search.service.errors import Refusal, error_body, token_needed
from fieldmark.search.service.guard import Access, Guard, refusal_headers
from fieldmark.search.service.metrics import Metrics
from fieldmark.search.service.page_files import PAGE_FILES
from fieldmark.search.service.pictures import THUMBNAIL_SIDES, Pictures, Shown
from fieldmark.search.service.schemas import (
    About,
    AddIn,
    AddOut,
    DeleteOut,
    ErrorOut,
    ExplainIn,
    ExplainOut,
    Health,
    Hit,
    ItemOut,
    ItemsOut,
    SearchIn,
    SearchOut,
)
from fieldmark.search.service.uploads import form_documentation, nested_schemas, parse, read_body

Result = TypeVar("Result")
_CHUNK = 2**18
_MOST_ITEMS = 100
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# A picture is a document of its own if someone opens it: it may load and run nothing.
_PICTURE_POLICY = "default-src 'none'; img-src 'self'; sandbox"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut, "description": text}
    for status, text in (
        (400, "The request makes no sense"),
        (401, "The token is needed"),
        (403, "Not allowed"),
        (404, "There is no such item"),
        (409, "Not as things are: no explanation with this encoder, or the picture is there with other metadata"),
        (413, "Too large"),
        (415, "No picture, or another kind of body"),
        (422, "A value is out of range, or the picture cannot be used"),
        (503, "Busy: come back after Retry-After seconds"),
    )
}
ItemId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


def build_app(index: Index, encoder: SearchEncoder, config: ServiceConfig, token: str | None = None) -> Any:
    """The application, guarded. Its threads and processes run between startup and shutdown (ASGI's lifespan).

    Raises:
        ValueError: another encoder made the index.
    """
    index.check_encoder(encoder)
    metrics = Metrics()
    service = _Service(index, encoder, config, metrics)
    app = FastAPI(
        redirect_slashes=False,  # its redirects repeat the Host that the client names
        title="Fieldmark search",
        version=__version__,
        description="Search by picture, words, weights and examples; explanations of matches.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=service.lifespan,
        responses=_ERRORS,
    )
    _add_routes(app, service, token is not None)
    _add_error_answers(app)
    private = not is_loopback(config.host) and not config.insecure
    open_paths = {*PAGE_FILES, "/health"}
    access = Access(token, private, _known_hosts(config, private), open_paths, open_paths | {"/metrics"})
    return Guard(app, access, config.limits, metrics)


def _known_hosts(config: ServiceConfig, private: bool) -> frozenset[str] | None:
    """Names that the service answers to. On this computer only: its own names, so that no foreign name that is made to
    point here (DNS rebinding) turns a visitor's browser into a reader. With a token or --insecure: any."""
    if private or not is_loopback(config.host):
        return None
    return _LOOPBACK_NAMES | {config.host.strip("[]").lower()} | {name.lower() for name in config.allowed_hosts}


class _Service:
    """What the routes use; exists between startup and shutdown."""

    def __init__(self, index: Index, encoder: SearchEncoder, config: ServiceConfig, metrics: Metrics) -> None:
        self.index = index
        self.encoder = encoder
        self.config = config
        self.metrics = metrics
        self.answers: Answers
        self.changes: Changes
        self.pictures: Pictures
        self._threads: CapacityLimiter
        self._queue: EncoderQueue | None = None
        metrics.gauge("fieldmark_queue_inputs", "Inputs that wait for the encoder", self._waiting)
        metrics.gauge("fieldmark_index_rows", "Rows of the index", lambda: len(index))

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        limits = self.config.limits
        self._threads = CapacityLimiter(limits.requests + 4)
        pool = DecodePool(self.config.decode_workers, limits)
        queue = EncoderQueue(self.encoder, self.config.batching, limits.wait_seconds, self.metrics.batch)
        self._queue = queue
        self.pictures = Pictures(self.index, pool, limits)
        self.answers = Answers(self.index, queue, pool, self.pictures, limits)
        self.changes = Changes(self.index, queue, pool)
        try:
            yield
        finally:
            queue.close()
            pool.close()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Work that blocks, in a thread; the guard admits no more requests than there are threads."""
        return await anyio.to_thread.run_sync(work, limiter=self._threads)

    def _waiting(self) -> float:
        return 0 if self._queue is None else self._queue.waiting


def _add_routes(app: FastAPI, service: _Service, writable: bool) -> None:
    limits = service.config.limits

    @app.get("/about", tags=["service"])
    async def about() -> About:
        """What is searched, and what can be asked."""
        answers = service.answers
        facets, rows = await service.run(lambda: (answers.facets(), len(service.index)))
        return About(
            name=service.index.path.resolve().name,
            rows=rows,
            encoder=service.encoder.name.rstrip("/").rpartition("/")[2],
            reads_words=service.encoder.reads_words,
            explains=answers.explains,
            writable=writable,
            columns=dict(service.index.facts.metadata),
            facets=facets,
            max_picture_bytes=limits.picture_bytes,
            max_pictures=limits.pictures,
            max_parts=limits.parts,
            max_results=limits.results,
            max_text=limits.text,
        )

    @app.post("/search", tags=["search"], openapi_extra=form_documentation(SearchIn))
    async def search(request: Request) -> SearchOut:
        """Search by pictures, words, items, weights, examples and a filter."""
        body = await read_body(request, limits)
        asked = parse(SearchIn, body)
        found = await service.run(lambda: service.answers.search(asked, body.pictures))
        hits = [
            Hit(rank=hit.rank, id=hit.id, path=hit.path, score=hit.score, metadata=dict(hit.metadata))
            for hit in found.hits
        ]
        return SearchOut(hits=hits, seconds=found.seconds, notes=list(found.notes))

    @app.post("/explain", tags=["search"], openapi_extra=form_documentation(ExplainIn))
    async def explain(request: Request) -> ExplainOut:
        """Where the similarity of two pictures comes from."""
        body = await read_body(request, limits)
        asked = parse(ExplainIn, body)
        return await service.run(lambda: service.answers.explain(asked, body.pictures))

    @app.get("/items", tags=["items"])
    async def items(limit: Annotated[int, Query()] = 12) -> ItemsOut:
        """Some items to begin with: 1 to 100."""
        if not 1 <= limit <= _MOST_ITEMS:
            raise Refusal(422, "bad_query", f"limit must be from 1 to {_MOST_ITEMS}, not {limit}")
        rows = await service.run(lambda: service.answers.sample(limit))
        return ItemsOut(items=[_item(row) for row in rows])

    @app.get("/items/{id}", tags=["items"])
    async def item(id: ItemId) -> ItemOut:
        """One item."""
        return _item(await service.run(lambda: service.answers.row(id)))

    @app.get("/items/{id}/image", tags=["items"], response_class=Response)
    async def image(id: ItemId) -> Response:
        """The picture; formats that browsers do not show come as WebP."""
        return _picture(await service.run(lambda: service.pictures.image(service.answers.row(id))))

    @app.get("/items/{id}/thumbnail", tags=["items"], response_class=Response)
    async def thumbnail(id: ItemId, size: Annotated[int, Query()] = 256) -> Response:
        """The picture as a small WebP; size, its longer side: 128, 256 or 512 pixels."""
        if size not in THUMBNAIL_SIDES:
            raise Refusal(422, "bad_query", f"size must be one of {', '.join(map(str, THUMBNAIL_SIDES))}")
        return _picture(await service.run(lambda: service.pictures.thumbnail(service.answers.row(id), size)))

    @app.post("/items", tags=["changes"], openapi_extra=form_documentation(AddIn))
    async def add(request: Request) -> AddOut:
        """Add one picture; needs the token. Bytes that are in the index already make no second item: with other
        metadata than theirs the answer is 409."""
        _check_token(request, writable)
        body = await read_body(request, limits)
        asked = parse(AddIn, body)
        if len(body.pictures) != 1:
            raise Refusal(422, "bad_query", f"send one picture, not {len(body.pictures)}")
        row, added = await service.run(lambda: service.changes.add(body.pictures[0], asked.metadata))
        return AddOut(added=added, item=_item(row))

    @app.delete("/items/{id}", tags=["changes"])
    async def delete(id: ItemId, request: Request) -> DeleteOut:
        """Delete one item; needs the token. Its file stays, unless it came through the service: the next build of its
        source brings it back, unless its file (or its line in the list) goes, too."""
        _check_token(request, writable)
        await service.run(lambda: service.changes.delete(id))
        return DeleteOut(deleted=id)

    @app.get("/health", tags=["service"], response_model_exclude_none=True)
    async def health(request: Request) -> Health:
        """Whether the service works."""
        rows = await service.run(lambda: len(service.index))
        if not is_loopback(service.config.host) and not request.state.authorised:
            return Health(status="ok")
        return Health(status="ok", rows=rows, encoder=service.encoder.fingerprint[:12], version=__version__)

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        text = await service.run(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(request: Request) -> Response:
        file = PAGE_FILES.get(request.scope["path"])
        if file is None:
            raise Refusal(404, "not_found", "there is nothing here")
        headers = {"cache-control": "no-cache", "etag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        document["components"]["schemas"] |= nested_schemas(SearchIn, ExplainIn, AddIn)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        headers = {name.decode(): value.decode() for name, value in refusal_headers(error)}
        return _error(request, error, headers)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> Response:
        code, text = {404: ("not_found", "there is nothing here"), 405: ("bad_method", "not with this method")}.get(
            error.status_code, ("bad_request", "the request makes no sense")
        )
        return _error(request, Refusal(error.status_code, code, text), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        if any(one["loc"][:1] == ("path",) for one in error.errors()):
            return _error(request, Refusal(404, "not_found", "there is no item with this id"))
        first = error.errors()[0]
        # what was sent is not repeated: pydantic's message tells the range
        return _error(request, Refusal(422, "bad_query", f"{first['loc'][-1]}: {first['msg']}"))

    @app.exception_handler(Exception)
    async def failed(request: Request, _: Exception) -> Response:  # it is raised on, and the guard logs it
        text = "something went wrong here; the log has it under the request id"
        return _error(request, Refusal(500, "internal", text))


def _error(request: Request, refusal: Refusal, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(error_body(refusal, request.state.request_id), refusal.status, headers)


def _check_token(request: Request, writable: bool) -> None:
    if not writable:
        raise Refusal(403, "read_only", "the service was started without a token file: nothing can be changed")
    if not request.state.authorised:
        raise token_needed(given="authorization" in request.headers)


def _item(row: Row) -> ItemOut:
    return ItemOut(
        id=row.id,
        path=row.path,
        size=row.size,
        hash=row.hash,
        width=row.width,
        height=row.height,
        metadata=dict(row.metadata),
    )


def _picture(shown: Shown) -> Response:
    headers = {
        "content-length": str(shown.size),
        "content-disposition": "inline",
        "cache-control": "private, max-age=3600",
        "content-security-policy": _PICTURE_POLICY,
    }
    if shown.file is None:
        return Response(shown.content, media_type=shown.media_type, headers=headers)
    return StreamingResponse(_chunks(shown), media_type=shown.media_type, headers=headers)


def _chunks(shown: Shown) -> Iterator[bytes]:
    assert shown.file is not None
    with shown.file as file:
        remaining = shown.size  # as it was announced, also if the file grows meanwhile
        while remaining > 0 and (chunk := file.read(min(_CHUNK, remaining))):
            remaining -= len(chunk)
            yield chunk
