"""Building a multi-grain benchmark out of a collection in M-BEIR's layout.

Grains come from the collection's own annotations, or from a multimodal LLM that is asked for them; its answers are kept
word for word in answers.jsonl, so that a run that was stopped goes on, and people can check what was made of them.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fieldmark.data.multimodal.mbeir import open_mbeir_task
from fieldmark.data.multimodal.mbeir_layout import Split, TaskName, find_tasks
from fieldmark.data.retrieval import Query
from fieldmark.evaluation.grain_listing import Ask
from fieldmark.evaluation.mrbench import LEAST_GRAINS, SOURCES, GrainedQuery, mrbench_lines
from fieldmark.policy.grain_answers import grain_prompt, read_grains
from fieldmark.training.run_folder import write_text

_ANSWERS = "answers.jsonl"
_BENCHMARK = "mrbench.jsonl"


@dataclass(frozen=True)
class MrbenchBuildConfig:
    """Which queries become a benchmark, and who names their grains."""

    root: str = ""
    """Folder in M-BEIR's layout."""
    split: Split = "test"
    """Whose queries."""
    tasks: tuple[str, ...] = ()
    """Such as cirr_task7. Not given: the four published sources (COCO t→i and i→t, NIGHTS, CIRR) as far as they are
    there; of a collection that has none of these, all tasks."""
    grains: Literal["annotation", "model"] = "annotation"
    """annotation: those that the collection itself lists; model: a multimodal LLM is asked."""
    per_task: int = 250
    """Queries of each task (published: 1000 of four). Fewer if it does not have so many with two grains."""
    most_asked: int = 1000
    """A model is asked about so many queries of a task at most."""
    seed: int = 0
    """Which queries are drawn."""

    def __post_init__(self) -> None:
        for name in ("per_task", "most_asked"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TaskBuilding:
    """What became of one task's queries."""

    task: str
    taken: int
    looked_at: int
    unreadable: int
    """Answers without a list of grains."""
    too_few: int
    """Queries of fewer than two grains."""

    def as_text(self) -> str:
        return (
            f"{self.task}: {self.taken} queries taken of {self.looked_at} looked at "
            f"({self.too_few} with fewer than {LEAST_GRAINS} grains, {self.unreadable} answers unreadable)"
        )


@dataclass(frozen=True)
class _Answer:
    """A line of answers.jsonl."""

    task: str
    qid: str
    by: str
    question: str
    """Digest of the prompt: another wording is another question."""
    answer: str


def build_mrbench(
    config: MrbenchBuildConfig,
    out: Path,
    *,
    ask: Ask | None = None,
    by: str = "annotation",
    batch_size: int = 8,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[TaskBuilding]:
    """Write OUT/mrbench.jsonl, and with a model OUT/answers.jsonl.

    Args:
        ask: the model, if grains="model".
        by: its name, as the file will say.
        batch_size: queries per call of `ask`; what was answered is stored after each.
        force: replace an existing benchmark, which may have been edited. Answers are kept and used in any case.

    Raises:
        ValueError: the benchmark exists, no query has two grains, or bad input of another kind.
    """
    path = out / _BENCHMARK
    if path.exists() and not force:
        raise ValueError(f"{path} exists, and may have been edited: choose another folder, or say --force")
    if not config.root:
        raise ValueError("no data given: set root to a folder in M-BEIR's layout")
    if (config.grains == "model") != (ask is not None):
        raise ValueError("grains='model' needs a model to ask, and only that does")
    root = Path(config.root)
    random = np.random.default_rng(config.seed)
    queries: list[GrainedQuery] = []
    reports = []
    for name in _tasks(config):
        task, _ = open_mbeir_task(root, name, config.split)
        order = random.permutation(len(task.queries))
        if ask is None:
            found, report = _annotated(name, task.queries, order, config, root)
        else:
            asker = _Asker(out / _ANSWERS, str(name), by, ask)
            found, report = _asked(name, task.queries, order, config, root, asker, batch_size)
        say(report.as_text())
        queries += found
        reports.append(report)
    if not queries:
        raise ValueError(
            f"no query of {root} has {LEAST_GRAINS} grains: {'; '.join(one.as_text() for one in reports)}. "
            + ("Ask a model: --build.grains model" if ask is None else f"{out / _ANSWERS} holds what was answered")
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, mrbench_lines(queries))
    return reports


class _Asker:
    """A model that is asked about each query once, whatever happens in between."""

    def __init__(self, path: Path, task: str, by: str, ask: Ask) -> None:
        self._path, self._task, self.by, self._ask = path, task, by, ask
        self._lines: list[_Answer] = []
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    self._lines.append(_Answer(**json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{path}, line {number} is no stored answer ({error}): remove it") from error
        self._known = {(one.task, one.qid, one.by, one.question): one.answer for one in self._lines}

    def answers(self, queries: Sequence[Query]) -> list[str]:
        """In the order of the queries."""
        keys = [(self._task, query.id, self.by, _digest(grain_prompt(query.item))) for query in queries]
        new = [(key, query) for key, query in zip(keys, queries, strict=True) if key not in self._known]
        if new:
            for (key, _), answer in zip(new, self._ask([query.item for _, query in new]), strict=True):
                self._known[key] = answer
                self._lines.append(_Answer(*key, answer))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in self._lines))
        return [self._known[key] for key in keys]


def _tasks(config: MrbenchBuildConfig) -> tuple[TaskName, ...]:
    if config.tasks:
        return tuple(map(TaskName.parse, config.tasks))
    present = find_tasks(Path(config.root), config.split)
    return tuple(name for name in SOURCES if name in present) or present


def _annotated(
    name: TaskName, queries: Sequence[Query], order: np.ndarray, config: MrbenchBuildConfig, root: Path
) -> tuple[list[GrainedQuery], TaskBuilding]:
    taken: list[GrainedQuery] = []
    looked_at = 0
    for i in order.tolist():
        if len(taken) == config.per_task:
            break
        looked_at += 1
        query = queries[i]
        if len(set(query.grains)) >= LEAST_GRAINS:
            taken.append(_line(name, query, query.grains, "annotation", root))
    return taken, TaskBuilding(str(name), len(taken), looked_at, 0, looked_at - len(taken))


def _asked(
    name: TaskName,
    queries: Sequence[Query],
    order: np.ndarray,
    config: MrbenchBuildConfig,
    root: Path,
    asker: _Asker,
    batch_size: int,
) -> tuple[list[GrainedQuery], TaskBuilding]:
    taken: list[GrainedQuery] = []
    looked_at = unreadable = too_few = 0
    places = order[: config.most_asked].tolist()
    for start in range(0, len(places), batch_size):
        some = [queries[i] for i in places[start : start + batch_size]]
        for query, answer in zip(some, asker.answers(some), strict=True):
            if len(taken) == config.per_task:
                return taken, TaskBuilding(str(name), len(taken), looked_at, unreadable, too_few)
            looked_at += 1
            grains = read_grains(answer)
            if grains is None:
                unreadable += 1
            elif len(grains) < LEAST_GRAINS:
                too_few += 1
            else:
                taken.append(_line(name, query, grains, asker.by, root))
    return taken, TaskBuilding(str(name), len(taken), looked_at, unreadable, too_few)


def _line(name: TaskName, query: Query, grains: Sequence[str], by: str, root: Path) -> GrainedQuery:
    image = query.item.image
    shown = None if image is None else (image.relative_to(root) if image.is_relative_to(root) else image).as_posix()
    return GrainedQuery(str(name), query.id, query.item.text, shown, tuple(dict.fromkeys(grains)), by)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
