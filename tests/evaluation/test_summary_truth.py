"""Summaries against what is known of their items."""

import pytest

from fieldmark.evaluation.summary_truth import summary_truth

VOCABULARY = ("bill shape hooked", "bill shape needle", "leg color red", "leg color pink", "eye ring none")


def test_statements_that_hold_and_that_do_not() -> None:
    found = summary_truth(
        ["bill shape hooked, leg color red", "Bill shape: needle, leg color pink, a bird, leg color pink", ""],
        [
            ("bill shape hooked", "leg color red", "eye ring none"),
            ("leg color pink", "eye ring none"),
            ("leg color red",),
        ],
        VOCABULARY,
    )
    assert found.true == 3 / 4  # hooked, red and pink of hooked, red, needle and pink
    assert found.named == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found.statements == 4 / 3
    assert found.unreadable == 1 / 6
    assert found.num_summaries == 3


def test_a_summary_that_states_nothing_is_not_true() -> None:
    found = summary_truth(["hm"], [("leg color red",)], VOCABULARY)
    assert (found.true, found.named, found.statements, found.unreadable) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("summaries", "known", "said"),
    [([], [], "one at least"), (["x"], [], "1 summaries of 0 items"), (["x"], [()], "nothing is known of item 0")],
)
def test_bad_input(summaries: list[str], known: list[tuple[str, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        summary_truth(summaries, known, VOCABULARY)
