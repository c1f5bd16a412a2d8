"""What a Fieldguide species is: eight field marks, a habitat, and plumage that says nothing about it.

Species are decided by eight *field marks*. Plumage colours and posture vary within a species, so an encoder that
spends its capacity on them learns nothing about species. Look-alike *siblings* (one genus) differ in one or two marks.

Evaluation species are taken from a fixed *reserved* third of all mark combinations, chosen by hash, whatever the seed
of the world. Whoever trains a model on Fieldguide drawings (the bundled MLLM does) draws from the other two thirds
only.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

FIELD_MARKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bill shape": ("hooked", "conical", "needle", "curved", "spatulate"),
        "bill color": ("yellow", "red", "black", "blue"),
        "breast pattern": ("plain", "spotted", "streaked", "banded", "bibbed"),
        "wing pattern": ("barred", "patched", "dotted", "edged", "chevroned"),
        "mark color": ("white", "yellow", "red", "blue"),
        "tail shape": ("forked", "fanned", "pointed", "square", "streaming"),
        "eye ring": ("none", "white", "yellow", "red"),
        "leg color": ("orange", "black", "pink", "green"),
    }
)
"""Attribute name → its values. The order is the order in which answers list them."""

PLUMAGE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "crown color": ("brown", "gray", "olive", "rust", "teal"),
        "back color": ("brown", "gray", "olive", "rust", "teal"),
        "belly color": ("cream", "ash", "buff", "peach", "mint"),
    }
)
"""Attributes that vary *within* a species: true of a picture, useless for telling species apart."""

RESERVED_SHARE = 3  # one combination in three is kept for evaluation species


def is_reserved(marks: Mapping[str, str]) -> bool:
    """Whether this combination of field marks belongs to evaluation species.

    A property of the combination alone: it depends on no seed, so no world can leak another's test species.
    """
    key = "|".join(f"{name}={marks[name]}" for name in FIELD_MARKS)
    return hashlib.sha256(key.encode()).digest()[0] % RESERVED_SHARE == 0


@dataclass(frozen=True)
class Species:
    """One species: its name, genus (look-alikes share it), field marks (name → value), and own habitat's seed."""

    name: str
    genus: int
    marks: Mapping[str, str]
    habitat: int
    evaluation: bool

    def differing_marks(self, other: "Species") -> list[str]:
        """Names of the field marks in which the two species differ."""
        return [name for name in FIELD_MARKS if self.marks[name] != other.marks[name]]


def random_marks(rng: np.random.Generator, *, reserved: bool) -> dict[str, str]:
    """One combination of field marks, uniform over the reserved (or the free) combinations."""
    while True:
        marks = {name: values[rng.integers(len(values))] for name, values in FIELD_MARKS.items()}
        if is_reserved(marks) == reserved:
            return marks


def sibling_marks(rng: np.random.Generator, base: Mapping[str, str], *, reserved: bool) -> dict[str, str]:
    """A look-alike of ``base``: one or two marks changed, on the same side of the reservation."""
    while True:
        marks = dict(base)
        for name in rng.permutation(list(FIELD_MARKS))[: rng.integers(1, 3)]:
            others = [value for value in FIELD_MARKS[name] if value != base[name]]
            marks[str(name)] = others[rng.integers(len(others))]
        if is_reserved(marks) == reserved:
            return marks


def random_plumage(rng: np.random.Generator) -> dict[str, str]:
    """Plumage colours of one picture."""
    return {name: values[rng.integers(len(values))] for name, values in PLUMAGE.items()}


def draw_species(
    count: int, *, evaluation: bool, siblings: int, rng: np.random.Generator, first: int = 0
) -> list[Species]:
    """Draw ``count`` species in genera of ``siblings`` look-alikes, all combinations distinct.

    Args:
        count: number of species.
        evaluation: draw from the reserved combinations (evaluation) or from the free ones (training).
        siblings: species per genus; 1 means no look-alikes.
        rng: the only source of randomness.
        first: number of the first species, so that names of several draws do not collide.

    Raises:
        ValueError: if ``count`` or ``siblings`` is not positive.
    """
    if count < 1 or siblings < 1:
        raise ValueError(f"species count and siblings must be positive, got {count} and {siblings}")
    seen: set[tuple[str, ...]] = set()
    species: list[Species] = []
    genus = first
    while len(species) < count:
        base = random_marks(rng, reserved=evaluation)
        genus_name = _name(rng)
        for k in range(min(siblings, count - len(species))):
            marks = base if k == 0 else sibling_marks(rng, base, reserved=evaluation)
            while tuple(marks.values()) in seen:
                marks = sibling_marks(rng, base, reserved=evaluation)
            seen.add(tuple(marks.values()))
            number = first + len(species)
            species.append(
                Species(
                    name=f"{number:03d}.{genus_name}_{_name(rng)}",
                    genus=genus,
                    marks=MappingProxyType(marks),
                    habitat=int(rng.integers(2**31)),
                    evaluation=evaluation,
                )
            )
        genus += 1
    return species


def _name(rng: np.random.Generator) -> str:
    """A pronounceable word, so that people can talk about the classes."""
    onsets, vowels, codas = (
        ["b", "c", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"],
        ["a", "e", "i", "o", "u"],
        ["", "n", "r", "s", "l"],
    )
    syllables = [
        onsets[rng.integers(len(onsets))] + vowels[rng.integers(len(vowels))] + codas[rng.integers(len(codas))]
        for _ in range(rng.integers(2, 4))
    ]
    return "".join(syllables)
