"""Writes a collection in M-BEIR's layout.

query/{train,val,test}/mbeir_<name>_task<k>_<split>.jsonl     training queries: also mbeir_<name>_train.jsonl, uncut
query/union_train/mbeir_union_up_train.jsonl                  the training queries again
cand_pool/local/mbeir_<name>_task<k>_cand_pool.jsonl          the test split's; others have _<split>_ in the name
cand_pool/global/mbeir_union_<split>_cand_pool.jsonl
qrels/<split>/mbeir_<name>_task<k>_<split>_qrels.txt          qid 0 did relevance task
instructions/query_instructions.tsv
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.multimodal.instructions import instructions_text
from fieldmark.data.multimodal.mbeir_layout import (
    FIRST_OWN_NUMBER,
    SPLITS,
    TASKS,
    TaskName,
    global_pool_file,
    instructions_file,
    qrels_file,
    query_file,
    training_files,
)


@dataclass(frozen=True)
class NewCandidate:
    """A candidate to write."""

    number: int
    """Unique in the collection; the id is "<data set>:<number>"."""
    text: str | None = None
    image: str | None = None
    """Relative to the root, "/"-separated."""
    facts: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None
    """Whatever its origin knows of it; kept as `src_content`."""


@dataclass(frozen=True)
class NewQuery:
    """A query to write."""

    number: int
    """Unique among the collection's queries."""
    split: str
    task: int
    positives: Mapping[int, int]
    """Number of a candidate → relevance, at least 1."""
    text: str | None = None
    image: str | None = None
    negatives: tuple[int, ...] = ()
    grains: tuple[str, ...] = ()
    instruction: str | None = None
    """Its own; else the task's wordings."""
    source: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NewCollection:
    """One data set with its tasks.

    Raises:
        ValueError: the number belongs to a published data set, or the name cannot be one.
    """

    name: str
    number: int
    queries: Sequence[NewQuery]
    pools: Mapping[tuple[int, str], Sequence[NewCandidate]]
    """(task, split) → candidates."""
    wordings: Mapping[int, tuple[str, ...]]
    """Task → wordings of its instruction, at least one."""

    def __post_init__(self) -> None:
        if self.number < FIRST_OWN_NUMBER:
            raise ValueError(f"numbers below {FIRST_OWN_NUMBER} belong to M-BEIR's own data sets, got {self.number}")
        if not self.name.replace("-", "").isalnum() or not self.name.islower():
            raise ValueError(f"a data set's name has lower-case letters, digits and hyphens only, got {self.name!r}")


def write_mbeir(root: Path, collection: NewCollection) -> None:
    """Writes everything but the pictures. `root` is to be empty, and is renamed by the caller when it is complete.

    Raises:
        ValueError: a query's positive is not in its pool.
    """
    tasks = sorted({(query.task, query.split) for query in collection.queries})
    for task, split in tasks:
        queries = [one for one in collection.queries if (one.task, one.split) == (task, split)]
        pool = collection.pools[(task, split)]
        _check_positives(queries, pool, f"{collection.name}_task{task} {split}")
        name = TaskName(collection.name, task)
        _write_lines(query_file(root, name, split), (_query(one, collection.number) for one in queries))
        qrels = [
            f"{_id(collection.number, one.number)} 0 {_id(collection.number, did)} {grade} {task}\n"
            for one in queries
            for did, grade in one.positives.items()
        ]
        _write(qrels_file(root, name, split), "".join(qrels))
        shared = split != "test" and collection.pools.get((task, "test")) is pool
        if not shared:
            part = "" if split == "test" else f"_{split}"
            path = root / "cand_pool" / "local" / f"mbeir_{name}{part}_cand_pool.jsonl"
            _write_lines(path, (_candidate(one, collection.number) for one in pool))
    for split in SPLITS:
        union = {one.number: one for (_, own), pool in collection.pools.items() if own == split for one in pool}
        if union:
            ordered = (_candidate(union[number], collection.number) for number in sorted(union))
            _write_lines(global_pool_file(root, split), ordered)
    training = [_query(one, collection.number) for one in collection.queries if one.split == "train"]
    if training:
        _write_lines(training_files(root), training)
        _write_lines(training_files(root, collection.name), training)
    rows = [
        (*TASKS[task], collection.name, collection.number, collection.wordings[task])
        for task in sorted({task for task, _ in tasks})
    ]
    _write(instructions_file(root), instructions_text(rows))


def _check_positives(queries: Sequence[NewQuery], pool: Sequence[NewCandidate], where: str) -> None:
    known = {one.number for one in pool}
    for query in queries:
        strangers = [number for number in (*query.positives, *query.negatives) if number not in known]
        if strangers or not query.positives:
            raise ValueError(f"{where}: query {query.number} needs positives from its pool; not in it: {strangers[:3]}")


def _query(one: NewQuery, dataset: int) -> dict[str, Any]:
    modality = ",".join(name for name, value in (("image", one.image), ("text", one.text)) if value)
    record: dict[str, Any] = {
        "qid": _id(dataset, one.number),
        "query_txt": one.text,
        "query_img_path": one.image,
        "query_modality": modality,
        "query_src_content": None if one.source is None else json.dumps(one.source, ensure_ascii=False),
        "pos_cand_list": [_id(dataset, number) for number in one.positives],
        "neg_cand_list": [_id(dataset, number) for number in one.negatives],
        "task_id": one.task,
    }
    if one.grains:
        record["grains"] = list(one.grains)
    if one.instruction is not None:
        record["instruction"] = one.instruction
    return record


def _candidate(one: NewCandidate, dataset: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "did": _id(dataset, one.number),
        "txt": one.text,
        "img_path": one.image,
        "modality": ",".join(name for name, value in (("image", one.image), ("text", one.text)) if value),
        "src_content": None if one.source is None else json.dumps(one.source, ensure_ascii=False),
    }
    if one.facts:
        record["facts"] = list(one.facts)
    return record


def _id(dataset: int, number: int) -> str:
    return f"{dataset}:{number}"


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
