"""`fieldmark index export`: the rows of an index as a file that other programs read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldmark.data.sources import import_parquet
from fieldmark.search.disk import storing
from fieldmark.search.index import Index
from fieldmark.search.schema import OWN_COLUMNS


def export_rows(index: Index, out: Path, *, where: str | None = None, embeddings: bool = True) -> int:
    """Write rows to a .parquet or .jsonl file, streamed; the file is there when it is whole.

    Args:
        out: the file; its ending says the format. An existing one is replaced.
        where: SQL filter; None takes all rows.
        embeddings: write them, too.

    Returns:
        How many rows were written.

    Raises:
        ValueError: another ending, or a filter that cannot be applied.
    """
    write = {".parquet": _parquet, ".jsonl": _jsonl}.get(out.suffix)
    if write is None:
        raise ValueError(f"{out} must end in .parquet or .jsonl: these are the formats")
    columns = [name for name in OWN_COLUMNS if name != "embedding"]
    columns += [*index.metadata_columns, *(["embedding"] if embeddings else [])]
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with storing(out), _whole(out) as temporary:
        return write(index, temporary, columns, where)


def _parquet(index: Index, out: Path, columns: list[str], where: str | None) -> int:
    import pyarrow

    parquet, _ = import_parquet()
    schema = index.table.schema
    kept = pyarrow.schema([schema.field(name) for name in columns], metadata=schema.metadata)
    count = 0
    with parquet.ParquetWriter(out, kept) as file:
        for batch in index.scan(columns, where):
            file.write_batch(batch.select(columns).cast(kept))
            count += batch.num_rows
    return count


def _jsonl(index: Index, out: Path, columns: list[str], where: str | None) -> int:
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for batch in index.scan(columns, where):
            for record in batch.to_pylist():
                file.write(json.dumps({name: _finite(record[name]) for name in columns}, ensure_ascii=False) + "\n")
                count += 1
    return count


def _finite(value: Any) -> Any:
    """JSON has no "not a number"."""
    return None if isinstance(value, float) and value - value != 0 else value


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A temporary name beside `out` that becomes it at the end, or is deleted."""
    temporary = out.with_name(f".tmp-{os.getpid()}-{out.name}")
    try:
        yield temporary
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
