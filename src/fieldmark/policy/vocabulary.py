"""Vocabularies: what a supervisor is asked to look at, and the words that the prompts use for it.

A vocabulary is a small YAML file. Four are bundled (``birds``, ``cars``, ``aircraft``, ``fieldguide``); users
write their own and pass its path. Facts of the bundled ones: SAGA (arXiv 2606.15134), appendix E.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

_LISTS = ("attributes", "other_attributes")


@dataclass(frozen=True)
class Vocabulary:
    """The placeholders of the prompts and the attributes of one kind of object.

    Every text is one line. ``verdict_key`` is the key of the verdict in the JSON answer, ``{item}_1`` and
    ``{item}_2`` are those of the descriptions.
    """

    name: str
    """How the vocabulary is called: the file's name without its ending."""
    expert: str
    """Role that the prompt gives to the model: "ornithologist"."""
    prefix: str
    """Adjective of the field: "Bird" (as in "bird specialists")."""
    identifies: str
    """What the expert identifies: "bird species"."""
    targets: str
    """What is to be told apart, plural: "species"."""
    item: str
    """What one picture shows: "bird"."""
    items: str
    """Its plural: "birds"."""
    example: str
    """One example of a short description."""
    verdict_label: str
    """Headline of the verdict: "Same species"."""
    verdict_question: str
    """What the two pictures may share: "same species"."""
    verdict_key: str
    """Key of the verdict in the answer: "same_species"."""
    attributes: tuple[str, ...]
    """Asked for by default, in this order."""
    other_attributes: tuple[str, ...] = ()
    """May be asked for by name, but are not asked for by default."""

    @property
    def all_attributes(self) -> tuple[str, ...]:
        """Default attributes, then the others."""
        return self.attributes + self.other_attributes

    @property
    def item_keys(self) -> tuple[str, str]:
        """Keys of the two descriptions in the answer."""
        return f"{self.item}_1", f"{self.item}_2"

    def select(self, attributes: Sequence[str] | None = None) -> tuple[str, ...]:
        """The attributes to ask for: those given (in the given order), or all default ones for None.

        Raises:
            ValueError: for an empty list, a repeated name, or one that the vocabulary does not have.
        """
        if attributes is None:
            return self.attributes
        chosen = tuple(attributes)
        if isinstance(attributes, str) or not chosen:
            raise ValueError(f"attributes must be a non-empty list of names, got {attributes!r}; pass None for all")
        unknown = [name for name in chosen if name not in self.all_attributes]
        if unknown:
            raise ValueError(
                f"vocabulary {self.name!r} has no attribute {unknown[0]!r}; it has {', '.join(self.all_attributes)}"
            )
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"attributes are named twice in {list(chosen)}")
        return chosen


def bundled_vocabularies() -> tuple[str, ...]:
    """Names of the bundled vocabularies, sorted."""
    folder = resources.files("fieldmark.policy") / "vocabularies"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """Load a bundled vocabulary by name, or a user's by the path of its YAML file.

    Raises:
        ValueError: if it is neither a bundled name nor a readable file, or if its content is not a
            vocabulary; the message says which key is wrong and what belongs there.
    """
    text: str
    if isinstance(name_or_path, str) and name_or_path in bundled_vocabularies():
        name = name_or_path
        resource = resources.files("fieldmark.policy") / "vocabularies" / f"{name}.yaml"
        text = resource.read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ValueError(
                f"no vocabulary {str(name_or_path)!r}: give one of {', '.join(bundled_vocabularies())}, "
                "or the path of a YAML file"
            )
        name, text = path.stem, path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"vocabulary {str(name_or_path)!r} is not readable as YAML: {error}") from error
    return _build(name, content, str(name_or_path))


def _build(name: str, content: Any, source: str) -> Vocabulary:
    """Check every key of the file's content and build the vocabulary."""
    if not isinstance(content, dict):
        raise ValueError(f"vocabulary {source!r} must be a mapping of keys to values, got {type(content).__name__}")
    known = [field.name for field in fields(Vocabulary) if field.name != "name"]
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"vocabulary {source!r} has the unknown key {unknown[0]!r}; known keys: {', '.join(known)}")
    missing = [key for key in known if key not in content and key != "other_attributes"]
    if missing:
        raise ValueError(f"vocabulary {source!r} lacks {', '.join(missing)}; add a line '{missing[0]}: ...'")
    texts = {key: _text(content[key], key, source) for key in known if key not in _LISTS}
    lists = {key: _names(content.get(key) or [], key, source) for key in _LISTS}
    if not lists["attributes"]:
        raise ValueError(f"vocabulary {source!r} has an empty list of attributes; name at least one")
    seen: dict[str, str] = {}
    for attribute in lists["attributes"] + lists["other_attributes"]:
        key = attribute_key(attribute)
        if key in seen:
            raise ValueError(f"vocabulary {source!r} names {attribute!r} twice (also as {seen[key]!r}); remove one")
        seen[key] = attribute
    reserved = {f"{texts['item']}_1", f"{texts['item']}_2", "differences", "confidence", "reasoning"}
    if texts["verdict_key"] in reserved:
        raise ValueError(f"vocabulary {source!r}: verdict_key {texts['verdict_key']!r} is used by another answer key")
    values: dict[str, Any] = {**texts, **lists}
    return Vocabulary(name=name, **values)


def _text(value: Any, key: str, source: str) -> str:
    """One line of text that can stand in a prompt and in a JSON key."""
    if not isinstance(value, str):
        raise ValueError(f"vocabulary {source!r}: {key} must be a text, got {value!r}; put it in quotes")
    clean = value.strip()
    if not clean:
        raise ValueError(f"vocabulary {source!r}: {key} is empty; write the words that the prompt shall use")
    if not clean.isprintable() or '"' in clean or "\\" in clean:
        raise ValueError(
            f"vocabulary {source!r}: {key} {clean!r} must be one line without quotation marks and backslashes"
        )
    return clean


def _names(values: Any, key: str, source: str) -> tuple[str, ...]:
    """A list of attribute names; no commas, since the prompt lists the names comma-separated."""
    if not isinstance(values, list):
        raise ValueError(f"vocabulary {source!r}: {key} must be a list, got {values!r}; write one '- name' per line")
    names = tuple(_text(value, f"an entry of {key}", source) for value in values)
    for name in names:
        if "," in name or not attribute_key(name):
            raise ValueError(f"vocabulary {source!r}: attribute {name!r} must be a name without commas")
    return names


def attribute_key(name: str) -> str:
    """Form in which attribute names are compared: case, underscores, and a hint in parentheses do not count.

    ``"Engine_Type"`` and ``"engine type (turbofan / jet)"`` are the same attribute; a model may write either.
    """
    without_hint = re.sub(r"\s*\([^()]*\)\s*$", "", name)
    return " ".join(without_hint.replace("_", " ").casefold().split())
