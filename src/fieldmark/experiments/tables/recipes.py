"""Recipes: the YAML files that a training command takes with --config."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

_Config = TypeVar("_Config")


def read_recipe(kind: type[_Config], path: Path) -> _Config:
    """The configuration that a file holds; what it leaves out is at its default.

    Raises:
        ValueError: if the file is missing or does not fit the dataclass ``kind``.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: the recipes are part of the repository, run from a checkout of it")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    parsed: Any = parser.instantiate(parser.parse_path(str(path)))
    return kind(**{f.name: parsed[f.name] for f in fields(kind)})  # type: ignore[arg-type]
