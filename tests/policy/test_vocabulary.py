"""Vocabularies: the bundled facts, and errors that say what to do."""

from pathlib import Path

import pytest
import yaml

from fieldmark.policy.vocabulary import Vocabulary, attribute_key, bundled_vocabularies, load_vocabulary


@pytest.mark.parametrize(
    ("name", "count", "expert", "verdict_key", "items"),
    [
        ("birds", 28, "ornithologist", "same_species", "birds"),
        ("cars", 17, "automotive expert", "same_model", "cars"),
        ("aircraft", 17, "aviation expert", "same_variant", "aircraft"),
        ("fieldguide", 8, "ornithologist", "same_species", "birds"),
    ],
)
def test_bundled(name: str, count: int, expert: str, verdict_key: str, items: str) -> None:
    vocabulary = load_vocabulary(name)
    assert (vocabulary.name, len(vocabulary.attributes)) == (name, count)
    assert (vocabulary.expert, vocabulary.verdict_key, vocabulary.items) == (expert, verdict_key, items)
    assert name in bundled_vocabularies()


def test_fieldguide_asks_for_plumage_only_by_name() -> None:
    vocabulary = load_vocabulary("fieldguide")
    assert vocabulary.attributes == (
        "bill shape",
        "bill color",
        "breast pattern",
        "wing pattern",
        "mark color",
        "tail shape",
        "eye ring",
        "leg color",
    )
    assert vocabulary.other_attributes == ("crown color", "back color", "belly color")
    assert vocabulary.select() == vocabulary.attributes
    assert vocabulary.select(["belly color", "bill shape"]) == ("belly color", "bill shape")


@pytest.mark.parametrize("wrong", [[], "bill shape", ["beak"], ["bill shape", "bill shape"]])
def test_select_refuses(wrong: object) -> None:
    with pytest.raises(ValueError, match="attribute"):
        load_vocabulary("fieldguide").select(wrong)  # type: ignore[arg-type]


def content() -> dict[str, object]:
    return {
        "expert": "mycologist",
        "prefix": "Fungus",
        "identifies": "mushroom species",
        "targets": "mushrooms",
        "item": "mushroom",
        "items": "mushrooms",
        "example": "white, bell-shaped",
        "verdict_label": "Same species",
        "verdict_question": "same species",
        "verdict_key": "same_species",
        "attributes": ["cap shape", "gill color"],
    }


def write(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_user_vocabulary(tmp_path: Path) -> None:
    loaded = load_vocabulary(write(tmp_path / "fungi.yaml", content()))
    assert isinstance(loaded, Vocabulary)
    assert loaded.name == "fungi"
    assert loaded.attributes == ("cap shape", "gill color")
    assert loaded.item_keys == ("mushroom_1", "mushroom_2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": []}, "empty list of attributes"),
        ({"attributes": ["cap shape", "Cap_Shape"]}, "'Cap_Shape' twice"),
        ({"attributes": ["cap shape"], "other_attributes": ["cap shape"]}, "twice"),
        ({"attributes": "cap shape"}, "must be a list"),
        ({"attributes": ["cap, shape"]}, "without commas"),
        ({"attributes": [3]}, "must be a text"),
        ({"item": None}, "item must be a text"),
        ({"expert": "  "}, "expert is empty"),
        ({"example": 'so "big"'}, "without quotation marks"),
        ({"expert": "two\nlines"}, "one line"),
        ({"attribute": ["x"]}, "unknown key 'attribute'; known keys: expert"),
        ({"verdict_key": "differences"}, "used by another answer key"),
        ({"verdict_key": "mushroom_1"}, "used by another answer key"),
    ],
)
def test_user_vocabulary_errors(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_vocabulary(write(tmp_path / "v.yaml", content() | change))


def test_missing_placeholder_file_and_yaml(tmp_path: Path) -> None:
    values = content()
    del values["targets"]
    with pytest.raises(ValueError, match="lacks targets; add a line 'targets"):
        load_vocabulary(write(tmp_path / "v.yaml", values))
    with pytest.raises(ValueError, match="must be a mapping"):
        load_vocabulary(write(tmp_path / "list.yaml", ["a"]))
    with pytest.raises(ValueError, match="one of aircraft, birds, cars, fieldguide"):
        load_vocabulary("bird")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [", encoding="utf-8")
    with pytest.raises(ValueError, match="not readable as YAML"):
        load_vocabulary(broken)


def test_attribute_key() -> None:
    assert attribute_key("Engine_Type") == attribute_key(" engine  type (turbofan / jet)") == "engine type"
    assert attribute_key("eye color") != attribute_key("eye ring")
