from pathlib import Path

import pytest

from fieldmark.data.retrieval import Item
from fieldmark.policy.grain_answers import MAX_GRAINS, grain_prompt, read_grains


def test_each_kind_of_query_is_asked_about_in_its_own_way() -> None:
    words, picture = 'a "red" bird', Path("a.png")
    prompts = [grain_prompt(item) for item in (Item("1", words), Item("1", None, picture), Item("1", words, picture))]
    assert len(set(prompts)) == 3 and all("JSON list of strings" in prompt for prompt in prompts)
    assert r"a \"red\" bird" in prompts[0] and r"a \"red\" bird" in prompts[2]


@pytest.mark.parametrize(
    ("answer", "grains"),
    [
        ('["red bill", "barred wing"]', ("red bill", "barred wing")),
        ('Here they are:\n```json\n["red bill ", "Red Bill", " barred  wing."]\n```', ("red bill", "barred wing")),
        ("[]", ()),
        ('["", "' + "x" * 81 + '", "tail"]', ("tail",)),
        ("red bill, barred wing", None),
        ('["red bill", "barred', None),  # cut off
        ('["red bill", 3]', None),
        ('{"grains": "red"}', None),
        ('["a"] or ["b"]', None),
        ('[["a"]]', None),
    ],
)
def test_read_grains(answer: str, grains: tuple[str, ...] | None) -> None:
    assert read_grains(answer) == grains


def test_no_more_than_twelve() -> None:
    assert len(read_grains(str([f"g{i}" for i in range(20)]).replace("'", '"')) or ()) == MAX_GRAINS
