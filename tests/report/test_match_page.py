"""The page about a match: valid, harmless, complete, and alive in a browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.report.conftest import EVIL
from tests.report.reading import Reader
from tests.report.test_match_drawing import make_match

from fieldmark.evaluation.pair_account import DescribedAttribute, PairAccount, PromptAnswer
from fieldmark.report import match_page as module
from fieldmark.report.match_page import match_page

CHROMIUM = shutil.which("chromium")


def account() -> PairAccount:
    attention = np.full((4, 4), 1 / 16)
    return PairAccount(
        question="same species",
        answers=(
            PromptAnswer(("bill",), 1, 3, 0, {"differences": EVIL}),
            PromptAnswer(("tail",), 2, 0, 2, {}),
        ),
        attributes=(
            DescribedAttribute("bill", ((("red", 4),), ((EVIL, 3), ("red", 1))), ("red", EVIL), (attention, attention)),
            DescribedAttribute("tail", ((("long", 2),), ((("Long"), 2),)), ("long", None), (attention, None)),
        ),
        layer=3,
    )


def test_page_is_valid_and_loads_nothing() -> None:
    match = make_match(account=account())
    text = match_page(match, {"seed": 0, "encoder": EVIL})
    page = Reader(text)
    assert "alert(" not in "".join(re.findall(r"<script>(.*?)</script>", text, re.S))
    assert EVIL in page.text and "differences: " in page.text
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src")]
    assert links and all(value.startswith(("#", "data:")) for value in links)
    assert not [
        tag for tag, attributes in page.tags if "style" in attributes or any(k.startswith("on") for k in attributes)
    ]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") is not None for tag, a in page.tags if tag == "img")


def test_contributions_are_in_the_page() -> None:
    match = make_match()
    page = Reader(match_page(match, {}))
    board = next(a for tag, a in page.tags if a.get("id") == "board")
    rows = [a["data-row"] for tag, a in page.tags if "data-row" in a]
    values = np.array([[int(v) for v in row.split()] for row in rows]) / 1000 * float(board["data-largest"])
    np.testing.assert_allclose(values, match.explanation.contribution, atol=float(board["data-largest"]) / 1000)


def test_the_page_says_which_cosine_it_shows() -> None:
    match = make_match(centred=True)
    found = match.explanation
    page = Reader(match_page(match, {}))
    assert f"is {found.centred_cosine:.4f} (with it {found.cosine:.4f}). This centred cosine is the sum" in page.text
    assert "beyond their shares" not in page.text and "blue ones speak against it" in page.text
    board = next(a for tag, a in page.tags if a.get("id") == "board")
    assert float(board["data-cosine"]) == pytest.approx(found.centred_cosine, abs=1e-6)
    assert board["data-of"] == "centred cosine"
    plain = Reader(match_page(make_match(), {}))
    assert "centred" not in plain.text and "beyond their shares" in plain.text


def test_what_the_supervisor_said() -> None:
    text = Reader(match_page(make_match(account=account()), {})).text
    assert "It says: no" in text and "1 yes, 3 no (bill)" in text and "2 yes, 0 no, 2 unreadable (tail)" in text
    assert text.count("differs") == 1, "the two spellings of long are one value"
    nothing = replace(account(), attributes=())
    assert "described no attribute" in Reader(match_page(make_match(account=nothing), {})).text


def test_names_are_no_headline_and_what_was_not_asked_has_no_tab() -> None:
    name = "twemoji/" + "1F469-200D-" * 8 + ".png"
    text = match_page(make_match(names=("a.png", name)), {})
    assert "<h1>Why this match</h1>" in text and f"<title>a.png and {name}</title>" in text
    assert 'href="#supervisor"' not in text and 'class="few"' in text
    assert 'href="#supervisor"' in match_page(make_match(account=account()), {})


def test_fine_grids_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    page = Reader(match_page(make_match(), {}))
    assert "too many to point at" in page.text and not any("data-row" in a for _, a in page.tags)
    assert "board" not in [a.get("id") for _, a in page.tags]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_pointing_in_a_browser(tmp_path: Path) -> None:
    """By keyboard, as a screen reader's user would; a mouse does the same."""
    playwright = pytest.importorskip("playwright.sync_api")
    match = make_match()
    file = tmp_path / "page.html"
    file.write_text(match_page(match, {}))
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*flags.split(), "--disable-component-update", "--disable-sync"]
        )
        page = browser.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(file.as_uri())
        page.locator("#patches-b rect").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        told = page.locator("#told").text_content()
        shown = page.evaluate(
            "Array.from(document.querySelectorAll('#patches-a rect')).map(r => r.getAttribute('fill-opacity'))"
        )
        browser.close()
    grid = match.explanation.attention_b.shape
    column = match.explanation.contribution[:, grid[1] + 1]
    best = divmod(int(column.argmax()), match.explanation.attention_a.shape[1])
    assert told.startswith("Picture 2, row 2, column 2: carries ")
    assert f"with row {best[0] + 1}, column {best[1] + 1} of picture 1" in told
    assert float(re.findall(r"carries (-?[\d.]+)", told)[0]) == pytest.approx(column.sum(), abs=2e-3)
    assert int(np.argmax([float(one) for one in shown])) == int(column.argmax())
    assert wrong == [], json.dumps(wrong)
