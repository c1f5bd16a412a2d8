"""M-BEIR as published, and everything in its layout → `RetrievalTask`.

Queries and pools stay on disk (`json_lines`); only qrels of one task at a time are held in memory. Pictures are opened
when their pixels are needed.

What cannot be right is an error: a missing file, a line that is no JSON, one id for two contents, relevance that names
candidates which the pool does not have. What can be left out without harm is, and a warning counts it: repeated lines,
queries and candidates with nothing in them, queries without positives.
"""

import warnings
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fieldmark.data.multimodal.instructions import Instructions, read_instructions
from fieldmark.data.multimodal.json_lines import JsonLines, LineIndex, Record, id_hash, index_lines
from fieldmark.data.multimodal.mbeir_layout import (
    TASKS,
    Pool,
    Split,
    TaskName,
    global_pool_file,
    id_number,
    pool_file,
    qrels_file,
    query_file,
    training_files,
)
from fieldmark.data.multimodal.mbeir_records import CandidateParser, LinePositives, QueryParser, candidate_ids
from fieldmark.data.retrieval import Item, RetrievalTask

Absent = Literal["error", "count"]


@dataclass(frozen=True)
class HeldOut:
    """What training does not see, to be evaluated afterwards as unseen."""

    tasks: tuple[int, ...] = ()
    """Numbers of tasks, as 4 for image → image."""
    datasets: tuple[str, ...] = ()
    """Names of data sets, as nights."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise ValueError(f"held-out task {task} is none of M-BEIR's tasks {', '.join(map(str, TASKS))}")


@dataclass(frozen=True)
class Found:
    """What reading a task found and did about it."""

    notes: tuple[str, ...]
    """One sentence for each kind of thing that was left out or is odd, with its count."""
    absent: int
    """Candidates that relevance names and the pool does not have."""

    def warn(self) -> None:
        """Each note as a warning."""
        for note in self.notes:
            warnings.warn(note, stacklevel=3)


def read_mbeir_task(
    root: Path | str,
    name: TaskName | str,
    split: Split = "test",
    *,
    pool: Pool = "local",
    absent: Absent = "error",
) -> RetrievalTask:
    """One task of one data set for evaluation: every query with the first wording of its instruction.

    Args:
        root: folder in M-BEIR's layout.
        name: such as "cirr_task7".
        split: "test" or "val"; "train" where queries are cut by task.
        pool: "local": the task's own; "global": the union of all pools.
        absent: what to do about relevance that names candidates which are not in the pool: "error", or "count"
            them in a warning and keep them, so that they can never be found (as the official evaluation does).

    Raises:
        ValueError: see the module.
    """
    task, found = open_mbeir_task(root, name, split, pool=pool, absent=absent)
    found.warn()
    return task


def open_mbeir_task(
    root: Path | str,
    name: TaskName | str,
    split: Split = "test",
    *,
    pool: Pool = "local",
    absent: Absent = "error",
    candidates: JsonLines[Item] | None = None,
) -> tuple[RetrievalTask, Found]:
    """As `read_mbeir_task`, but returns what it would warn of; `candidates` is the pool if it is open already."""
    root, name = Path(root), TaskName.parse(name) if isinstance(name, str) else name
    parser = QueryParser(root, read_instructions(root), name.task)
    queries = index_lines(_present(query_file(root, name, split)), "qid", parser.refuse)
    relevance = read_qrels(_present(qrels_file(root, name, split)))
    pool_path = pool_file(root, name, split, pool)
    notes = _left_out(queries)
    if candidates is None:
        candidates = open_pool(root, pool_path)
        notes += _left_out(candidates.table)
    absent_ids = _absent_ids(relevance, candidates.table)
    if absent_ids:
        message = _absence(qrels_file(root, name, split), absent_ids, pool_path)
        if absent == "error":
            raise ValueError(f"{message}. To keep them as never found set absent to count (--data.absent count)")
        notes.append(f"{message}; they count as not found")

    known = {id_hash(qid): qid for qid in relevance}
    answered = np.isin(queries.hashes, np.fromiter(known, dtype=np.uint64, count=len(known)))
    lines = JsonLines(queries.take(np.flatnonzero(answered)), parser)
    if len(lines) == 0:
        raise ValueError(f"{qrels_file(root, name, split)} has no positive for any query of {queries.path}")
    if len(lines) < len(queries):
        notes.append(f"{queries.path}: {len(queries) - len(lines)} queries have no positive and are left out")
    strangers = len(known) - len(np.unique(lines.table.hashes))
    if strangers:
        notes.append(
            f"{qrels_file(root, name, split)} names {strangers} queries that {queries.path.name} does not have"
        )
    lines[0]  # an instruction that is missing is told now, not at the first batch
    task = RetrievalTask(f"{name}_{split}", lines, candidates, relevance, name.cutoff)
    return task, Found(tuple(notes), len(absent_ids))


def read_mbeir_training(
    root: Path | str,
    *,
    held_out: HeldOut = HeldOut(),
    dataset: str | None = None,
    absent: Absent = "error",
) -> RetrievalTask:
    """The training queries of all tasks over the union of the training pools; positives as each query lists them.

    Queries that the file repeats (small data sets are upsampled) stay repeated.

    Args:
        root: folder in M-BEIR's layout.
        held_out: tasks and data sets whose queries are left out; their candidates stay in the pool.
        dataset: take this data set's own training file instead of the union.
        absent: as for `read_mbeir_task`. With "count", queries none of whose positives is in the pool are left out.

    Raises:
        ValueError: see the module; or nothing is left.
    """
    root = Path(root)
    instructions = read_instructions(root)
    pool_path = global_pool_file(root, "train")
    pool = open_pool(root, pool_path)
    parser = QueryParser(root, instructions, pool=pool)
    _check_names(held_out, instructions)
    path = _present(training_files(root, dataset))

    left_out = {"held out": 0, "without a positive": 0}
    positives, counts = array("Q"), array("I")

    def refuse(record: Record) -> str | None:
        reason = parser.refuse(record)
        if reason is not None:
            return reason
        names = candidate_ids(record, "pos_cand_list")
        if not names:
            left_out["without a positive"] += 1
            return "no positive"
        if _is_held_out(record, parser, instructions, held_out):
            left_out["held out"] += 1
            return "held out"
        positives.extend(id_hash(one) for one in names)
        counts.append(len(names))
        return None

    index = index_lines(path, "qid", refuse, keep_repeated=True)
    useless = index.refused - sum(left_out.values())
    notes = [f"{path}: {n} queries are left out, {why}" for why, n in left_out.items() if n and why != "held out"]
    notes += [f"{path}: {useless} queries hold nothing and are left out"] if useless else []
    notes += _left_out(pool.table)

    present = np.isin(np.array(positives, dtype=np.uint64), pool.table.hashes)
    if not present.all():
        example = _example(index, counts, present)
        message = f"{path}: {int((~present).sum())} positives are not in {pool_path} (first: {example})"
        if absent == "error":
            raise ValueError(f"{message}: is the pool complete? (In Python, absent='count' goes on without.)")
        starts = np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))[:-1]])
        usable = np.add.reduceat(present, starts) > 0
        notes.append(f"{message}; {int((~usable).sum())} queries without any are left out")
        index = index.take(np.flatnonzero(usable))
    if len(index) == 0:
        raise ValueError(f"{path}: no training query is left (held out: {held_out})")
    queries = JsonLines(index, parser)
    queries[0]
    Found(tuple(notes), int((~present).sum())).warn()
    return RetrievalTask(f"{dataset or 'union'}_train", queries, pool, LinePositives(queries))


def open_pool(root: Path, path: Path) -> JsonLines[Item]:
    """A pool file as items.

    Raises:
        ValueError: it is missing, damaged or empty.
    """
    parser = CandidateParser(root)
    index = index_lines(_present(path), "did", parser.refuse)
    if len(index) == 0:
        raise ValueError(f"{path} is an empty pool: there is nothing to search")
    return JsonLines(index, parser)


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Query id → candidate id → relevance above 0, from lines ``qid _ did relevance [task]``.

    Raises:
        ValueError: a line is not of this form; it is named.
    """
    relevance: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            cells = line.split()
            if not cells:
                continue
            try:
                qid, _, did, grade = cells[:4]
                value = float(grade)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: needs `qid _ did relevance`, got {line.strip()!r}") from error
            if value > 0:
                relevance.setdefault(qid, {})[did] = value
    return relevance


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: `fieldmark data mbeir --root FOLDER` lists what else is")
    return path


