"""Recipes with a few fields changed, and names that were mistyped."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

_Config = TypeVar("_Config")


def override(config: _Config, changes: Mapping[str, Any]) -> _Config:
    """A copy of nested dataclasses with dotted fields replaced, all those of one dataclass at once.

    Raises:
        ValueError: for an unknown field, with the nearest one; or from the dataclass's own checks.
    """
    here: dict[str, Any] = {}
    below: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        require_known("field", head, [f.name for f in fields(config)], name)  # type: ignore[arg-type]
        if rest and is_dataclass(getattr(config, head)):
            below.setdefault(head, {})[rest] = value
        elif rest:
            raise ValueError(f"{name}: {head} has no fields")
        else:
            here[head] = value
    parts = {head: override(getattr(config, head), rest) for head, rest in below.items()}
    return replace(config, **here, **parts)  # type: ignore[type-var]


def value_of(config: Any, name: str) -> Any:
    """The value of a dotted field.

    Raises:
        ValueError: for an unknown field, with the nearest one.
    """
    for part in name.split("."):
        require_known("field", part, [f.name for f in fields(config)] if is_dataclass(config) else (), name)
        config = getattr(config, part)
    return config


def require_known(what: str, name: str, known: Collection[str], where: str = "") -> None:
    """Raises ValueError for a name that is not among the known ones, and says which is nearest."""
    if name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    guess = f": did you mean {near[0]!r}?" if near else ""
    place = f"{where}: " if where else ""
    raise ValueError(f"{place}unknown {what} {name!r}{guess or '.'} Choose from {', '.join(known)}")
