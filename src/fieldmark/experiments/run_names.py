"""Where runs of tables and evidence lie: a folder named after what was asked for, so that tables share runs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.runs import Run
from fieldmark.models.adapters import CONFIG_FILE
from fieldmark.models.bundled import located
from fieldmark.models.embedder_files import EMBEDDER_FILE
from fieldmark.training.embedder_model import embedder_folder
from fieldmark.training.run_folder import to_plain

_LARGE = 64 * 2**20


def placed(run: Run, folder: Path, world: FieldguideConfig | None = None) -> Run:
    """The run with its folder: ``folder``/runs/NAME/seed-SEED.

    Args:
        world: the bundled world that is at ``run.config.data.path`` or will be drawn there; None: other pictures.
    """
    place = folder / "runs" / run_name(run, world) / f"seed-{run.config.seed}"
    return Run(run.training, replace(run.config, run=str(place)))


def world_folder(folder: Path, world: FieldguideConfig) -> Path:
    """Where the runs of ``folder`` share a world."""
    return folder / "worlds" / f"habitat-{world.habitat:g}-seed-{world.seed}"


def run_name(run: Run, world: FieldguideConfig | None = None) -> str:
    """Same name, same run but for its seed; another recipe, supervisor or world gives another name.

    Fields at their defaults are left out, so that a field that a later version adds renames no finished run. (Should
    a default change, the stored configuration differs and `runs.execute` refuses the folder.)
    """
    plain: dict[str, Any] = to_plain(run.resolved)
    for free in ("run", "seed", "tensorboard"):
        plain.pop(free)
    plain["data"].pop("workers")
    if "schedule" in plain:
        plain["schedule"].pop("checkpoint_every")
    if world is not None:
        plain["data"]["path"] = {key: value for key, value in asdict(world).items() if key != "seed"}
    else:
        plain["data"]["path"] = str(Path(plain["data"]["path"]).resolve())
    plain["model"]["supervisor"] = supervisor_fingerprint(plain["model"]["supervisor"])
    return name_of_choices(run.training, plain, to_plain(type(run.resolved)()))


def name_of_choices(training: str, asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """TRAINING-HASH of plain values, those at their defaults left out."""
    text = json.dumps([training, _without_defaults(asked, defaults)], sort_keys=True)
    return f"{training}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def supervisor_fingerprint(supervisor: str) -> str:
    """Tells checkpoints apart: configuration, names and sizes of the weights, and small weights themselves."""
    folder = Path(located(supervisor))
    if not folder.is_dir():
        return supervisor  # a hub id
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        if size <= _LARGE:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def embedder_fingerprint(base: str) -> str:
    """Tells embedders apart: a saved one, or a run's, by its files; anything else as `supervisor_fingerprint` does."""
    named = embedder_folder(base)
    folder = Path(located(named))
    if not (folder / EMBEDDER_FILE).is_file():
        return supervisor_fingerprint(named)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in (EMBEDDER_FILE, CONFIG_FILE):
            content = json.loads(path.read_text(encoding="utf-8"))
            for place in ("base", "base_model_name_or_path"):  # where it lay, which changes from machine to machine
                content.pop(place, None)
            digest.update(f"{name} {json.dumps(content, sort_keys=True)}\n".encode())
        elif path.suffix == ".safetensors":
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            if path.stat().st_size <= _LARGE:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _without_defaults(value: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for key, item in value.items():
        if key in default and item == default[key]:
            continue
        nested = isinstance(item, Mapping) and isinstance(default.get(key), Mapping)
        chosen[key] = _without_defaults(item, default[key]) if nested else item
    return chosen
