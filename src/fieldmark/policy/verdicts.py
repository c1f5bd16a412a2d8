"""Reading a verdict: strict JSON inside free text, every value with its place.

A reward must be earned by an answer that is really there. So nothing is repaired: an answer that is cut off,
broken, nested in something else, ambiguous (duplicate keys, two answers), or not a plain yes or no has *no
verdict*. What may surround the one JSON object: prose, code fences, thinking that ends before it.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner: returns (text, end)
from typing import Any

import numpy as np

from fieldmark.policy.offsets import decode_with_offsets
from fieldmark.policy.vocabulary import Vocabulary, attribute_key

__all__ = ["Span", "Verdict", "decode_with_offsets", "parse_verdict", "token_spans"]

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null", re.ASCII)
_MAX_DEPTH = 32
_OPEN_THINKING, _CLOSE_THINKING = "<think>", "</think>"


@dataclass(frozen=True)
class Span:
    """Place of a value in the sampled text: characters ``start:end``, quotation marks left out.

    ``text`` is the value itself, unescaped: it need not be ``sampled[start:end]``.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """What an answer says. With a ``problem`` there is no verdict, and everything else is empty."""

    answer: bool | None
    """True for yes, False for no, None if unparseable."""
    problem: str | None
    """Why there is no verdict."""
    descriptions: tuple[dict[str, Span], dict[str, Span]]
    """Attribute → place of its value, for item 1 and item 2; only attributes that were asked for."""
    answer_span: Span | None
    """Place of the verdict word."""
    remarks: dict[str, Span] = field(default_factory=dict)
    """Places of ``differences``, ``confidence`` and ``reasoning``, those that are there."""


class _Broken(ValueError):
    """The text at this place is not JSON."""


def parse_verdict(text: str, vocabulary: Vocabulary, attributes: Sequence[str] | None = None) -> Verdict:
    """Find the answer in a sampled text.

    Args:
        text: everything that was sampled, special tokens included.
        vocabulary: gives the keys of items and verdict.
        attributes: those that were asked for; None for the vocabulary's default ones. Keys are compared
            without regard to case, underscores, and hints in parentheses; an attribute's value counts if it
            is a non-empty text or number.

    Returns:
        The verdict; never raises for any text. Rules: thinking is skipped; the answer is the only complete
        JSON object outside of any other bracket that has the verdict key at its own top level; its value is
        yes or no, whatever the case, with nothing else but white space; no object in it has a key twice.
    """
    try:
        return _read(text, vocabulary, vocabulary.select(attributes))
    except _Broken as broken:
        return Verdict(answer=None, problem=str(broken), descriptions=({}, {}), answer_span=None)


def token_spans(offsets: np.ndarray, span: Span) -> range:
    """Positions of all tokens that overlap a span of characters.

    Args:
        offsets: int (T, 2), characters ``start, end`` of every token, both columns non-decreasing.
    """
    first = int(np.searchsorted(offsets[:, 1], span.start, side="right"))
    stop = int(np.searchsorted(offsets[:, 0], span.end, side="left"))
    return range(first, max(first, stop))


def _read(text: str, vocabulary: Vocabulary, attributes: Sequence[str]) -> Verdict:
    begin = text.rfind(_CLOSE_THINKING)
    begin = 0 if begin < 0 else begin + len(_CLOSE_THINKING)
    if text.find(_OPEN_THINKING, begin) >= 0:
        raise _Broken("the thinking does not end")
    answers = [found for found in _objects(text, begin) if vocabulary.verdict_key in found]
    if not answers:
        raise _Broken(f"no JSON object with the key {vocabulary.verdict_key!r}")
    if len(answers) > 1:
        raise _Broken(f"{len(answers)} JSON objects with the key {vocabulary.verdict_key!r}")
    (answer,) = answers
    verdict = answer[vocabulary.verdict_key]
    word = verdict.text.strip().lower() if isinstance(verdict, Span) else None
    if not isinstance(verdict, Span) or word not in ("yes", "no"):
        raise _Broken(f"the value of {vocabulary.verdict_key!r} is not yes or no")
    asked = {attribute_key(name): name for name in attributes}
    first, second = (_description(answer.get(key), asked) for key in vocabulary.item_keys)
    remarks = {
        key: value
        for key in ("differences", "confidence", "reasoning")
        if isinstance(value := answer.get(key), Span) and value.text.strip()
    }
    return Verdict(word == "yes", None, (first, second), verdict, remarks)


