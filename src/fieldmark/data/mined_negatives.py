"""Negatives that were mined for queries, on disk: a folder that is whole or not there.

mining.json        how, with which embedder, on which data
negatives.jsonl    a line per query: {"qid": …, "hard": [ids, nearest first], "random": [ids]}
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.multimodal.json_lines import JsonLines, Record, index_lines

_ABOUT, _LINES = "mining.json", "negatives.jsonl"


@dataclass(frozen=True)
class QueryNegatives:
    """Negatives of one query, as candidate ids. hard: nearest first. random: drawn uniformly from the pool."""

    qid: str
    hard: tuple[str, ...]
    random: tuple[str, ...]


class MinedNegatives(Mapping[str, QueryNegatives]):
    """A folder of mined negatives: query id → its negatives, read when they are asked for.

    Attributes:
        about: what mining.json holds.
    """

    def __init__(self, about: Mapping[str, Any], lines: JsonLines[QueryNegatives]) -> None:
        self.about, self._lines = about, lines

    def __getitem__(self, qid: str) -> QueryNegatives:
        return self._lines[self._lines.position(qid)]

    def __iter__(self) -> Iterator[str]:
        return (one.qid for one in self._lines)

    def __len__(self) -> int:
        return len(self._lines)


def read_mined(folder: Path) -> MinedNegatives:
    """Opens a folder of `write_mined`.

    Raises:
        ValueError: it is none, or is damaged.
    """
    if not (folder / _ABOUT).is_file() or not (folder / _LINES).is_file():
        raise ValueError(
            f"{folder} holds no mined negatives ({_ABOUT} and {_LINES}): `fieldmark data mine` writes them"
        )
    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    lines = JsonLines(index_lines(folder / _LINES, "qid"), _parse)
    if len(lines) != about["queries"]:
        raise ValueError(f"{folder} has negatives of {len(lines)} queries where {about['queries']} were written")
    return MinedNegatives(about, lines)


def write_mined(folder: Path, about: Mapping[str, Any], negatives: Iterable[QueryNegatives]) -> None:
    """Writes a folder that `read_mined` opens, under a temporary name until it is whole.

    Args:
        about: plain values; ``queries`` is added, the number of lines.

    Raises:
        ValueError: the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        count = 0
        with (temporary / _LINES).open("w", encoding="utf-8") as file:
            for one in negatives:
                line = {"qid": one.qid, "hard": one.hard, "random": one.random}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps({**about, "queries": count}, indent=2, ensure_ascii=False) + "\n"
        (temporary / _ABOUT).write_text(text, encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _parse(record: Record) -> QueryNegatives:
    return QueryNegatives(record["qid"], tuple(record["hard"]), tuple(record["random"]))
