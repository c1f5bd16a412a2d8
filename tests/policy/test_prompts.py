"""Prompts and canonical answers: structure, and that every text is made of the documented pieces."""

import json

import pytest

from fieldmark.policy import prompts
from fieldmark.policy.prompts import SEPARATOR
from fieldmark.policy.verdicts import parse_verdict
from fieldmark.policy.vocabulary import Vocabulary, bundled_vocabularies, load_vocabulary

NAMES = bundled_vocabularies()


@pytest.fixture(params=NAMES)
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return load_vocabulary(request.param)


def cut(text: str, pieces: tuple[str, ...]) -> list[str]:
    """Leftmost-longest cutting into known pieces, as a tokenizer does with added tokens."""
    out = []
    while text:
        fitting = [piece for piece in pieces if text.startswith(piece)]
        assert fitting, f"no piece begins {text[:40]!r}"
        out.append(max(fitting, key=len))
        text = text[len(out[-1]) :]
    return out


def test_structured_has_the_five_parts_in_order(vocabulary: Vocabulary) -> None:
    text = prompts.pair_prompt(vocabulary)
    names = ", ".join(vocabulary.attributes)
    first, second = vocabulary.item_keys
    landmarks = [
        vocabulary.expert,
        names,
        "1. ",
        vocabulary.example,
        "2. ",
        "3. Differences",
        "4. " + vocabulary.verdict_label,
        vocabulary.verdict_question,
        f'{{"{first}": {{"<attribute>"',
        f'"{second}"',
        '"differences"',
        '"confidence"',
        '"reasoning"',
        f'"{vocabulary.verdict_key}"',
    ]
    position = -1
    for landmark in landmarks:
        position = text.index(landmark, position + 1)
    assert text.count(names) == 1
    assert any(names in line for line in text.splitlines())
    assert len(text.split()) - len(names.split()) <= 170


def test_prompts_are_concatenated_pieces(vocabulary: Vocabulary) -> None:
    for style in ("structured", "generic"):
        parts = prompts.pair_prompt_parts(vocabulary, style)
        assert "".join(parts) == prompts.pair_prompt(vocabulary, style)
        pieces = prompts.prompt_pieces(vocabulary, style)
        assert [part for part in parts if part in pieces] == list(pieces)
        assert set(parts) <= {*pieces, *vocabulary.attributes, SEPARATOR}
        assert len(set(pieces)) == len(pieces)
    parts = prompts.describe_prompt_parts(vocabulary)
    assert "".join(parts) == prompts.describe_prompt(vocabulary)
    assert set(parts) <= {*prompts.describe_pieces(vocabulary), *vocabulary.attributes, SEPARATOR}


def test_generic_drops_role_and_attributes(vocabulary: Vocabulary) -> None:
    text = prompts.pair_prompt(vocabulary, "generic")
    assert vocabulary.expert not in text
    assert "attribute" not in text
    assert not any(name in text for name in vocabulary.attributes if len(name.split()) > 1)
    for key in ("differences", "reasoning", vocabulary.verdict_key):
        assert f'"{key}"' in text
    with pytest.raises(ValueError, match="names no attributes"):
        prompts.pair_prompt(vocabulary, "generic", vocabulary.attributes[:1])


def test_attributes_can_be_chosen() -> None:
    vocabulary = load_vocabulary("fieldguide")
    text = prompts.pair_prompt(vocabulary, attributes=["tail shape", "crown color"])
    assert "tail shape, crown color.\n" in text
    assert "bill shape" not in text
    assert "crown color" not in prompts.pair_prompt(vocabulary)
    with pytest.raises(ValueError, match="no attribute 'beak'"):
        prompts.pair_prompt(vocabulary, attributes=["beak"])
    with pytest.raises(ValueError, match="unknown prompt style 'plain'"):
        prompts.pair_prompt(vocabulary, "plain")  # type: ignore[arg-type]


def test_canonical_answer_is_strict_json_and_made_of_pieces(vocabulary: Vocabulary) -> None:
    first = {name: f"value {i}" for i, name in enumerate(vocabulary.attributes)}
    second = first | {vocabulary.attributes[3]: "another"}
    text = prompts.reference_answer(vocabulary, first, second, same=False)
    loaded = json.loads(text)
    one, two = vocabulary.item_keys
    assert list(loaded) == [one, two, "differences", "confidence", "reasoning", vocabulary.verdict_key]
    assert loaded[one] == first
    assert loaded[two] == second
    said = loaded["differences"].split(SEPARATOR)
    assert said[3] == f"{vocabulary.attributes[3]}: value 3 vs another differs"
    assert said[0] == f"{vocabulary.attributes[0]}: value 0 vs value 0 agrees" and len(said) == len(first)
    assert text == json.dumps(loaded)
    free = (*first.values(), *second.values(), *vocabulary.attributes, SEPARATOR)
    cuts = cut(text, prompts.answer_pieces(vocabulary) + free)
    # per attribute two for each item and six for the comparison with its separator; the frame
    assert len(cuts) == 10 * len(vocabulary.attributes) + 9
    verdict = parse_verdict(text, vocabulary)
    assert verdict.answer is False
    assert [set(found) for found in verdict.descriptions] == [set(first), set(second)]


def test_generic_answer(vocabulary: Vocabulary) -> None:
    values = dict.fromkeys(vocabulary.attributes, "x")
    text = prompts.reference_answer(vocabulary, values, values, same=True, style="generic")
    assert list(json.loads(text)) == ["differences", "reasoning", vocabulary.verdict_key]
    assert parse_verdict(text, vocabulary).answer is True
    free = ("x", *vocabulary.attributes, SEPARATOR)
    cuts = cut(text, prompts.answer_pieces(vocabulary, "generic") + free)
    assert len(cuts) == 6 * len(vocabulary.attributes) + 5


def test_answer_of_chosen_attributes_in_order() -> None:
    vocabulary = load_vocabulary("fieldguide")
    values = dict.fromkeys(vocabulary.all_attributes, "red")
    text = prompts.reference_answer(vocabulary, values, values, True, attributes=["leg color", "back color"])
    assert list(json.loads(text)["bird_1"]) == ["leg color", "back color"]
    assert json.loads(text)["differences"] == "leg color: red vs red agrees, back color: red vs red agrees"


def test_answer_escapes_and_errors() -> None:
    vocabulary = load_vocabulary("fieldguide")
    text = prompts.answer_json(vocabulary, {"bill shape": 'a "b"\n'}, {"bill shape": "é"}, "d", "low", "r", same=True)
    assert json.loads(text)["bird_1"]["bill shape"] == 'a "b"\n'
    assert "é" in text
    with pytest.raises(ValueError, match="unknown confidence"):
        prompts.answer_json(vocabulary, {"bill shape": "a"}, {"bill shape": "b"}, "d", "sure", "r", True)
    with pytest.raises(ValueError, match="non-empty"):
        prompts.answer_json(vocabulary, {}, {"bill shape": "b"}, "d", "low", "r", True)
    with pytest.raises(ValueError, match="second description lacks 'bill shape'"):
        prompts.reference_answer(vocabulary, {"bill shape": "a"}, {}, True, attributes=["bill shape"])


def test_summary() -> None:
    marks = {"bill shape": "hooked", "bill color": "yellow"}
    assert prompts.summary_text(marks) == "bill shape hooked, bill color yellow"
    with pytest.raises(ValueError, match="at least one"):
        prompts.summary_text({})
