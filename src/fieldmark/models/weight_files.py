"""Model folders and hub repositories: fetching files, finding which holds which tensor, refusing half of a download."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")


def is_hub_name(source: str) -> bool:
    """Whether this could be a repository of the hub, such as Qwen/Qwen3-VL-8B-Instruct."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


def fetch(source: str | Path, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a model: `source` itself if it is one, else the hub repository's files that match.

    Raises:
        ValueError: no such folder, no such repository, or no network and nothing kept from before.
    """
    source = str(source)
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_name(source):
        raise ValueError(
            f"no model at {source}: give a folder with config.json, model.safetensors, tokenizer.json "
            "and preprocessor_config.json, or a hub name like Qwen/Qwen3-VL-8B-Instruct"
        )
    # Some repositories keep the same weights a second time in a subfolder.
    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": ["*/*"], "revision": revision}
    try:
        return Path(snapshot_download(source, **wanted))
    except (OSError, ValueError, RuntimeError) as error:
        # Not every version of huggingface_hub falls back on what was kept from before by itself.
        with suppress(OSError, ValueError, RuntimeError):
            return Path(snapshot_download(source, **wanted, local_files_only=True))
        raise ValueError(
            f"no folder {source} here, and as a hub name it cannot be fetched ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}). Check the name and "
            "the network, sign in if the repository asks for it, or download it elsewhere and give the folder"
        ) from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that whoever may read the folder may read; safetensors itself leaves it to the owner alone.

    Not atomic: callers write to a temporary name.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path, metadata)
    path.chmod(mode)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the model's folder.

    Raises:
        ValueError: it is missing, cut short, or no object.
    """
    if not (folder / name).is_file():
        raise ValueError(f"{folder} holds no {name}: it is not a saved model")
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is no valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{folder / name} holds no JSON object: download it again")
    return content


def weight_map(folder: Path) -> dict[str, str]:
    """Every tensor's name -> the file that holds it. Reads the index, or the header of the only file."""
    if (folder / INDEX).is_file():
        mapped = read_json(folder, INDEX).get("weight_map")
        if not isinstance(mapped, dict) or not mapped:
            raise ValueError(f"{folder / INDEX} has no weight_map: download it again")
        return mapped
    if (folder / SINGLE).is_file():
        return dict.fromkeys(check_file(folder / SINGLE), SINGLE)
    raise ValueError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX} is there (other formats are not read)")


def check_files(folder: Path, names: Collection[str]) -> dict[str, str]:
    """Hold that the files are there and whole, from their headers alone. Every tensor found -> its file.

    Raises:
        ValueError: names the files that are missing or cut short.
    """
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        raise ValueError(
            f"{folder} is a half-downloaded checkpoint: its index names {', '.join(missing)}, "
            f"{'which is' if len(missing) == 1 else 'which are'} not there. Download again"
        )
    return {tensor: name for name in sorted(names) for tensor in check_file(folder / name)}


def check_file(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file, held to be as long as its header says.

    Raises:
        ValueError: cut short, or no safetensors file (a git-lfs pointer, for example).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if size < 8 or length > size - 8:
                raise ValueError(f"{size} bytes are fewer than its header")
            header = json.loads(file.read(length))
            tensors = {name: value["data_offsets"] for name, value in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is cut short or no safetensors file ({error}): download it again (with git: git lfs pull)"
            ) from error
    expected = 8 + length + max((int(end) for _, end in tensors.values()), default=0)
    if size != expected:
        raise ValueError(f"{path} is cut short: {size} bytes of {expected}. Download it again")
    return list(tensors)


def replace_folder(new: Path, folder: Path, marker: str) -> None:
    """Put `new` in the place of `folder`; a reader sees the old one, an instant none, then the new.

    marker: a file that says that `folder` is of the kind to be replaced.

    Raises:
        ValueError: `folder` holds something else.
    """
    if not folder.exists():
        os.replace(new, folder)
        return
    if not (folder / marker).is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and holds no {marker}: choose another folder")
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old)
