"""Triplets of sentences for language-only training (ELVA's stage 1): a sentence, one it entails, one it contradicts."""

import csv
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, overload

from fieldmark.data.retrieval import Item, Query, RetrievalTask

COLUMNS = ("sent0", "sent1", "hard_neg")

T = TypeVar("T")


@dataclass(frozen=True)
class Triplet:
    """One line of an NLI file."""

    sentence: str
    """`sent0`."""
    entailed: str
    """`sent1`: says the same, or less."""
    contradicted: str
    """`hard_neg`: cannot be true beside it."""


def read_nli(path: Path | str) -> list[Triplet]:
    """Reads a CSV with the columns `sent0`, `sent1` and `hard_neg`.

    Lines with an empty cell are left out; a warning counts them.

    Raises:
        ValueError: the file is no such CSV, or no line is left.
    """
    path = Path(path)
    triplets, empty = [], 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} lacks the column {missing[0]!r}; it has {', '.join(rows.fieldnames or ())}")
            for row in rows:
                cells = [(row[name] or "").strip() for name in COLUMNS]
                if all(cells):
                    triplets.append(Triplet(*cells))
                else:
                    empty += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error})") from error
    if not triplets:
        raise ValueError(f"{path} holds no triplet")
    if empty:
        warnings.warn(f"{path}: {empty} lines have an empty cell and are left out", stacklevel=2)
    return triplets


def write_nli(path: Path, triplets: Iterable[Triplet]) -> None:
    """Writes what `read_nli` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows((one.sentence, one.entailed, one.contradicted) for one in triplets)


def nli_task(triplets: Sequence[Triplet], name: str = "nli") -> RetrievalTask:
    """Triplets as text → text retrieval: triplet i is the query "i" with the positive "i+" and the negative "i-".

    The pool holds all entailed sentences, then all contradicted ones. Items are made when they are asked for.
    """
    count = len(triplets)

    def query(i: int) -> Query:
        return Query(Item(str(i), triplets[i].sentence), negatives=(f"{i}-",))

    def candidate(i: int) -> Item:
        one = triplets[i % count]
        return Item(f"{i}+", one.entailed) if i < count else Item(f"{i - count}-", one.contradicted)

    relevance = {str(i): {f"{i}+": 1.0} for i in range(count)}
    return RetrievalTask(name, _Made(count, query), _Made(2 * count, candidate), relevance, cutoff=1)


class _Made(Sequence[T], Generic[T]):
    """A sequence whose elements are made when they are asked for."""

    def __init__(self, count: int, make: Callable[[int], T]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self._count))]
        if not -self._count <= i < self._count:
            raise IndexError(i)
        return self._make(i % self._count)
