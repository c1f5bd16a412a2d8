"""Files of summaries: what a search for a query, or the finding of a candidate, has to go by, in words."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class KnownSummary:
    """One line of a file: {"qid": "20:1", "summary": "…"} of a query, {"did": …} of a candidate.

    Raises:
        ValueError: an empty id or summary.
    """

    of: Literal["query", "candidate"]
    id: str
    summary: str

    def __post_init__(self) -> None:
        if not self.id or not self.summary.strip():
            raise ValueError(f"a summary needs an id and words, got {self.id!r} and {self.summary!r}")


_KEYS: dict[str, Literal["query", "candidate"]] = {"qid": "query", "did": "candidate"}


def read_summaries(path: Path) -> list[KnownSummary]:
    """The lines of a JSONL file. One query or candidate may have several summaries, a line each.

    Raises:
        ValueError: no such file, a line that is none of these, a line that is there twice, or no line at all.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of summaries {path}: `fieldmark data summaries` writes one")
    found: dict[KnownSummary, None] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
                (key,) = _KEYS.keys() & record.keys()
                one = KnownSummary(_KEYS[key], record[key], record["summary"])
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(
                    f'{where} is not {{"qid": …, "summary": …}} or {{"did": …, "summary": …}} ({error})'
                ) from error
            if one in found:
                raise ValueError(f"{where}: {one.of} {one.id!r} has this summary already")
            found[one] = None
    if not found:
        raise ValueError(f"{path} holds no summary")
    return list(found)


def summary_lines(summaries: Iterable[KnownSummary]) -> str:
    """The file as text, as `read_summaries` reads it."""
    keys = {kind: key for key, kind in _KEYS.items()}
    return "".join(
        json.dumps({keys[one.of]: one.id, "summary": one.summary}, ensure_ascii=False) + "\n" for one in summaries
    )
