"""What of M-BEIR, or of a collection in its layout, lies in a folder: counts by task, and what is missing."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from fieldmark.data.multimodal.instructions import read_instructions
from fieldmark.data.multimodal.json_lines import JsonLines, index_lines
from fieldmark.data.multimodal.mbeir import open_mbeir_task, open_pool
from fieldmark.data.multimodal.mbeir_layout import (
    OFFICIAL,
    SPLITS,
    TASKS,
    TaskName,
    find_tasks,
    global_pool_file,
    instructions_file,
    local_pool_file,
    qrels_file,
    query_file,
    training_files,
)
from fieldmark.data.multimodal.mbeir_records import QueryParser
from fieldmark.data.retrieval import Item
from fieldmark.data.sources import confined


@dataclass(frozen=True)
class TaskFacts:
    """One task of one split, in its local pool."""

    name: str
    split: str
    direction: str
    queries: int
    candidates: int
    positives: float
    """Mean number of positives of a query."""
    grains: float
    """Mean number of grains of the queries that have any; 0 where none has."""
    absent: int
    """Candidates that the qrels name and the pool does not have."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MBeirInspection:
    """The facts about a folder."""

    root: str
    tasks: tuple[TaskFacts, ...]
    training: dict[str, int]
    """"<data set> task<k>" → training queries in the union file, repeated ones included."""
    pools: dict[str, int]
    """Global pools → candidates."""
    problems: tuple[str, ...]
    """What cannot be read, and why."""
    missing_files: tuple[str, ...]
    """Relative to the root."""
    pictures: int
    """Different pictures that queries and candidates name; 0 if they were not looked for."""
    missing_pictures: int
    examples: tuple[str, ...]
    """The first pictures that are missing."""

    @property
    def complete(self) -> bool:
        """Whether everything that is there can be used."""
        return not self.problems and not self.missing_files and not self.missing_pictures

    def as_json(self) -> str:
        """Everything, as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    def as_text(self, shown: int = 10) -> str:
        """For people; lists are cut after `shown` entries."""
        lines = [f"{self.root}: {len(self.tasks)} tasks"]
        if self.tasks:
            width = max(len(one.name) for one in self.tasks)
            lines.append(f"  {'task':<{width}}  split  direction{'':<16} queries  candidates  positives  grains")
        for one in self.tasks:
            lines.append(
                f"  {one.name:<{width}}  {one.split:<5}  {one.direction:<25}{one.queries:>7}{one.candidates:>12}"
                f"{one.positives:>11.2f}{one.grains:>8.2f}"
            )
        lines += [f"  training queries, {key}: {count}" for key, count in self.training.items()]
        lines += [f"  global pool, {key}: {count} candidates" for key, count in self.pools.items()]
        if self.pictures:
            lines.append(f"  pictures: {self.pictures}, of them missing: {self.missing_pictures}")
        notes = [note for one in self.tasks for note in one.notes]
        for title, entries in (
            ("Cannot be read", self.problems),
            ("Left out or odd", notes),
            ("Missing files", self.missing_files),
            ("Missing pictures, for example", self.examples),
        ):
            if entries:
                lines += [f"{title}: {len(entries)}", *(f"    {entry}" for entry in entries[:shown])]
                lines += [f"    … and {len(entries) - shown} more"] if len(entries) > shown else []
        return "\n".join(lines) + "\n"


def inspect_mbeir(root: Path | str, *, pictures: bool = True) -> MBeirInspection:
    """Reads every query file, qrels and pool in a folder, and looks whether the pictures are there.

    Where one of the published data sets is among the tasks, the files of all 16 published test tasks are expected.

    Args:
        root: folder in M-BEIR's layout.
        pictures: look for the pictures too. Folders are listed, no picture is opened.

    Raises:
        ValueError: nothing in the folder is named as in M-BEIR.
    """
    root = Path(root)
    names = {split: _tasks(root, split) for split in SPLITS}
    if not any(names.values()):
        find_tasks(root, "test")  # says what it looked for
    seen = _Seen(root)
    facts, problems, missing = [], [], []
    if not instructions_file(root).is_file():
        missing.append(instructions_file(root))
    for split in ("val", "test"):
        for name in names[split]:
            try:
                facts.append(_task_facts(root, name, split, seen))
            except ValueError as error:
                problems.append(str(error))
    pools: dict[str, int] = {}
    for split in SPLITS:
        path = global_pool_file(root, split)
        if path.is_file():
            try:
                pools[split] = len(seen.pool(path))
            except ValueError as error:
                problems.append(str(error))
        elif names[split] or (split == "train" and training_files(root).is_file()):
            missing.append(path)
    training: dict[str, int] = {}
    try:
        training = _training(root, seen)
    except ValueError as error:
        problems.append(str(error))
    missing += _expected(root, {name for own in names.values() for name in own})
    found, absent, examples = _look_for(root, seen.pictures()) if pictures else (0, 0, [])
    relative = tuple(dict.fromkeys(str(path.relative_to(root)) for path in missing))
    return MBeirInspection(
        str(root), tuple(facts), training, pools, tuple(problems), relative, found, absent, tuple(examples)
    )


class _Seen:
    """What has been opened: each pool once, and every file that names pictures."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pools: dict[Path, JsonLines[Item]] = {}
        self.queries: list[JsonLines] = []

    def pool(self, path: Path) -> JsonLines[Item]:
        if path not in self._pools:
            self._pools[path] = open_pool(self._root, path)
        return self._pools[path]

    def pictures(self) -> Iterable[str]:
        """Names of pictures as the files spell them."""
        for lines, key in [
            *((q, "query_img_path") for q in self.queries),
            *((p, "img_path") for p in self._pools.values()),
        ]:
            for i in range(len(lines)):
                if name := lines.record(i).get(key):
                    yield name


