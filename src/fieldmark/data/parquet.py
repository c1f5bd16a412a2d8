"""Collections in parquet files, as Hugging Face stores them: an image column and a label column."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fieldmark.data.records import SPLIT_NAMES, Listing, Record, choose_label_column, class_order
from fieldmark.data.sources import ParquetSource, import_parquet


def list_parquet(
    root: Path,
    files: Sequence[Path],
    image_column: str | None,
    label_column: str | None,
    *,
    prefix: str = "",
    split: str = "",
) -> Listing:
    """Lists the rows of parquet files; the pictures themselves are not read.

    Labels are names, numbers, or numbers with names in the schema's metadata (Hugging Face ClassLabel, whose order
    of classes is kept). A file whose name begins with "train", "test", … belongs to that split unless `split` is
    given. An id is "<file>#<row>".

    Raises:
        ValueError: a file is damaged, columns cannot be told, labels are missing, class names contradict.
    """
    records: list[Record] = []
    order: tuple[str, ...] | None = None
    for path in files:
        found, names = _list_file(root, path, image_column, label_column, prefix, split)
        if order is not None and names != order:
            raise ValueError(f"{path} and {files[0]} name different classes in their schemas: load them separately")
        records += found
        order = names
    if not records:
        raise ValueError(f"{root}: the parquet files hold no rows")
    names = order or class_order({record.class_name for record in records}, numeric=True)
    return Listing(tuple(records), names, from_table=True)


def _list_file(
    root: Path, path: Path, image_column: str | None, label_column: str | None, prefix: str, split: str
) -> tuple[list[Record], tuple[str, ...]]:
    """Records of one file, and the class names of its schema, empty if it has none."""
    parquet, damaged = import_parquet()
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            image = image_column or choose_image_column(schema, path)
            label = label_column or choose_label_column(schema.names, path)
            for column in (image, label):
                if column not in schema.names:
                    raise ValueError(f"{path} has no column {column!r}; its columns: {', '.join(schema.names)}")
            names = schema_class_names(schema, label)
            relative = prefix + path.relative_to(root).as_posix()
            split = split or SPLIT_NAMES.get(re.split(r"[-_.]", path.name.lower())[0], "")
            records: list[Record] = []
            for group in range(file.num_row_groups):
                labels = file.read_row_group(group, columns=[label]).column(0).to_pylist()
                for within, value in enumerate(labels):
                    name = _class_name(value, names, f"{path}, row {len(records)}, column {label!r}")
                    source = ParquetSource(path, group, within, image)
                    records.append(Record(f"{relative}#{len(records)}", source, name, split))
            return records, names
    except (OSError, damaged) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error


def choose_image_column(schema: Any, path: Path) -> str:
    """The column of an arrow schema that holds pictures. ValueError if there is none, or a choice."""

    def holds_bytes(kind: Any) -> bool:
        text = str(kind)
        return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: " in text)

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    if "image" in candidates:
        return "image"
    if len(candidates) != 1:
        raise ValueError(
            f"{path} has {len(candidates)} columns that could hold pictures (columns: {', '.join(schema.names)}): "
            "name the right one as image_column"
        )
    return candidates[0]


def schema_class_names(schema: Any, label: str) -> tuple[str, ...]:
    """Names of the numbers in column `label`, as Hugging Face's ClassLabel stores them; empty if there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return ()
    feature = json.loads(text).get("info", {}).get("features", {}).get(label, {})
    names = feature.get("names", ()) if isinstance(feature, dict) else ()
    return tuple(str(name) for name in names)


def _class_name(value: object, names: tuple[str, ...], where: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if not names:
            return str(value)
        if 0 <= value < len(names):
            return names[value]
        raise ValueError(f"{where}: label {value} is outside of the schema's {len(names)} class names")
    raise ValueError(f"{where}: label {value!r} is neither a number nor a name")
