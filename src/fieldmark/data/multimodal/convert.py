"""One's own queries and candidates, two JSONL files → M-BEIR's layout (docs/data-mbeir.md describes them)."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fieldmark.data.decode import looks_like_picture
from fieldmark.data.multimodal.json_lines import JsonLines, Record, index_lines
from fieldmark.data.multimodal.mbeir_layout import FIRST_OWN_NUMBER, SPLITS, TASKS
from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir
from fieldmark.data.retrieval import Modality
from fieldmark.data.sources import confined

DEFAULT_WORDINGS: Mapping[int, tuple[str, ...]] = {
    0: ("Find a picture that fits this text.",),
    1: ("Find a text that answers this one.",),
    2: ("Find a picture with its text that fits this text.",),
    3: ("Find a text that describes this picture.",),
    4: ("Find a picture of the same thing.",),
    6: ("Find a text that answers this about the picture.",),
    7: ("Find a picture like this one, changed as the text says.",),
    8: ("Find a picture with its text that answers this about the picture.",),
}
"""Instructions for queries that bring none."""

_QUERY_FIELDS = frozenset(
    {"id", "text", "image", "positives", "negatives", "grains", "instruction", "split"}
)  # fmt: skip
_CANDIDATE_FIELDS = frozenset({"id", "text", "image", "facts"})
_SHOWN = 5


@dataclass(frozen=True)
class ConvertConfig:
    """What becomes a data set in M-BEIR's layout."""

    queries: str
    """JSONL: id, text and/or image, positives (ids, or {id: relevance}); negatives, grains, instruction, split."""
    candidates: str
    """JSONL: id, text and/or image; facts."""
    name: str
    """Of the data set: lower-case letters, digits, hyphens."""
    number: int = FIRST_OWN_NUMBER
    """Of the data set, 10 or more; another one for each that is to be used beside others."""
    link: bool = False
    """Link the pictures instead of copying them."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    root: Path
    queries: dict[str, int]
    """"<task> <split>" → number of queries."""
    candidates: int
    pictures: int


def convert(config: ConvertConfig, out: Path) -> Converted:
    """Checks everything, then writes `out` (made whole beside it, then renamed). Of pictures only the head is read.

    Ids become "<number>:<n>" in the order of the files; the own ones are kept in `src_content`. A query's task follows
    from what it and its positives are; the pool of a task has all candidates of its kind.

    Raises:
        ValueError: `out` exists; a line is damaged, unknown fields, ids twice, nothing in it, positives or negatives
            that no candidate has, positives of two kinds, or pictures that are not there or in no known format.
            Nothing is written then.
    """
    if out.exists():
        raise ValueError(f"{out} exists: choose another folder, or delete it")
    queries_path, candidates_path = Path(config.queries), Path(config.candidates)
    candidates = _open(candidates_path, _CANDIDATE_FIELDS)
    queries = _open(queries_path, _QUERY_FIELDS)
    pictures: dict[str, Path] = {}

    new_candidates, kinds, numbers = [], [], {}
    for i, record in enumerate(candidates, start=1):
        image = _picture(record, candidates_path.parent, config.name, pictures)
        one = NewCandidate(i, record.get("text"), image, tuple(record.get("facts") or ()), {"id": record["id"]})
        new_candidates.append(one)
        kinds.append(_modality(one.text, one.image))
        numbers[record["id"]] = i
    new_queries = []
    for i, record in enumerate(queries, start=1):
        image = _picture(record, queries_path.parent, config.name, pictures)
        new_queries.append(_new_query(i, record, image, numbers, kinds, queries_path))

    _refuse_bad(pictures)
    tasks = sorted({one.task for one in new_queries})
    splits = {one.split for one in new_queries}
    by_task = {
        task: [one for one, kind in zip(new_candidates, kinds, strict=True) if kind == TASKS[task][1]] for task in tasks
    }
    pools = {(task, split): by_task[task] for task in tasks for split in SPLITS if split in splits}
    collection = NewCollection(config.name, config.number, new_queries, pools, DEFAULT_WORDINGS)
    _write(collection, pictures, config.link, out)
    counts: dict[str, int] = {}
    for query in new_queries:
        key = f"task{query.task} {query.split}"
        counts[key] = counts.get(key, 0) + 1
    return Converted(out, counts, len(new_candidates), len(pictures))


def _open(path: Path, fields: frozenset[str]) -> JsonLines[Record]:
    def check(record: Record) -> None:
        strangers = sorted(set(record) - fields)
        if strangers:
            raise ValueError(
                f"{path}: {record.get('id')!r} has the unknown field {strangers[0]!r}; known: {sorted(fields)}"
            )
        if not record.get("text") and not record.get("image"):
            raise ValueError(f"{path}: {record.get('id')!r} has neither text nor image")
        for name in ("text", "image", "instruction", "split"):
            if record.get(name) is not None and not isinstance(record[name], str):
                raise ValueError(f"{path}: {name!r} of {record.get('id')!r} must be a text, got {record[name]!r}")
        for name in ("grains", "facts", "negatives"):
            value = record.get(name) or []
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise ValueError(f"{path}: {name!r} of {record.get('id')!r} must be a list of texts, got {value!r}")

    index = index_lines(path, "id", check, keep_repeated=True)
    if len(index) == 0:
        raise ValueError(f"{path} is empty")
    lines = JsonLines(index, dict)
    if len(set(index.hashes.tolist())) < len(index):
        seen: set[str] = set()
        twice = next(one["id"] for one in lines if one["id"] in seen or seen.add(one["id"]))  # type: ignore[func-returns-value]
        raise ValueError(f"{path} has the id {twice!r} twice: ids must be unique")
    return lines


def _new_query(
    number: int, record: Record, image: str | None, numbers: Mapping[str, int], kinds: Sequence[Modality], path: Path
) -> NewQuery:
    name, split = record["id"], record.get("split") or "test"
    if split not in SPLITS:
        raise ValueError(f"{path}: split of {name!r} must be one of {', '.join(SPLITS)}, got {split!r}")
    positives = _grades(record, path)
    strangers = [one for one in (*positives, *(record.get("negatives") or ())) if one not in numbers]
    if strangers:
        raise ValueError(f"{path}: {name!r} names {strangers[0]!r}, which no candidate has as id")
    wanted = {kinds[numbers[one] - 1] for one in positives}
    if len(wanted) > 1:
        raise ValueError(
            f"{path}: positives of {name!r} are of different kinds ({' and '.join(sorted(wanted))}): split it"
        )
    kind = (_modality(record.get("text"), image), wanted.pop())
    task = next((task for task, own in TASKS.items() if own == kind), None)
    if task is None:
        raise ValueError(
            f"{path}: {name!r} asks {kind[0]} → {kind[1]}, which M-BEIR has no task for: give the query a text too"
        )
    same_kind = [one for one in record.get("negatives") or () if kinds[numbers[one] - 1] == kind[1]]
    return NewQuery(
        number,
        split,
        task,
        {numbers[one]: grade for one, grade in positives.items()},
        record.get("text"),
        image,
        tuple(numbers[one] for one in same_kind),
        tuple(record.get("grains") or ()),
        record.get("instruction"),
        {"id": name},
    )


def _grades(record: Record, path: Path) -> dict[str, int]:
    value = record.get("positives")
    grades = dict.fromkeys(value, 1) if isinstance(value, list) else value
    if not isinstance(grades, dict) or not grades:
        raise ValueError(
            f"{path}: {record['id']!r} needs positives: a list of ids, or {{id: relevance}}; got {value!r}"
        )
    for name, grade in grades.items():
        if not isinstance(name, str) or not isinstance(grade, int) or isinstance(grade, bool) or grade < 1:
            raise ValueError(f"{path}: relevance must be a whole number of at least 1, got {name!r}: {grade!r}")
    return grades


def _modality(text: str | None, image: str | None) -> Modality:
    if not image:
        return "text"
    return "image,text" if text else "image"


def _picture(record: Record, folder: Path, name: str, pictures: dict[str, Path]) -> str | None:
    """Where the record's picture will lie, noted in `pictures` with where it lies now."""
    if not record.get("image"):
        return None
    source = confined(folder, record["image"])
    if source is None:
        raise ValueError(f"the picture {record['image']!r} of {record['id']!r} must lie below {folder}")
    target = f"mbeir_images/{name}_images/{PurePosixPath(record['image'].replace(chr(92), '/'))}"
    if pictures.setdefault(target, source) != source:
        raise ValueError(
            f"{pictures[target]} and {source} have the same name below their JSONL files: put both files in one folder"
        )
    return target


def _refuse_bad(pictures: Mapping[str, Path]) -> None:
    missing = [path for path in pictures.values() if not path.is_file()]
    if missing:
        raise ValueError(_listed(missing, len(pictures), "are not there"))
    strange = [path for path in pictures.values() if not _claims_to_be_picture(path)]
    if strange:
        raise ValueError(_listed(strange, len(pictures), "cannot be read or are in no known format"))


def _claims_to_be_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return looks_like_picture(file.read(16))
    except OSError:
        return False


def _listed(paths: Sequence[Path], of: int, what: str) -> str:
    shown = "".join(f"\n  {path}" for path in paths[:_SHOWN])
    more = f"\n  … and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{len(paths)} of {of} pictures {what}:{shown}{more}"


def _write(collection: NewCollection, pictures: Mapping[str, Path], link: bool, out: Path) -> None:
    temporary = out.with_name(out.name + ".writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    put: Callable[[Path, Path], object] = (lambda a, b: os.symlink(a.resolve(), b)) if link else shutil.copyfile
    for target, source in pictures.items():
        (temporary / target).parent.mkdir(parents=True, exist_ok=True)
        put(source, temporary / target)
    write_mbeir(temporary, collection)
    temporary.rename(out)