def _tasks(root: Path, split: str) -> tuple[TaskName, ...]:
    try:
        return find_tasks(root, split)
    except ValueError:
        return ()


def _task_facts(root: Path, name: TaskName, split: str, seen: _Seen) -> TaskFacts:
    pool_path = local_pool_file(root, name, split)
    pool = seen.pool(pool_path) if pool_path.is_file() else None
    task, found = open_mbeir_task(root, name, split, absent="count", candidates=pool)  # type: ignore[arg-type]
    assert isinstance(task.queries, JsonLines)
    seen.queries.append(task.queries)
    positives, grains = [], []
    for query in task.queries:
        positives.append(len(task.relevance[query.id]))
        if query.grains:
            grains.append(len(query.grains))
    return TaskFacts(
        str(name), split, " → ".join(TASKS[name.task]), len(positives), len(task.candidates),
        sum(positives) / len(positives), sum(grains) / len(grains) if grains else 0.0, found.absent, found.notes,
    )  # fmt: skip


def _training(root: Path, seen: _Seen) -> dict[str, int]:
    path = training_files(root)
    if not path.is_file():
        return {}
    instructions = read_instructions(root)
    pool_path = global_pool_file(root, "train")
    parser = QueryParser(root, instructions, pool=seen.pool(pool_path) if pool_path.is_file() else None)
    index = index_lines(path, "qid", parser.refuse, keep_repeated=True)
    lines = JsonLines(index, parser)
    seen.queries.append(lines)
    counts: dict[str, int] = {}
    for i in range(len(lines)):
        record = lines.record(i)
        number = record["qid"].partition(":")[0]
        key = f"{instructions.name_of(int(number)) if number.isdecimal() else number} task{parser.task_of(record)}"
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def _expected(root: Path, present: set[TaskName]) -> list[Path]:
    """Files of the published test tasks that are not there, if the folder holds some of M-BEIR at all."""
    if not any(name in OFFICIAL for name in present):
        return []
    wanted = [
        path
        for name in OFFICIAL
        for path in (
            query_file(root, name, "test"),
            qrels_file(root, name, "test"),
            local_pool_file(root, name, "test"),
        )
    ]
    return [path for path in (*wanted, training_files(root), global_pool_file(root, "test")) if not path.is_file()]


def _look_for(root: Path, names: Iterable[str]) -> tuple[int, int, list[str]]:
    """(different pictures, how many of them are not there, the first of those). Each folder is listed once."""
    folders: dict[Path, dict[str, bool]] = {}
    for name in names:
        path = confined(root, name)
        if path is not None:
            folders.setdefault(path.parent, {})[path.name] = True
    total = sum(len(own) for own in folders.values())
    missing = 0
    examples: list[str] = []
    for folder, own in folders.items():
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        gone = [name for name in own if name not in there]
        missing += len(gone)
        examples += [str((folder / name).relative_to(root)) for name in gone[: max(0, 10 - len(examples))]]
    return total, missing, examples
