"""What an emoji means: name, keywords and skin tone in several languages; and which emoji belong together."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.data.emoji.icons import plain_hexcode
from fieldmark.data.emoji.packages import read_json, read_json_list

_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_PERSONS = frozenset({"1F468", "1F469"})  # man, woman
_PERSON = "1F9D1"
_DROPPED = frozenset({"200D", "2640", "2642", "27A1"})  # joiner, female and male sign, facing right


@dataclass(frozen=True)
class Meaning:
    """A concept in the words of one language. Each of these is a grain: an atomic part of a meaning."""

    label: str
    """The full name: "thumbs up: dark skin tone"."""
    name: str
    """The name without skin tone: "thumbs up"."""
    tone: str
    """The skin tone: "dark skin tone"; of two persons both in one phrase; empty without one."""
    keywords: tuple[str, ...]
    """What else it is searched by, and the name of its subgroup."""

    @property
    def grains(self) -> tuple[str, ...]:
        """All that is true of it, most telling first."""
        return (self.name, *((self.tone,) if self.tone else ()), *self.keywords)


@dataclass(frozen=True)
class Concept:
    """One emoji, whatever it is drawn like."""

    hexcode: str
    """Its code points, as `plain_hexcode` writes them."""
    base: str
    """Those of the same emoji without skin tone."""
    group: str
    """Key of its group: "people-body"; "other" for what emojibase gives none."""
    meanings: Mapping[str, Meaning]
    """By language."""

    @property
    def family(self) -> str:
        """The same for emoji that differ in skin tone, gender or direction only. A split must not part them."""
        parts = [_PERSON if p in _PERSONS else p for p in self.hexcode.split("-") if p not in _TONES | _DROPPED]
        return "-".join(parts) or self.hexcode


def read_concepts(folder: Path, languages: Sequence[str]) -> tuple[Concept, ...]:
    """Every emoji of emojibase-data, in the order of Unicode's charts.

    Args:
        folder: the package.
        languages: which of its languages to read, such as "en", "de", "es-mx"; the first one decides what there is.

    Raises:
        ValueError: a language is not in the package, or the package has another layout.
    """
    present = sorted(p.parent.name for p in folder.glob("*/data.json"))
    for language in languages:
        if language not in present:
            raise ValueError(f"emojibase-data has no language {language!r}: choose of {', '.join(present)}")
    words: dict[str, dict[str, Meaning]] = {}
    try:
        first = read_json_list(folder / languages[0] / "data.json")
        for language in languages:
            entries = read_json_list(folder / language / "data.json")
            words[language] = _meanings(entries, _subgroups(folder, language))
        groups = {int(k): v for k, v in read_json(folder / "meta" / "groups.json")["groups"].items()}
        ordered = sorted(_with_base(first), key=lambda pair: (pair[0].get("order", 10**9), pair[0]["hexcode"]))
        concepts = []
        for entry, base in ordered:
            key = plain_hexcode(entry["hexcode"])
            meanings = {language: words[language][key] for language in languages if key in words[language]}
            group = groups.get(entry.get("group", -1), "other")
            concepts.append(Concept(key, plain_hexcode(base["hexcode"]), group, meanings))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} has another layout than emojibase-data's ({type(error).__name__}: {error})"
        ) from error
    return tuple(concepts)


def _with_base(entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each entry and each of its skin tones, with the entry."""
    for entry in entries:
        yield entry, entry
        for skin in entry.get("skins", ()):
            yield skin, entry


def _subgroups(folder: Path, language: str) -> dict[int, str]:
    """Number of a subgroup → its name in a language."""
    keys = read_json(folder / "meta" / "groups.json")["subgroups"]
    names = {one["key"]: one["message"] for one in read_json(folder / language / "messages.json")["subgroups"]}
    return {int(number): names[key] for number, key in keys.items() if key in names}


def _meanings(entries: Sequence[Mapping[str, Any]], subgroups: Mapping[int, str]) -> dict[str, Meaning]:
    """Hexcode → meaning, in the language of the entries."""
    usual = _usual_tones(entries)
    found = {}
    for entry, base in _with_base(entries):
        name = base["label"]
        tone = ""
        if entry is not base:
            # A few names hold the tone in their midst ("person: dark skin tone, beard"): these take its usual name.
            tone = _tone_after(name, entry["label"]) or usual.get(_tone_key(entry), "")
        listed = [*base.get("tags", ()), subgroups.get(base.get("subgroup", -1), "")]
        keywords = tuple(dict.fromkeys(word for word in listed if word and word != name))
        found[plain_hexcode(entry["hexcode"])] = Meaning(entry["label"], name, tone, keywords)
    return found


def _usual_tones(entries: Sequence[Mapping[str, Any]]) -> dict[tuple[int, ...], str]:
    """Skin tones by number → what they are called most often."""
    counts: dict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
    for entry, base in _with_base(entries):
        if entry is not base and (tone := _tone_after(base["label"], entry["label"])):
            counts[_tone_key(entry)][tone] += 1
    return {key: min(count, key=lambda tone: (-count[tone], tone)) for key, count in counts.items()}


def _tone_key(entry: Mapping[str, Any]) -> tuple[int, ...]:
    tone = entry["tone"]
    return tuple(tone) if isinstance(tone, list) else (tone,)


def _tone_after(name: str, label: str) -> str:
    """The skin tone at the end of a label: "thumbs up", "thumbs up: dark skin tone" → "dark skin tone"."""
    if not label.startswith(name):
        return ""
    rest = label[len(name) :].lstrip()
    return rest[1:].strip() if rest[:1] in (":", "：") else ""


def split_concepts(
    concepts: Sequence[Concept],
    twins: Iterable[Collection[str]],
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Hexcode → split. Families stay together, and so do concepts that some style draws alike.

    Families are drawn in random order, group by group, each into the split that lacks most; so every split gets its
    share of every group.

    Args:
        twins: sets of hexcodes whose pictures are identical in some style.
        shares: split → share of the concepts; they add up to 1.
    """
    leader = {c.hexcode: c.family for c in concepts}
    parent = {family: family for family in leader.values()}

    def root(family: str) -> str:
        while parent[family] != family:
            family = parent[family]
        return family

    for alike in twins:
        first, *others = sorted({root(leader[hexcode]) for hexcode in alike})
        for other in others:
            parent[other] = first
    members: dict[str, list[Concept]] = defaultdict(list)
    for concept in concepts:
        members[root(leader[concept.hexcode])].append(concept)
    by_group: dict[str, list[list[Concept]]] = defaultdict(list)
    for together in members.values():
        by_group[together[0].group].append(together)
    counts = dict.fromkeys(shares, 0)
    split: dict[str, str] = {}
    for group in sorted(by_group):
        for number in rng.permutation(len(by_group[group])):
            together = by_group[group][int(number)]
            total = sum(counts.values()) + len(together)
            chosen = max(shares, key=lambda name: shares[name] * total - counts[name])
            counts[chosen] += len(together)
            split.update((c.hexcode, chosen) for c in together)
    return split
