"""Checkpoints from which a killed run continues bit for bit.

A checkpoint is a folder `step-00000120` ("120 optimiser steps are done"):

    <module>.safetensors      tensors of one trained module, for every name in `modules`
    optimiser.safetensors     moments and step counts of the optimiser
    generators.safetensors    states of the random generators
    state.json                step, scheduler, parameter groups, the caller's own values, checksums

It is written under a temporary name and renamed when every byte is on the disk, so a folder with the final
name is always whole. Nothing is pickled. Frozen weights do not belong into it: they come from the model's own
folder.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_FORMAT = 1
_TEMPORARY = ".tmp-"
_STEP_NAME = re.compile(r"step-(\d{8,})")
_MODULE_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED = frozenset({"optimiser", "generators", "state"})
_OTHER_RUN = "Resume with the model and the configuration of the run that wrote it"

Restorable: TypeAlias = nn.Module | Mapping[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another model or optimiser. The message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` found besides the tensors that it put back.

    Attributes:
        folder: the checkpoint's folder.
        step: number of optimiser steps that are done.
        extra: the caller's values as given to `save_checkpoint` (after a trip through JSON: tuples are
            lists).
    """

    folder: Path
    step: int
    extra: dict[str, Any]


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, Restorable],
    optimiser: Optimizer,
    scheduler: LRScheduler,
    generators: Mapping[str, torch.Generator],
    extra: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes the oldest checkpoints beyond `keep`.

    Args:
        folder: the run's checkpoint folder; made if missing. One process writes into it at a time.
        step: optimiser steps done so far.
        modules: what is trained, by a name made of letters, digits, "_" and "-". A module, or a mapping of
            tensors.
        generators: every source of randomness whose state matters, by name; `torch.default_generator` may be
            one.
        extra: values that JSON can hold (best score so far, position in the data, ...).
        keep: number of newest checkpoints to keep, this one included.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: a bad name or step, `keep` below 1, or a value that safetensors or JSON cannot hold.
        OSError: the disk is full or the folder not writable; earlier checkpoints are untouched.
    """
    if step < 0:
        raise ValueError(f"step is {step}; give the number of optimiser steps done")
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least the new checkpoint must be kept")
    for name in modules:
        if not _MODULE_NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(f"module name {name!r}: use letters, digits, '_' and '-', and none of {sorted(_RESERVED)}")

    moments, plain_optimiser = _flatten_optimiser(optimiser)
    tensors = {name: _tensors_of(name, module) for name, module in modules.items()}
    tensors["optimiser"] = moments
    tensors["generators"] = {name: generator.get_state() for name, generator in generators.items()}
    state: dict[str, Any] = {
        "format": _FORMAT,
        "step": step,
        "modules": list(modules),
        "optimiser": plain_optimiser,
        "scheduler": scheduler.state_dict(),
        "extra": dict(extra or {}),
    }
    try:
        json.dumps(state)
    except TypeError as error:
        raise ValueError(f"the checkpoint's state must be values that JSON can hold: {error}") from error

    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{final.name}"
    temporary.mkdir()
    for name, named in tensors.items():
        save_file({key: _plain(tensor) for key, tensor in named.items()}, temporary / f"{name}.safetensors")
    state["sha256"] = {f"{name}.safetensors": _sha256(temporary / f"{name}.safetensors") for name in tensors}
    state["checksum"] = _checksum(state)
    (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        _to_disk(path)
    if final.exists():  # a resumed run came by this step again
        final.rename(folder / f"{_TEMPORARY}old-{final.name}")
    temporary.rename(final)
    _to_disk(folder)

    for old in list_checkpoints(folder)[:-keep]:
        if old != final:
            _remove(old)
    _remove_leftovers(folder)
    return final


def load_checkpoint(
    folder: Path,
    modules: Mapping[str, Restorable],
    optimiser: Optimizer,
    scheduler: LRScheduler,
    generators: Mapping[str, torch.Generator],
) -> Checkpoint:
    """Puts everything that `save_checkpoint` stored back in place, bit for bit.

    The files' checksums and the names and shapes of all tensors are compared before the first value is
    changed. Modules, parameter groups and generators must be built as they were when the checkpoint was
    written.

    Args:
        folder: one checkpoint, as returned by `latest_checkpoint`.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint does not fit what is to be restored.
    """
    state = _read_state(folder)
    _must_match(folder, "modules", set(state["modules"]), set(modules))
    files = {Path(name).stem: _read_tensors(folder, name, digest) for name, digest in state["sha256"].items()}

    for name, module in modules.items():
        present = _tensors_of(name, module)
        _must_match(folder, f"tensors of {name}", set(files[name]), set(present))
        for key, tensor in present.items():
            _must_fit(folder, f"{name}.{key}", files[name][key], tensor)
    _must_match(folder, "generators", set(files["generators"]), set(generators))
    restored_optimiser = _unflatten_optimiser(folder, optimiser, state["optimiser"], files["optimiser"])

    for name, module in modules.items():
        if isinstance(module, nn.Module):
            module.load_state_dict(files[name], strict=True)
        else:
            for key, tensor in module.items():
                with torch.no_grad():
                    tensor.copy_(files[name][key])
    optimiser.load_state_dict(restored_optimiser)
    scheduler.load_state_dict(state["scheduler"])
    for name, generator in generators.items():
        generator.set_state(files["generators"][name])
    return Checkpoint(folder=folder, step=state["step"], extra=state["extra"])


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints in `folder`, oldest first. Half-written ones have another name."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def latest_checkpoint(folder: Path) -> Path | None:
    """The finished checkpoint with the most steps in `folder`, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