def _left_out(index: LineIndex) -> list[str]:
    notes = []
    if index.repeated:
        notes.append(f"{index.path}: {index.repeated} lines repeat another one and are left out")
    if index.refused:
        notes.append(f"{index.path}: {index.refused} lines are left out ({index.first_refusal})")
    return notes


def _absent_ids(relevance: dict[str, dict[str, float]], pool: LineIndex) -> list[str]:
    names = list(dict.fromkeys(did for found in relevance.values() for did in found))
    hashes = np.fromiter((id_hash(name) for name in names), dtype=np.uint64, count=len(names))
    return [names[i] for i in np.flatnonzero(~np.isin(hashes, pool.hashes))]


def _absence(path: Path, names: list[str], pool: Path) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{path} names {len(names)} candidates that {pool} does not have ({', '.join(names[:3])}{more})"


def _check_names(held_out: HeldOut, instructions: Instructions) -> None:
    known = {instructions.name_of(number) for number in instructions.dataset_names}
    for name in held_out.datasets:
        if name not in known:
            raise ValueError(f"held-out data set {name!r} is none of {', '.join(sorted(known))}")


def _is_held_out(record: Record, parser: QueryParser, instructions: Instructions, held_out: HeldOut) -> bool:
    if held_out.datasets and instructions.name_of(id_number(record["qid"])) in held_out.datasets:
        return True
    return bool(held_out.tasks) and parser.task_of(record) in held_out.tasks


def _example(index: LineIndex, counts: array, present: np.ndarray) -> str:
    """Id of the first query that lacks a positive."""
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    line = int(np.searchsorted(ends, np.flatnonzero(~present)[0], side="right"))
    return str(JsonLines(index, dict).record(line)["qid"])
