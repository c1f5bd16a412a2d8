"""Vocabularies on the way to a YAML file that people read and edit."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import yaml

from fieldmark.policy.vocabulary import Vocabulary

_WIDTH = 10**6


def vocabulary_yaml(vocabulary: Vocabulary, remarks: Mapping[str, str], header: Sequence[str] = ()) -> str:
    """A vocabulary as YAML, in the format of the bundled ones: ``load_vocabulary`` reads it again.

    Args:
        remarks: attribute → remark, written as a comment behind it; control characters become blanks.
        header: comment lines at the beginning.
    """
    lines = [f"# {_one_line(line)}".rstrip() for line in header]
    for field in fields(Vocabulary):
        value = getattr(vocabulary, field.name)
        if field.name == "name" or (field.name == "other_attributes" and not value):
            continue
        if isinstance(value, str):
            lines.append(f"{field.name}: {_scalar(value)}")
            continue
        lines.append(f"{field.name}:")
        names = [f"  - {_scalar(name)}" for name in value]
        width = max(map(len, names), default=0)
        for name, text in zip(value, names, strict=True):
            remark = _one_line(remarks.get(name, ""))
            lines.append(f"{text:<{width}}  # {remark}" if remark else text)
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """One YAML scalar, in quotation marks where it needs them ("no", "1", "a: b")."""
    dumped: str = yaml.safe_dump([text], default_flow_style=True, allow_unicode=True, width=_WIDTH)
    return dumped.strip()[1:-1]


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
