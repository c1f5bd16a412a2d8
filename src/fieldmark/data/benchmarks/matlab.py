"""MATLAB tables as Cars-196 stores them: a struct array and a cell array of names."""

import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 16 * 2**20
"""Of a file; the tables of Cars-196 are well below."""

MAX_UNPACKED_BYTES = 256 * 2**20
"""Of its contents, which are compressed in the file; a bomb unpacks to a thousand times its size."""

_COMPRESSED = 15  # the format's number of a compressed element

# What scipy raises for damaged files beside its own MatReadError.
_DAMAGED = (
    OSError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError, NotImplementedError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip


def read_mat(path: Path, names: Collection[str], download: str) -> dict[str, np.ndarray]:
    """The variables `names` of a .mat file (level 5, as Cars-196 has it; nothing in it is executed).

    Raises:
        ValueError: the file is missing, damaged, too large, of another kind, or lacks a variable.
    """
    from scipy.io import loadmat  # only Cars-196 needs it: decoding processes do not load it
    from scipy.io.matlab import MatReadError

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        _check_unpacked(path.read_bytes())
        content: dict[str, Any] = loadmat(path, variable_names=list(names))
    except (*_DAMAGED, MatReadError) as error:
        raise ValueError(
            f"{path} cannot be read as a MATLAB file ({error or type(error).__name__}). {download}"
        ) from error
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path} holds no variable {', '.join(missing)}: another file by that name. {download}")
    return {name: content[name] for name in names}


def _check_unpacked(content: bytes) -> None:
    """Raises ValueError if the compressed elements of a level 5 file unpack to too much. Damage is left to scipy."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        return  # no level 5
    at, left = 128, MAX_UNPACKED_BYTES
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            left -= len(unpacking.decompress(content[at + 8 : at + 8 + size], left))
            if unpacking.unconsumed_tail or left <= 0:
                raise ValueError(f"its contents unpack to more than {MAX_UNPACKED_BYTES} bytes")
        at += 8 + size


def texts(table: np.ndarray, where: Path, download: str) -> list[str]:
    """A cell array of strings, in order."""
    return [_text(cell, where, download) for cell in np.asarray(table).ravel()]


def text_column(table: np.ndarray, field: str, where: Path, download: str) -> list[str]:
    """One field of a struct array, as strings."""
    return [_text(cell, where, download) for cell in _column(table, field, where, download)]


def int_column(table: np.ndarray, field: str, where: Path, download: str) -> list[int]:
    """One field of a struct array, as whole numbers."""
    found = []
    for cell in _column(table, field, where, download):
        value = np.asarray(cell)
        if value.size != 1 or value.dtype.kind not in "uif" or int(value.item()) != value.item():
            raise ValueError(f"{where}: {field} holds {cell!r} instead of one whole number. {download}")
        found.append(int(value.item()))
    return found


def _column(table: np.ndarray, field: str, where: Path, download: str) -> np.ndarray:
    fields = table.dtype.names or ()
    if field not in fields:
        raise ValueError(f"{where}: its table has no field {field} (it has {', '.join(fields) or 'none'}). {download}")
    return table[field].ravel()


def _text(cell: Any, where: Path, download: str) -> str:
    value = np.asarray(cell)
    if value.size != 1 or value.dtype.kind != "U" or not value.item():
        raise ValueError(f"{where}: {cell!r} stands where one text is expected. {download}")
    return str(value.item())
