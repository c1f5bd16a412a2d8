"""What commands print."""

import pytest

from fieldmark.cli.printing import printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("gulls/été 1.png", "gulls/été 1.png"),
        ("new\nline.png", "new\\nline.png"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("‮gnp.exe", "\\u202egnp.exe"),
    ],
)
def test_a_name_stays_on_its_line_and_sends_nothing_to_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
