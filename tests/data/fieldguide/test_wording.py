import pytest

from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.wording import request, statements, words
from fieldmark.policy.prompts import summary_text

MARKS = {"bill color": "yellow", "wing pattern": "barred", "bill shape": "hooked", "eye ring": "none"}


def test_plain_words_are_the_bundled_models_summary() -> None:
    assert words(MARKS) == summary_text(MARKS) == ", ".join(statements(MARKS))


def test_other_wordings() -> None:
    assert words({"bill shape": "hooked", "bill color": "red"}, "colon") == "bill shape: hooked, bill color: red"
    assert words(MARKS, "natural") == "barred wing, hooked yellow bill, no eye ring"
    assert words({"bill color": "red"}, "natural") == "red bill"
    with pytest.raises(ValueError, match="at least one"):
        words({})


def test_every_value_can_be_said_naturally() -> None:
    said = [words({name: value}, "natural") for name, values in FIELD_MARKS.items() for value in values]
    assert len(set(said)) == len(said)


def test_requests() -> None:
    assert request({"leg color": "green"}) == "leg color green"
    assert request({"leg color": "green"}, "natural") == "the same bird, but green legs"
