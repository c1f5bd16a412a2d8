"""One line of M-BEIR's query and candidate files → item or query.

Beside the published fields ours are read: a query's `grains` and `instruction`, a candidate's `facts`. Others pass them
over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.multimodal.instructions import Instructions
from fieldmark.data.multimodal.json_lines import JsonLines, Record
from fieldmark.data.multimodal.mbeir_layout import TASKS, id_number
from fieldmark.data.retrieval import Item, Query
from fieldmark.data.sources import confined


@dataclass(frozen=True)
class CandidateParser:
    """Record of a pool → item."""

    root: Path

    def __call__(self, record: Record) -> Item:
        return Item(
            record["did"],
            _text(record.get("txt")),
            _picture(self.root, record.get("img_path")),
            facts=_texts(record, "facts"),
        )

    def refuse(self, record: Record) -> str | None:
        """Why it cannot be a candidate, or None."""
        return _refuse(self.root, record.get("txt"), record.get("img_path"))


@dataclass(frozen=True)
class QueryParser:
    """Record of a query file → query with its instruction."""

    root: Path
    instructions: Instructions | None
    """None: no query gets any but its own."""
    task: int | None = None
    """None where one file holds several tasks: then each record says it, or its first positive does."""
    pool: JsonLines[Item] | None = None
    """Where positives are looked up if a record does not say its task."""

    def __call__(self, record: Record) -> Query:
        name, own = record["qid"], _text(record.get("instruction"))
        wordings: tuple[str, ...] = ()
        if own is None and self.instructions is not None:
            wordings = self.instructions.of_task(id_number(name), self.task_of(record))
        return Query(
            Item(name, _text(record.get("query_txt")), _picture(self.root, record.get("query_img_path"))),
            instruction=own or (wordings[0] if wordings else ""),
            wordings=wordings,
            grains=_texts(record, "grains"),
            negatives=tuple(candidate_ids(record, "neg_cand_list")),
        )

    def refuse(self, record: Record) -> str | None:
        """Why it cannot be a query, or None."""
        return _refuse(self.root, record.get("query_txt"), record.get("query_img_path"))

    def task_of(self, record: Record) -> int:
        """Number of the record's task.

        Raises:
            ValueError: it is not said, and its positives do not tell it.
        """
        task = self.task if self.task is not None else record.get("task_id")
        if isinstance(task, int) and task in TASKS:
            return task
        own = Item(record["qid"], _text(record.get("query_txt")), _picture(self.root, record.get("query_img_path")))
        for name in candidate_ids(record, "pos_cand_list"):
            try:
                found = self.pool[self.pool.position(name)] if self.pool is not None else None
            except KeyError:
                continue
            for number, modalities in TASKS.items():
                if found is not None and modalities == (own.modality, found.modality):
                    return number
        raise ValueError(
            f"query {record['qid']!r} says task_id {task!r}, and its positives do not tell which of M-BEIR's tasks "
            f"({', '.join(map(str, TASKS))}) it belongs to"
        )


@dataclass(frozen=True, eq=False)
class LinePositives(Mapping[str, Mapping[str, float]]):
    """Query id → its positives as its own line lists them, read when they are asked for."""

    queries: JsonLines[Query]

    def __getitem__(self, name: str) -> Mapping[str, float]:
        record = self.queries.record(self.queries.position(name))
        return dict.fromkeys(candidate_ids(record, "pos_cand_list"), 1.0)

    def __iter__(self) -> Iterator[str]:
        seen: set[int] = set()  # upsampled queries stand in the file several times
        for i in range(len(self.queries)):
            key = int(self.queries.table.hashes[i])
            if key not in seen:
                seen.add(key)
                yield self.queries.record(i)["qid"]

    def __len__(self) -> int:
        return len(set(self.queries.table.hashes.tolist()))


def candidate_ids(record: Record, key: str) -> list[str]:
    """Ids of `pos_cand_list` or `neg_cand_list`: entries are texts or ``{"did": …}``; null is an empty list.

    Raises:
        ValueError: an entry is neither.
    """
    names = []
    for entry in record.get(key) or ():
        name = entry.get("did") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not name:
            raise ValueError(f'query {record.get("qid")!r}: {key} holds {entry!r}, neither an id nor {{"did": id}}')
        names.append(name)
    return names


def _refuse(root: Path, text: Any, picture: Any) -> str | None:
    if _text(text) is None and not picture:
        return "neither text nor a picture"
    if picture and (not isinstance(picture, str) or confined(root, picture) is None):
        return f"the picture {picture!r} does not lie below {root}"
    return None


def _text(value: Any) -> str | None:
    """A text that says something, else None: null, empty and white space are one."""
    return value if isinstance(value, str) and value.strip() else None


def _picture(root: Path, value: Any) -> Path | None:
    return confined(root, value) if value else None


def _texts(record: Record, key: str) -> tuple[str, ...]:
    value = record.get(key) or ()
    if isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{key!r} must be a list of texts, got {value!r}")
    return tuple(value)
