"""Asking for attributes and reading the answers; the YAML that people edit."""

from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.policy.attribute_answers import discovery_prompt, named_attributes, read_summary, usable_name
from fieldmark.policy.prompts import pair_prompt, reference_answer, summary_text
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.policy.vocabulary_file import vocabulary_yaml

BIRDS = load_vocabulary("fieldguide")


def test_prompts() -> None:
    text = discovery_prompt(BIRDS, "list")
    assert '{"bird_1": {"<attribute>": "<value>"}, "bird_2": {"<attribute>": "<value>"}}' in text
    assert not any(name in text for name in BIRDS.all_attributes)  # nothing is put into its mouth
    assert discovery_prompt(BIRDS, "differences") == pair_prompt(BIRDS, "generic")
    with pytest.raises(ValueError, match="list or differences"):
        discovery_prompt(BIRDS, "guess")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            '{"bird_1": {"Bill_Shape": "hooked"}, "bird_2": {"bill shape": "flat", "crest": "no"}}',
            ("bill shape", "crest"),
        ),
        ('Well, {braces} ```json\n{"bird_1": {"crest": "red"}}\n```', ("crest",)),
        ('{"bird_1": {"a \\"b\\"": "x", "": "y", "so, what": "z", "12": "w", "crest": "v"}}', ("crest",)),
        ('{"bird_1": {}}', ()),
        ('{"bird_3": {"crest": "red"}}', None),
        ('{"bird_1": {"crest": "red"', None),
        ("crest: red", None),
    ],
)
def test_names_in_a_list(text: str, names: tuple[str, ...] | None) -> None:
    assert named_attributes(text, BIRDS, "list") == names


def test_names_in_differences() -> None:
    marks = dict.fromkeys(BIRDS.attributes, "x")
    text = reference_answer(BIRDS, marks, marks, True, "generic")
    assert named_attributes(text, BIRDS, "differences") == BIRDS.attributes
    free = '{"differences": "Bird 1 is red. Crest: none vs red; leg_color: pink vs green", "same_species": "no"}'
    assert named_attributes(free, BIRDS, "differences") == ("crest", "leg color")
    assert named_attributes('{"same_species": "no"}', BIRDS, "differences") is None


def test_usable_names() -> None:
    assert usable_name("  Head__Shape ") == "head shape"
    assert usable_name("engine type (jet / piston)") == "engine type (jet / piston)"
    assert [usable_name(n) for n in ("", "x" * 61, "a, b", 'a"b', "a: b", "(jet)", "a\x00b")] == [None] * 7


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (summary_text({"eye": "red", "eye ring": "none"}), {"eye": "red", "eye ring": "none"}),
        ("Eye ring: white; EYE - dark brown", {"eye ring": "white", "eye": "dark brown"}),
        ("- eye black, glossy\n- eye_ring pale", {"eye": "black, glossy", "eye ring": "pale"}),
        ("a nice bird, eye red", {"eye": "red"}),
        ("eye red, eye blue, eye ring white", {"eye ring": "white"}),
        ("eye, eye ring white", {"eye ring": "white"}),
        ("eyes red", {}),
        ("", {}),
    ],
)
def test_summaries(text: str, values: dict[str, str]) -> None:
    assert read_summary(text, ["eye", "eye ring"]) == values


def test_a_hint_in_the_name_is_not_the_value() -> None:
    name = "engine (jet / piston)"
    assert read_summary("engine (jet / piston) jet", [name]) == read_summary("engine jet", [name]) == {name: "jet"}


def test_yaml_can_be_read_again_whatever_the_names(tmp_path: Path) -> None:
    odd = replace(
        BIRDS, attributes=("no", "12 h", "# crest", "bill shape"), other_attributes=("yes", "null"), name="odd"
    )
    text = vocabulary_yaml(odd, {"no": "two\nlines # \x1b[0m", "yes": "seen"}, ["made for a\ntest"])
    assert text.startswith("# made for a test\n") and "# two lines # [0m\n" in text
    path = tmp_path / "odd.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_vocabulary(path) == odd
    for name in ("birds", "cars", "aircraft", "fieldguide"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(vocabulary_yaml(load_vocabulary(name), {}), encoding="utf-8")
        assert load_vocabulary(path) == load_vocabulary(name)
