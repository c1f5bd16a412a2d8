"""A request's body: JSON alone, or a form of JSON and pictures."""

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fieldmark.search.service.config import Limits
from fieldmark.search.service.decoding import check_picture
from fieldmark.search.service.errors import Refusal, about_picture

Model = TypeVar("Model", bound=BaseModel)
_JSON_BYTES = 2**17
JSON_FIELD, PICTURE_FIELD = "query", "image"
"""Names of a form's fields; the second one may occur several times."""


@dataclass(frozen=True)
class Body:
    """What came. json: the text of the JSON. pictures: the files' bytes in their order; they look like pictures."""

    json: str
    pictures: tuple[bytes, ...]


async def read_body(request: Request, limits: Limits) -> Body:
    """Read a body of either kind.

    Raises:
        Refusal: 400 for a form that is none or has unknown fields, 413 too many or too large pictures, 415 for another
            kind of body or a file that is no picture.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            content = await request.body()
            if len(content) > _JSON_BYTES:
                raise Refusal(413, "too_large", f"the JSON has {len(content)} bytes, more than {_JSON_BYTES}")
            return Body(_utf8(content), ())
        if kind == "multipart/form-data":
            return await _read_form(request, limits)
    except ClientDisconnect:
        raise Refusal(400, "gone", "the client left before the request was complete") from None
    raise Refusal(
        415,
        "wrong_body",
        "send application/json, or multipart/form-data with the fields query (JSON) and image (files)",
    )


async def _read_form(request: Request, limits: Limits) -> Body:
    try:
        form = await request.form(max_files=limits.pictures, max_fields=2, max_part_size=_JSON_BYTES)
    except (HTTPException, ValueError, UnicodeDecodeError, KeyError, AttributeError) as error:
        # Starlette tells what is wrong with the form; the others are what its parser lets through for broken headers
        detail = error.detail if isinstance(error, HTTPException) else "it cannot be read"
        raise Refusal(400, "bad_form", f"the form is broken: {str(detail)[:200]}") from None
    try:
        return await _from_form(form, limits)
    finally:
        await form.close()


async def _from_form(form: FormData, limits: Limits) -> Body:
    text: str | None = None
    pictures: list[bytes] = []
    for name, value in form.multi_items():
        if name == PICTURE_FIELD and isinstance(value, UploadFile):
            with about_picture(len(pictures)):
                if value.size is not None and value.size > limits.picture_bytes:
                    raise Refusal(
                        413,
                        "too_large",
                        f"a picture has {value.size} bytes, more than the limit of {limits.picture_bytes}",
                    )
                content = await value.read()
                check_picture(content)
            pictures.append(content)
        elif name == JSON_FIELD and isinstance(value, str) and text is None:
            text = value
        else:
            raise Refusal(400, "bad_form", "a form has one field query (JSON) and files called image, nothing else")
    return Body(text if text is not None else "{}", tuple(pictures))


def parse(model: type[Model], body: Body) -> Model:
    """The JSON as a model, and nothing beyond it.

    Raises:
        Refusal: 422, with what is wrong and where, or 400 if it is no JSON.
    """
    try:
        return model.model_validate_json(body.json)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "bad_json", "the query is no JSON") from None
        where = ".".join(str(part)[:40] for part in first["loc"][:6])
        raise Refusal(422, "bad_query", f"{where or 'the query'}: {first['msg'][:200]}") from None


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "bad_json", "the query is no UTF-8") from None


def form_documentation(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a body that `read_body` reads and `parse` checks."""
    schema = json.loads(json.dumps(model.model_json_schema(ref_template="#/components/schemas/{model}")))
    schema.pop("$defs", None)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            JSON_FIELD: {**schema, "description": "JSON, as in application/json"},
                            PICTURE_FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}},
                        },
                    },
                    "encoding": {JSON_FIELD: {"contentType": "application/json"}},
                },
            },
        }
    }


def nested_schemas(*models: type[BaseModel]) -> dict[str, Any]:
    """The definitions that `form_documentation` refers to."""
    found: dict[str, Any] = {}
    for model in models:
        found |= model.model_json_schema(ref_template="#/components/schemas/{model}").get("$defs", {})
    return found
