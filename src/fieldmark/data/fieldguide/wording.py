"""Field marks in words: statements, texts of several of them, and requests for a change."""

from collections.abc import Mapping
from typing import Literal

Wording = Literal["plain", "colon", "natural"]
"""plain: "bill shape hooked, bill color yellow" (the bundled model's tokenizer has a token for each part);
colon: "bill shape: hooked, bill color: yellow" (and for these); natural: "hooked yellow bill" (spelt in bytes)."""

_NOUNS: Mapping[str, str] = {
    "bill shape": "bill",
    "bill color": "bill",
    "breast pattern": "breast",
    "wing pattern": "wing",
    "mark color": "wing marks",
    "tail shape": "tail",
    "eye ring": "eye ring",
    "leg color": "legs",
}


def statement(name: str, value: str) -> str:
    """One field mark as a grain: "bill shape hooked"."""
    return f"{name} {value}"


def statements(marks: Mapping[str, str]) -> tuple[str, ...]:
    """Each mark as a grain, in the order of `marks`."""
    return tuple(statement(name, value) for name, value in marks.items())


def words(marks: Mapping[str, str], wording: Wording = "plain") -> str:
    """Marks as one text, in their order; natural words join the bill's shape and color.

    Raises:
        ValueError: there are none.
    """
    if not marks:
        raise ValueError("needs at least one field mark, got none")
    if wording == "plain":
        return ", ".join(statements(marks))
    if wording == "colon":
        return ", ".join(f"{name}: {value}" for name, value in marks.items())
    phrases: list[str] = []
    for name, value in marks.items():
        if name == "bill color" and "bill shape" in marks:
            continue
        if name == "bill shape" and "bill color" in marks:
            value = f"{value} {marks['bill color']}"
        phrases.append(f"{'no' if value == 'none' else value} {_NOUNS[name]}")
    return ", ".join(phrases)


def request(changed: Mapping[str, str], wording: Wording = "plain") -> str:
    """What is to be different from a picture: "leg color red", naturally "the same bird, but red legs"."""
    return f"the same bird, but {words(changed, 'natural')}" if wording == "natural" else words(changed, wording)
