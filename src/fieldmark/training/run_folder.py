"""The folder of a run: what was asked for, with which versions, and where its products lie.

    config.yaml      the resolved configuration, defaults included
    run.json         every start: time, command line, versions, git commit, platform
    log.jsonl        figures by step (`training.log`)
    checkpoints/     what a killed run resumes from (`training.checkpoint`)
    encoder/         the trained encoder
    results.json     written last: a run that has it is finished

`prepare_run` refuses what would mix two runs before anything costly happens.
"""

import dataclasses
import datetime
import enum
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

_CONFIG = "config.yaml"
_RUN = "run.json"
_RESULTS = "results.json"
_LOG = "log.jsonl"
_FOLDERS = ("checkpoints", "encoder", "tensorboard")
_PACKAGES = ("fieldmark", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")
_ABSENT = "(absent)"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, made by `prepare_run`.

    Attributes:
        path: the folder.
        resumed: it held a run of the same configuration, which is to be continued.
    """

    path: Path
    resumed: bool

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        return self.path / _LOG

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def results(self) -> Path:
        return self.path / _RESULTS

    @property
    def finished(self) -> bool:
        """Whether `results.json` is there, the last thing that a run writes."""
        return self.results.is_file()

    def discard(self) -> None:
        """Take back what `prepare_run` wrote, if it began this run: nothing came of it, and a corrected start shall
        not stumble over it."""
        if not self.resumed:
            _remove_products(self.path)

    def write_json(self, name: str, value: Any) -> Path:
        """Writes `value` (may hold dataclasses, paths, numpy numbers) to `name`, whole or not at all."""
        path = self.path / name
        write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n")
        return path


def prepare_run(
    folder: Path | str,
    config: Any,
    resume: bool = False,
    *,
    overwrite: bool = False,
    may_differ: Collection[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> RunFolder:
    """Makes or reopens the folder of a run, before anything costly happens.

    Args:
        folder: made if missing. It must be empty, or hold a run.
        config: a dataclass or mapping of plain values, stored as `config.yaml`.
        resume: continue a run of the same configuration; if there is none yet, start it.
        overwrite: delete the products of the run that is there and start again.
        may_differ: dotted names of fields that change nothing in the result ("loader.workers"): a resumed run
            may have other values there. A name stands for everything below it.
        earlier: dotted names of fields that a stored configuration may lack, since an earlier version wrote it, and
            the values that stand for what that version did.

    Raises:
        ValueError: the folder cannot be written, holds something else than a run, holds a run and neither
            `resume` nor `overwrite` is given, or holds a run of another configuration (the fields are named).
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other: continue the run, or start it again")
    folder = Path(folder)
    plain = to_plain(config)
    if not isinstance(plain, dict):
        raise ValueError(f"the configuration must be a dataclass or a mapping, not {type(config).__name__}")
    _require_writable(folder)
    present = folder / _CONFIG
    start = _describe_start()

    if present.is_file() and not overwrite:
        _require_same(folder, read_config(folder), plain, may_differ, earlier or {})
        if not resume:
            state = "a finished run" if (folder / _RESULTS).is_file() else "an unfinished run"
            raise ValueError(
                f"{folder} already holds {state} of this configuration; continue it with --resume, start it "
                "again with --overwrite, or choose another folder"
            )
        starts = _read_starts(folder / _RUN)
        _warn_of_other_versions(starts, start)
        write_text(folder / _RUN, json.dumps({"starts": [*starts, start]}, indent=2) + "\n")
        return RunFolder(path=folder, resumed=True)

    if present.is_file():
        _remove_products(folder)
    else:
        strangers = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if strangers:
            raise ValueError(
                f"{folder} is not empty and holds no run (found {', '.join(strangers[:3])}); choose an "
                "empty or new folder"
            )
    write_text(present, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    write_text(folder / _RUN, json.dumps({"starts": [start]}, indent=2) + "\n")
    return RunFolder(path=folder, resumed=False)


def read_config(folder: Path | str) -> dict[str, Any]:
    """The stored configuration of a run.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = Path(folder) / _CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no run's folder: it has no {_CONFIG}")
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no longer YAML ({error}); choose another folder or --overwrite") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds no configuration; choose another folder or --overwrite")
    return stored


def differing_fields(stored: Any, asked: Any, may_differ: Collection[str] = ()) -> list[str]:
    """Dotted names of the leaves in which two plain configurations differ, sorted; one that is absent differs.

    Args:
        may_differ: names that are left out, each with everything below it.
    """
    before, now = _flat(stored), _flat(asked)
    return [
        name
        for name in sorted({*before, *now})
        if before.get(name, _ABSENT) != now.get(name, _ABSENT)
        and not any(name == free or name.startswith(f"{free}.") for free in may_differ)
    ]


def to_plain(value: Any) -> Any:
    """`value` as nothing but dicts, lists, strings, numbers, booleans and None, as YAML and JSON keep them.

    Raises:
        ValueError: a value of another kind, named by its place.
    """
    return _to_plain(value, "")


def _to_plain(value: Any, place: str) -> Any:
    if isinstance(value, enum.Enum):
        return _to_plain(value.value, place)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _to_plain(fields, place)
    if isinstance(value, Mapping):
        prefix = f"{place}." if place else ""
        return {str(key): _to_plain(item, f"{prefix}{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"{place or 'the value'} is a {type(value).__name__}, which YAML and JSON cannot keep")


def write_text(path: Path, text: str) -> None:
    """Replaces a file at once: whoever reads it, even after a kill, sees the old text or the new one."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _require_writable(folder: Path) -> None:
    probe = folder / f".tmp-writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} cannot be written ({error.strerror}); choose another one, or free the "
            "space and the permission"
        ) from error


def _require_same(
    folder: Path,
    stored: dict[str, Any],
    asked: dict[str, Any],
    may_differ: Collection[str],
    earlier: Mapping[str, Any],
) -> None:
    now = _flat(asked)
    before = {**{name: value for name, value in earlier.items() if name in now}, **_flat(stored)}
    differing = [
        name
        for name in differing_fields(stored, asked, may_differ)
        if before.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]
    if differing:
        lines = [
            f"  {name}: {before.get(name, _ABSENT)} there, {now.get(name, _ABSENT)} now" for name in differing[:12]
        ]
        if len(differing) > 12:
            lines.append(f"  and {len(differing) - 12} more")
        raise ValueError(
            f"{folder} holds a run of another configuration:\n"
            + "\n".join(lines)
            + f"\nChoose another folder, give the configuration of {folder / _CONFIG}, or start again with "
            "--overwrite"
        )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Leaves by dotted name; an empty mapping is a leaf, lists are compared as a whole."""
    if not isinstance(value, dict) or not value:
        return {place: value}
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(_flat(item, f"{place}.{key}" if place else key))
    return leaves


def _remove_products(folder: Path) -> None:
    """Deletes what a run writes and nothing else; the configuration last: a kill on the way leaves a run."""
    for name in (_RESULTS, _LOG, _RUN):
        (folder / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    (folder / _CONFIG).unlink()


# --- what a start tells about itself


def _read_starts(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():  # killed between config.yaml and run.json
        return []
    return json.loads(path.read_text(encoding="utf-8"))["starts"]


def _describe_start() -> dict[str, Any]:
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions(),
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of the running source, with "+changes" if tracked files differ from it; None outside git.

    Only a checkout that tracks this very file counts: a copy that is installed inside some other project's
    tree has no commit.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _warn_of_other_versions(starts: list[dict[str, Any]], start: dict[str, Any]) -> None:
    if not starts:
        return
    before, now = starts[-1]["versions"], start["versions"]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        warnings.warn(
            f"resumed with other versions ({', '.join(changed)}): the numbers may differ from those of an unbroken run",
            stacklevel=3,
        )
