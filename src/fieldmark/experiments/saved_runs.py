"""What a run's folder says about how it was made."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fieldmark.training.run_folder import read_config

_Config = TypeVar("_Config")


def read_part(kind: type[_Config], config: Mapping[str, Any], name: str, run: Path) -> _Config:
    """One component (``DataConfig`` under "data", …) of a stored configuration.

    Raises:
        ValueError: if it is missing or was written by a version with other fields.
    """
    stored = config.get(name)
    if not isinstance(stored, Mapping):
        raise ValueError(f"{run}/config.yaml has no part {name!r}: it is no training run")
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if strangers := sorted(set(stored) - known):
        raise ValueError(f"{run}/config.yaml was written by another version: unknown {name}.{strangers[0]}")
    return kind(**stored)


def are_embedder_runs(runs: Sequence[Path]) -> bool:
    """Whether these are runs of `train contrastive` or `train elva`; False: none of them is.

    Raises:
        ValueError: some are, some are not; or a folder holds no run.
    """
    kinds = []
    for run in runs:
        model = read_config(run).get("model")
        kinds.append(isinstance(model, Mapping) and "embedder" in model)
    if any(kinds) and not all(kinds):
        raise ValueError(
            f"{runs[kinds.index(True)]} trained a universal embedder, {runs[kinds.index(False)]} did not: report apart"
        )
    return any(kinds)


def encoder_folder(path: Path) -> Path:
    """The folder of the saved encoder: ``path`` itself, or its ``encoder`` if ``path`` is a run.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if (path / "encoder" / "config.json").is_file():
        return path / "encoder"
    if (path / "config.yaml").is_file():
        raise ValueError(f"{path} is a run that has saved no encoder yet: finish it with --resume")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is neither a run's folder nor a saved encoder (config.json and model.safetensors)")
    return path
