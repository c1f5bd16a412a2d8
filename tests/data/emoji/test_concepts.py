from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.data.emoji.miniature import EMOJI, miniature, write_installed

from fieldmark.data.emoji.concepts import Concept, Meaning, read_concepts, split_concepts
from fieldmark.data.emoji.packages import EMOJIBASE


def test_every_emoji_with_every_skin_tone_is_there(concepts: dict[str, Concept]) -> None:
    assert len(concepts) == len(EMOJI) + sum(one[-1] for one in EMOJI)
    assert next(iter(concepts)) == "1F44D" and list(concepts)[-1] == "1F1E6", "charts' order; without a place: last"


def test_meaning_in_both_languages(concepts: dict[str, Concept]) -> None:
    dark = concepts["1F44D-1F3FF"]
    assert (dark.base, dark.group) == ("1F44D", "people-body")
    assert dark.meanings["en"] == Meaning(
        "thumbs up: dark skin tone", "thumbs up", "dark skin tone", ("hand", "like", "up", "hands")
    )
    assert dark.meanings["de"] == Meaning(
        "Daumen hoch: dunkle Hautfarbe", "Daumen hoch", "dunkle Hautfarbe", ("hand", "gut", "Hände")
    )
    assert dark.meanings["en"].grains == ("thumbs up", "dark skin tone", "hand", "like", "up", "hands")
    assert concepts["1F44D"].meanings["en"].tone == ""


def test_tone_in_the_midst_of_a_name_is_called_as_elsewhere(concepts: dict[str, Concept]) -> None:
    beard = concepts["1F9D4-1F3FB"].meanings["en"]
    assert beard.label == "person: light skin tone, beard"
    assert (beard.name, beard.tone) == ("person: beard", "light skin tone")


def test_what_has_no_group_has_neither_keywords(concepts: dict[str, Concept]) -> None:
    letter = concepts["1F1E6"]
    assert letter.group == "other" and letter.meanings["en"].keywords == ()


def concept(hexcode: str) -> Concept:
    return Concept(hexcode, hexcode, "g", {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F3C3", "1F3C3-200D-2640"),  # runner, woman
        ("1F3C3-1F3FF", "1F3C3-200D-2642-200D-27A1"),  # dark; man, facing right
        ("1F468-200D-2695", "1F9D1-1F3FB-200D-2695"),  # man and person as health worker
        ("1F468", "1F469"),
    ],
)
def test_family_is_what_differs_in_skin_tone_gender_or_direction(one: str, other: str) -> None:
    assert concept(one).family == concept(other).family


@pytest.mark.parametrize(("one", "other"), [("1F3C3", "1F3C4"), ("2640", "2642"), ("1F1EB-1F1F7", "1F1E8-1F1F5")])
def test_others_are_families_of_their_own(one: str, other: str) -> None:
    assert concept(one).family != concept(other).family


def test_unknown_language_is_told_with_those_there_are(installed: Path) -> None:
    with pytest.raises(ValueError, match=r"no language 'tlh': choose of de, en"):
        read_concepts(installed / "node_modules" / EMOJIBASE, ("en", "tlh"))


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("en/data.json", [{"label": "no hexcode"}]),
        ("en/data.json", [17]),
        ("en/messages.json", {}),
        ("meta/groups.json", {"groups": {}}),
        ("meta/groups.json", {"groups": [], "subgroups": {}}),
    ],
)
def test_other_layouts_are_told(tmp_path: Path, file: str, value: object) -> None:
    packages = miniature()
    packages[EMOJIBASE][file] = value
    with pytest.raises(ValueError, match="another layout"):
        read_concepts(write_installed(tmp_path, packages) / "node_modules" / EMOJIBASE, ("en",))


# ---- the split


def many(groups: int = 3, families: int = 40) -> list[Concept]:
    """Families of one to four concepts."""
    return [
        Concept(f"{0x3000 + 100 * g + f:X}" + ("" if k == 0 else f"-1F3FB{'-200D' * k}"), "", f"group {g}", {})
        for g in range(groups)
        for f in range(families)
        for k in range(1 + f % 4)
    ]


def test_families_stay_together_and_every_split_gets_its_share_of_every_group() -> None:
    concepts = many()
    shares = {"train": 0.45, "val": 0.05, "test": 0.5}
    split = split_concepts(concepts, [], shares, np.random.default_rng(0))
    assert split.keys() == {c.hexcode for c in concepts}
    of_family: dict[str, set[str]] = {}
    for one in concepts:
        of_family.setdefault(one.family, set()).add(split[one.hexcode])
    assert all(len(found) == 1 for found in of_family.values()) and len(of_family) == 120
    by_group = Counter((c.group, split[c.hexcode]) for c in concepts)
    for group in {c.group for c in concepts}:
        for name, share in shares.items():
            assert by_group[group, name] == pytest.approx(100 * share, abs=4)


def test_what_looks_alike_stays_together_even_in_chains() -> None:
    concepts = many()
    single = [c.hexcode for c in concepts if "-" not in c.hexcode]
    twins = [{single[0], single[50]}, {single[50], single[100]}, {single[1], single[2]}]
    shares = {"train": 0.5, "test": 0.5}
    for seed in range(8):
        split = split_concepts(concepts, twins, shares, np.random.default_rng(seed))
        assert split[single[0]] == split[single[50]] == split[single[100]]
        assert split[single[1]] == split[single[2]]


def test_split_depends_on_the_seed_only() -> None:
    shares = {"train": 0.5, "test": 0.5}
    first, again, other = (split_concepts(many(), [], shares, np.random.default_rng(s)) for s in (0, 0, 1))
    assert first == again != other
