"""The pages of results and near-duplicates: whole, escaped, and honest about what cannot be shown."""

from pathlib import Path

import numpy as np
from tests.fixtures_search import colour_id, colour_index
from tests.report.reading import Reader

from fieldmark.report.found import ShownGroup, ShownPart, ShownPicture, duplicates_page, results_page
from fieldmark.search import pages
from fieldmark.search.duplicates import near_duplicates
from fieldmark.search.pages import duplicates_html, duplicates_text, results_html
from fieldmark.search.queries import Part, SearchQuery, search

EVIL = '<script>alert("x")</script>'


def test_a_page_of_results(tmp_path: Path) -> None:
    index, encoder = colour_index(tmp_path)
    (index.root / "green-0.png").unlink()
    (index.root / "white-0.png").write_bytes(b"damaged")
    query = SearchQuery(
        (Part(text="yellow"), Part(-0.25, image=np.full((4, 9, 3), 200, np.uint8)), Part(0.5, id=colour_id("orange"))),
        more_like=(colour_id("red"),),
        where="number >= 0",
        k=9,
    )
    text = results_html(index, query, search(index, query, encoder))
    page = Reader(text)
    shown = [a for tag, a in page.tags if tag == "img"]
    assert all(one["src"].startswith("data:image/webp;base64,") for one in shown)
    assert {one["alt"] for one in shown} >= {"yellow-0.png", "blue-0.png", "purple-0.png", "Picture of the query"}
    assert "red-0.png" not in {one["alt"] for one in shown}  # the query speaks of it
    for words in ("not this", "−0.25", "+0.5", "More like this", "colour: yellow", "11 × 10", "number >= 0", "colours"):
        assert words in page.text, words
    assert ("is not in" in page.text and "no known picture format" in page.text) or "text, not a picture" in page.text
    assert page.text.index("yellow-") < page.text.index("blue-")  # by rank
    cut = SearchQuery((Part(text="red and more of it"),))
    assert (
        "Note: the words that begin with 'red and more of it'"
        in Reader(results_html(index, cut, search(index, cut, encoder))).text
    )
    empty = Reader(results_html(index, query, search(index, SearchQuery(query.parts, where="number > 99"), encoder)))
    assert "No picture meets the condition." in empty.text


def test_a_page_of_near_duplicates(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path, copies=2)
    found = near_duplicates(index, 0.999)
    page = Reader(duplicates_html(index, found))
    assert page.count["h3"] == 7 and page.count["figure"] == 14 and page.text.count("largest") >= 7
    assert (
        "7 groups of pictures linked by a similarity of 0.999 or more among 14: 7 beyond the first of each."
        in page.text
    )
    none = near_duplicates(index, 0.999, where="number = 0")
    assert "No two pictures are that similar." in Reader(duplicates_html(index, none)).text


def test_a_page_leaves_out_what_is_too_much_and_says_so(tmp_path: Path, monkeypatch: object) -> None:
    index, _ = colour_index(tmp_path, copies=3)
    found = near_duplicates(index, 0.999)
    assert "shown" not in Reader(duplicates_html(index, found)).text
    monkeypatch.setattr(pages, "MAX_GROUPS", 2)  # type: ignore[attr-defined]
    monkeypatch.setattr(pages, "MAX_IN_GROUP", 2)  # type: ignore[attr-defined]
    page = Reader(duplicates_html(index, found))
    assert page.count["h3"] == 2 and page.count["figure"] == 4
    assert "The 2 largest groups are shown." in page.text and page.text.count("2 of them are shown.") == 2
    assert "1. 3 pictures" in page.text, "the group's size, not what is shown of it"


def test_a_threshold_that_links_everything_is_called_too_low(tmp_path: Path) -> None:
    index, _ = colour_index(tmp_path, copies=3)
    assert "too low" not in duplicates_text(near_duplicates(index, 0.999))
    assert "One group links 21 of them" in duplicates_text(near_duplicates(index, 0.001))


def test_names_and_columns_cannot_break_out() -> None:
    picture = ShownPicture(EVIL, EVIL, 0.5, None, EVIL, {EVIL: EVIL, "none": None, "empty": ""})
    for text in (
        results_page([ShownPart(EVIL, -1.0, EVIL)], [picture], EVIL, {EVIL: EVIL}, [EVIL]),
        duplicates_page([ShownGroup([picture, picture], 2)], EVIL, {}),
    ):
        page = Reader(text)
        assert page.count["script"] == 1 and not any(
            name.startswith("on") for _, attributes in page.tags for name in attributes
        )
        assert "none" not in [one.split(":")[0] for one in page.texts] and "fieldmark search" in page.text
