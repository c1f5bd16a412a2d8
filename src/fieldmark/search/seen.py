"""Which ids a run has seen: on disk, so that memory does not grow with their number."""

import sqlite3
from collections.abc import Sequence
from types import TracebackType
from typing import Self


class SeenIds:
    """A set of ids in a temporary database, which is gone when it is closed or the process dies."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # no name: private, on disk, deleted by itself
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY)")
        self._database.execute("BEGIN")

    def add(self, id: str) -> bool:
        """Remember an id. Returns False if it was there already."""
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (_number(id),)).rowcount == 1

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that were never added, in their order."""
        found = (self._database.execute("SELECT 1 FROM seen WHERE id = ?", (_number(id),)).fetchone() for id in ids)
        return [id for id, one in zip(ids, found, strict=True) if one is None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()


def _number(id: str) -> int:
    return int(id, 16) - 2**63  # SQLite's integers are signed
