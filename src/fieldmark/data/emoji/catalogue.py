"""All pictures and texts of the collection as candidates: what each shows or says, and what is true of it.

A picture that a style uses for several emoji (Twemoji draws one flag for France and Clipperton) shows all of them, and
what is true of any of them is true of it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from fieldmark.data.emoji.concepts import Concept
from fieldmark.data.multimodal.mbeir_writing import NewCandidate

DEFAULT_TONE = "default skin tone"
"""True of an emoji without skin tone that also exists with one."""


def style_grain(title: str) -> str:
    """The style as part of a meaning: "in the style of Noto Emoji"."""
    return f"in the style of {title}"


def entity_grain(name: str) -> str:
    """Which emoji it is: "the emoji cat". The bare word "cat" is also true of a cat's face."""
    return f"the emoji {name}"


@dataclass(frozen=True)
class Picture:
    """One drawing of one emoji."""

    style: str
    hexcode: str
    path: str
    """Below the root of the collection."""
    shows: frozenset[str]
    """Hexcodes of all emoji that this style draws just so, its own included."""


@dataclass(frozen=True)
class Text:
    """A name, or a line of keywords."""

    text: str
    means: frozenset[str]
    """Hexcodes of all emoji that it belongs to."""


@dataclass(frozen=True)
class Catalogue:
    """What there is, and in which split. Candidates are numbered: pictures first, then texts."""

    concepts: tuple[Concept, ...]
    """Those that have a picture."""
    pictures: tuple[Picture, ...]
    titles: Mapping[str, str]
    """Style → its name in words."""
    languages: tuple[str, ...]
    """The first one is English."""
    split: Mapping[str, str]
    """Hexcode → split."""

    @cached_property
    def tones(self) -> dict[str, tuple[Concept, ...]]:
        """Base → the emoji in all its skin tones, the default one included; only what has several."""
        found: dict[str, list[Concept]] = defaultdict(list)
        for concept in self.concepts:
            found[concept.base].append(concept)
        return {base: tuple(members) for base, members in found.items() if len(members) > 1}

    def picture_grains(self, concept: Concept) -> tuple[str, ...]:
        """What a picture of it says, in English: which emoji, in which skin tone."""
        meaning = concept.meanings[self.languages[0]]
        tone = meaning.tone or (DEFAULT_TONE if concept.base in self.tones else "")
        entity = entity_grain(meaning.name)
        return (entity, tone) if tone else (entity,)

    @cached_property
    def picture_candidates(self) -> tuple[NewCandidate, ...]:
        """One for each picture, in their order."""
        return tuple(
            NewCandidate(
                number,
                image=picture.path,
                facts=(*self._facts(picture.shows), style_grain(self.titles[picture.style])),
                source={"emoji": picture.hexcode, "style": picture.style},
            )
            for number, picture in enumerate(self.pictures)
        )

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """Names in every language, keywords in English; each text once, within its split."""
        means: dict[tuple[str, str], set[str]] = defaultdict(set)
        for concept in self.concepts:
            split = self.split[concept.hexcode]
            for meaning in concept.meanings.values():
                means[split, meaning.label].add(concept.hexcode)
            english = concept.meanings[self.languages[0]]
            if english.keywords:
                tone = (english.tone,) if english.tone else ()
                means[split, ", ".join((*english.keywords, *tone))].add(concept.hexcode)
        return tuple(Text(text, frozenset(hexcodes)) for (_, text), hexcodes in means.items())

    @cached_property
    def text_candidates(self) -> tuple[NewCandidate, ...]:
        """One for each text, in their order. True of it are name and skin tone of what it belongs to."""
        english = {concept.hexcode: self.picture_grains(concept) for concept in self.concepts}
        return tuple(
            NewCandidate(
                number,
                text=text.text,
                facts=tuple(sorted({grain for hexcode in text.means for grain in english[hexcode]})),
            )
            for number, text in enumerate(self.texts, start=len(self.pictures))
        )

    @cached_property
    def facts(self) -> dict[str, frozenset[str]]:
        """Hexcode → all grains that are true of the emoji, in all languages."""
        return {
            concept.hexcode: frozenset(
                [grain for meaning in concept.meanings.values() for grain in meaning.grains]
                + list(self.picture_grains(concept))
            )
            for concept in self.concepts
        }

    def _facts(self, hexcodes: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(frozenset().union(*(self.facts[hexcode] for hexcode in hexcodes))))


@dataclass(frozen=True)
class SplitView:
    """The part of a catalogue that belongs to one split."""

    catalogue: Catalogue
    split: str

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """By hexcode."""
        return {c.hexcode: c for c in self.catalogue.concepts if self.catalogue.split[c.hexcode] == self.split}

    def pictures(self, styles: Collection[str]) -> list[int]:
        """Numbers of the pictures in some styles."""
        return [n for n, p in enumerate(self.catalogue.pictures) if p.style in styles and p.hexcode in self.concepts]

    @cached_property
    def texts(self) -> list[int]:
        """Numbers of the texts."""
        texts = enumerate(self.catalogue.texts, start=len(self.catalogue.pictures))
        return [number for number, text in texts if text.means & self.concepts.keys()]

    def with_fact(self, styles: Collection[str]) -> dict[str, frozenset[int]]:
        """Grain → numbers of the pictures in some styles of which it is true."""
        found: dict[str, set[int]] = defaultdict(set)
        for number in self.pictures(styles):
            for fact in self.catalogue.picture_candidates[number].facts:
                found[fact].add(number)
        return {fact: frozenset(numbers) for fact, numbers in found.items()}

    def showing(self, styles: Collection[str]) -> dict[str, list[int]]:
        """Hexcode → numbers of the pictures in some styles that show it."""
        found: dict[str, list[int]] = defaultdict(list)
        for number in self.pictures(styles):
            for hexcode in self.catalogue.pictures[number].shows:
                found[hexcode].append(number)
        return found

    @cached_property
    def naming(self) -> dict[str, list[int]]:
        """Hexcode → numbers of the texts that belong to it."""
        found: dict[str, list[int]] = defaultdict(list)
        for number in self.texts:
            for hexcode in self.catalogue.texts[number - len(self.catalogue.pictures)].means:
                found[hexcode].append(number)
        return found

    @cached_property
    def by_fact(self) -> dict[str, frozenset[str]]:
        """Grain → hexcodes of the emoji of which it is true."""
        found: dict[str, set[str]] = defaultdict(set)
        for hexcode in self.concepts:
            for fact in self.catalogue.facts[hexcode]:
                found[fact].add(hexcode)
        return {fact: frozenset(hexcodes) for fact, hexcodes in found.items()}