def _description(value: Any, asked: dict[str, str]) -> dict[str, Span]:
    """Values of the attributes that were asked for, under their names in the vocabulary."""
    if not isinstance(value, dict):
        return {}
    spans: dict[str, Span] = {}
    for key, found in value.items():
        name = asked.get(attribute_key(key))
        if name is None:
            continue
        if name in spans:
            raise _Broken(f"the attribute {name!r} is described twice")
        if isinstance(found, Span) and found.text.strip():
            spans[name] = found
    return spans


# Strict JSON with places: objects become dicts, lists become lists, null None, every other value a Span.


def _objects(text: str, start: int) -> list[dict[str, Any]]:
    """All complete JSON objects outside of other brackets, from ``start`` on.

    Braces that are not JSON (prose, code) are counted, and what stands between them is not looked at.
    Something that begins like a JSON object and is none ends the search with an error: what follows it may be
    a part of it.
    """
    found: list[dict[str, Any]] = []
    depth, position, last = 0, start, len(text)
    brace = re.compile(r"[{}]")
    while match := brace.search(text, position):
        position = match.end()
        if match.group() == "}":
            depth = max(0, depth - 1)
            continue
        inside = _skip(text, position)
        if depth or inside == last or text[inside] not in '"}':
            depth += 1
            continue
        value, position = _value(text, match.start(), 0)
        outside = match.start() - 1
        while outside >= start and text[outside].isspace():
            outside -= 1
        if (outside >= start and text[outside] == "[") or text.startswith(("}", "]"), _skip(text, position)):
            raise _Broken(f"the JSON object at character {match.start()} stands inside another bracket")
        found.append(value)
    return found


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The JSON value that begins at ``at``, and where it ends."""
    if depth > _MAX_DEPTH:
        raise _Broken(f"JSON nested deeper than {_MAX_DEPTH}")
    opening = text[at : at + 1]
    if opening == '"':
        content, end = _string(text, at)
        return Span(at + 1, end - 1, content), end
    if opening == "{":
        return _members(text, at, depth)
    if opening == "[":
        return _elements(text, at, depth)
    match = _SCALAR.match(text, at)
    if match is None:
        raise _Broken(f"broken JSON at character {at}" if at < len(text) else "the JSON is cut off")
    return None if match.group() == "null" else Span(at, match.end(), match.group()), match.end()


def _string(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise _Broken(f"broken JSON at character {at}" if at < len(text) else "the JSON is cut off")
    try:
        return scanstring(text, at + 1, True)
    except json.JSONDecodeError as error:
        raise _Broken(f"broken JSON text at character {at}: {error.msg}") from None


def _members(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}

    def member(position: int) -> int:
        key, position = _string(text, position)
        if key in members:
            raise _Broken(f"the key {key!r} stands twice in one JSON object")
        position = _expect(text, _skip(text, position), ":")
        members[key], position = _value(text, _skip(text, position), depth + 1)
        return position

    return members, _list(text, at, "}", member)


def _elements(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    elements: list[Any] = []

    def element(position: int) -> int:
        value, position = _value(text, position, depth + 1)
        elements.append(value)
        return position

    return elements, _list(text, at, "]", element)


def _list(text: str, at: int, closing: str, read: Callable[[int], int]) -> int:
    """Read comma-separated entries from the bracket at ``at`` to the closing one; returns where that ends."""
    position = _skip(text, at + 1)
    if text[position : position + 1] == closing:
        return position + 1
    while True:
        position = _skip(text, read(position))
        if text[position : position + 1] == closing:
            return position + 1
        position = _skip(text, _expect(text, position, ","))


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise _Broken(f"broken JSON at character {at}" if at < len(text) else "the JSON is cut off")
    return at + 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # the pattern matches the empty text
    return match.end()
