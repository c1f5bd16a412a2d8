"""Names of M-BEIR (UniIR, arXiv 2311.17136): its data sets, tasks and files."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fieldmark.data.retrieval import Modality

Split = Literal["train", "val", "test"]
Pool = Literal["local", "global"]
SPLITS: tuple[str, ...] = get_args(Split)

DATASETS: tuple[str, ...] = (
    "visualnews", "fashion200k", "webqa", "edis", "nights", "oven", "infoseek", "fashioniq", "cirr", "mscoco",
)  # fmt: skip
"""The published data sets; the place is the number before the colon of an id."""

FIRST_OWN_NUMBER = 10
"""Data sets of one's own are numbered from here."""

TASKS: dict[int, tuple[Modality, Modality]] = {
    0: ("text", "image"),
    1: ("text", "text"),
    2: ("text", "image,text"),
    3: ("image", "text"),
    4: ("image", "image"),
    6: ("image,text", "text"),
    7: ("image,text", "image"),
    8: ("image,text", "image,text"),
}
"""Number of a task → what its queries and its candidates are. 5 is unused."""

RECALL_AT_10 = frozenset({"fashion200k", "fashioniq"})
"""Data sets whose official cutoff is 10; it is 5 elsewhere."""


@dataclass(frozen=True, order=True)
class TaskName:
    """A data set and one of its tasks: `str()` gives "cirr_task7".

    Raises:
        ValueError: there is no such task.
    """

    dataset: str
    task: int

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            unused = " (5 is unused)" if self.task == 5 else ""
            raise ValueError(
                f"{self.dataset}: M-BEIR has no task {self.task}{unused}; it has {', '.join(map(str, TASKS))}"
            )

    def __str__(self) -> str:
        return f"{self.dataset}_task{self.task}"

    @property
    def cutoff(self) -> int:
        """K of the official Recall@K."""
        return 10 if self.dataset in RECALL_AT_10 else 5

    @classmethod
    def parse(cls, text: str) -> "TaskName":
        """From "cirr_task7".

        Raises:
            ValueError: it is no such name.
        """
        found = re.fullmatch(r"(.+)_task(\d+)", text)
        if found is None:
            raise ValueError(f"a task is named like cirr_task7, got {text!r}")
        return cls(found[1], int(found[2]))


OFFICIAL: tuple[TaskName, ...] = tuple(
    TaskName.parse(text)
    for text in (
        "visualnews_task0", "mscoco_task0", "fashion200k_task0", "webqa_task1", "edis_task2", "webqa_task2",
        "visualnews_task3", "mscoco_task3", "fashion200k_task3", "nights_task4", "oven_task6", "infoseek_task6",
        "fashioniq_task7", "cirr_task7", "oven_task8", "infoseek_task8",
    )
)  # fmt: skip
"""The 16 rows of the published table, in its order."""


def dataset_name(number: int) -> str | None:
    """Name of a published data set by its number; None for one's own."""
    return DATASETS[number] if 0 <= number < len(DATASETS) else None


def id_number(name: str) -> int:
    """Number of the data set that an id ("9:131") belongs to.

    Raises:
        ValueError: the id is not of this form.
    """
    number, colon, rest = name.partition(":")
    if not colon or not rest or not number.isdecimal():
        raise ValueError(f'ids of M-BEIR are "<data set>:<number>", got {name!r}')
    return int(number)


def query_file(root: Path, name: TaskName, split: str) -> Path:
    """Queries of one task. The published training queries are not cut by task: `training_files`."""
    return root / "query" / split / f"mbeir_{name}_{split}.jsonl"


def training_files(root: Path, dataset: str | None = None) -> Path:
    """The union of all training queries, or those of one data set, whatever the task."""
    if dataset is None:
        return root / "query" / "union_train" / "mbeir_union_up_train.jsonl"
    return root / "query" / "train" / f"mbeir_{dataset}_train.jsonl"


def qrels_file(root: Path, name: TaskName, split: str) -> Path:
    """Which candidates each query is to find."""
    return root / "qrels" / split / f"mbeir_{name}_{split}_qrels.txt"


def local_pool_file(root: Path, name: TaskName, split: str) -> Path:
    """The task's own pool: the one of the split where there is one (COCO, and what we write), else of all splits."""
    of_split = root / "cand_pool" / "local" / f"mbeir_{name}_{split}_cand_pool.jsonl"
    return of_split if of_split.is_file() else root / "cand_pool" / "local" / f"mbeir_{name}_cand_pool.jsonl"


def global_pool_file(root: Path, split: str) -> Path:
    """The union of all pools of a split."""
    return root / "cand_pool" / "global" / f"mbeir_union_{split}_cand_pool.jsonl"


def pool_file(root: Path, name: TaskName, split: str, pool: Pool) -> Path:
    """Where a task's queries are searched."""
    return global_pool_file(root, split) if pool == "global" else local_pool_file(root, name, split)


def instructions_file(root: Path) -> Path:
    """The wordings of the instructions."""
    return root / "instructions" / "query_instructions.tsv"


def find_tasks(root: Path, split: str) -> tuple[TaskName, ...]:
    """The tasks whose queries of a split lie in a folder: the published ones in their order, then others by name.

    Raises:
        ValueError: there are none.
    """
    pattern = re.compile(rf"mbeir_(.+_task\d+)_{re.escape(split)}\.jsonl")
    folder = root / "query" / split
    names = [found[1] for path in sorted(folder.glob("mbeir_*.jsonl")) if (found := pattern.fullmatch(path.name))]
    tasks = [TaskName.parse(name) for name in names]
    if not tasks:
        raise ValueError(f"{folder} has no queries (mbeir_<data set>_task<number>_{split}.jsonl): is {root} M-BEIR?")
    return tuple(sorted(tasks, key=lambda one: (OFFICIAL.index(one) if one in OFFICIAL else len(OFFICIAL), one)))