# --- tensors and plain values


def _tensors_of(name: str, module: Restorable) -> dict[str, Tensor]:
    tensors = dict(module.state_dict() if isinstance(module, nn.Module) else module)
    other = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"module {name!r} holds {other[:3]}, which are not tensors; pass them in `extra`")
    return tensors


def _plain(tensor: Tensor) -> Tensor:
    """A copy of its own on the CPU: safetensors refuses tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _flatten_optimiser(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser state as named tensors ("3.exp_avg": of parameter 3) and JSON-able rest.

    bitsandbytes puts its 8-bit tensors and their scales into a dict inside: "3.that dict.absmax1".
    """
    state = optimiser.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            elif isinstance(value, Mapping):
                tensors |= {f"{index}.{key}.{inner}": tensor for inner, tensor in value.items()}
            else:
                values.setdefault(str(index), {})[key] = value
    return tensors, {"groups": state["param_groups"], "values": values}


def _unflatten_optimiser(
    folder: Path, optimiser: Optimizer, plain: dict[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """The argument of `optimiser.load_state_dict`, after comparison with the optimiser at hand."""
    present = optimiser.state_dict()["param_groups"]
    stored = plain["groups"]
    if [g["params"] for g in stored] != [g["params"] for g in present]:
        raise CheckpointError(
            f"{folder}: the optimiser's groups had {[len(g['params']) for g in stored]} parameters, now "
            f"{[len(g['params']) for g in present]}. {_OTHER_RUN}"
        )
    params = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, key, *inner = name.split(".")
        if inner:  # shaped as its library likes; only the library can tell
            state.setdefault(int(index), {}).setdefault(key, {})[inner[0]] = tensor
            continue
        if tensor.ndim > 0:
            _must_fit(folder, f"optimiser state {name}", tensor, params[int(index)], dtype=False)
        state.setdefault(int(index), {})[key] = tensor
    for text, values in plain["values"].items():
        state.setdefault(int(text), {}).update(values)
    groups = [
        {key: tuple(value) if isinstance(now.get(key), tuple) else value for key, value in group.items()}
        for group, now in zip(stored, present, strict=True)
    ]
    return {"state": state, "param_groups": groups}


def _must_match(folder: Path, what: str, stored: set[str], present: set[str]) -> None:
    if stored != present:
        raise CheckpointError(
            f"{folder}: the {what} differ; only in the checkpoint: {sorted(stored - present)[:5]}, "
            f"only here: {sorted(present - stored)[:5]}. {_OTHER_RUN}"
        )


def _must_fit(folder: Path, what: str, stored: Tensor, present: Tensor, dtype: bool = True) -> None:
    if stored.shape != present.shape or (dtype and stored.dtype != present.dtype):
        raise CheckpointError(
            f"{folder}: {what} is {tuple(stored.shape)} {stored.dtype} in the checkpoint, but "
            f"{tuple(present.shape)} {present.dtype} here. {_OTHER_RUN}"
        )


# --- files


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise _damaged(path, f"format {found!r} where {_FORMAT} is expected")
    if state.pop("checksum", None) != _checksum(state):
        raise _damaged(path, "its content is not what was written (checksum differs)")
    return state


def _read_tensors(folder: Path, name: str, digest: str) -> dict[str, Tensor]:
    path = folder / name
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    if _sha256(path) != digest:
        raise _damaged(path, "its content is not what was written (SHA-256 differs)")
    return load_file(path, device="cpu")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint file {path} cannot be used: {reason}. Delete the folder {path.parent} and resume: the "
        "run then continues from the checkpoint before it, or from the start if there is none"
    )


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Takes the final name away first: a kill in the middle leaves no half-deleted checkpoint behind."""
    temporary = path.with_name(f"{_TEMPORARY}removed-{path.name}")
    path.rename(temporary)
    shutil.rmtree(temporary)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)
