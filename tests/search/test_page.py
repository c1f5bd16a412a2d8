"""The page in a real browser: what people do with it, and that nothing leaves this computer."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.search.axe import axe_source
from tests.search.browser import in_sight, open_page, upload, wait_for_results
from tests.search.serving import Served, png, serve

SERIOUS = ("serious", "critical")


# Left, top, width and height of an element's box, or of one in it.
_BOX = """(one, inner) => {
    const { left, top, width, height } = (inner ? one.querySelector(inner) : one).getBoundingClientRect();
    return [left, top, width, height].map(Math.round);
}"""


def test_begins_with_samples_and_says_what_is_searched(page: Any) -> None:
    assert page.locator("#samples button").count() == 12
    assert "16 pictures" in page.locator("#collection").inner_text()
    assert page.locator("#words-form").is_hidden()  # this encoder reads no words, and the page says so
    assert page.locator("#no-words").is_visible()


def test_upload_finds_the_picture_itself(page: Any, picture_file: Path) -> None:
    page.set_input_files("#file", str(picture_file))
    wait_for_results(page)
    first = page.locator(".card").first
    assert "1.000" in first.inner_text()
    assert picture_file.stem in first.locator(".name").inner_text()
    assert page.locator("#parts .part").count() == 1
    page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")


def test_drop_and_paste(page: Any, picture_file: Path) -> None:
    give = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'a.png', {type: 'image/png'}));
        const event = kind === 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true})
                                       : new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }"""
    for number, kind in enumerate(("drop", "paste"), start=1):
        page.evaluate(give, [kind, list(picture_file.read_bytes())])
        page.wait_for_function("n => document.querySelectorAll('#parts .part').length === n", arg=number)
    wait_for_results(page)


def test_filter_weight_and_examples_change_the_results(page: Any, served: Served) -> None:
    page.locator("#samples button").first.click()
    wait_for_results(page, "15 results")
    page.get_by_role("button", name="test", exact=True).click()
    wait_for_results(page, "8 results")
    assert page.get_by_role("button", name="test", exact=True).get_attribute("aria-pressed") == "true"
    assert all("test" in text for text in page.locator(".card .facts").all_inner_texts())
    before = page.locator(".card .picture").evaluate_all("all => all.map(one => one.dataset.id)")
    page.get_by_role("button", name=re.compile("^More like")).nth(3).click()
    wait_for_results(page, "7 results")
    after = page.locator(".card .picture").evaluate_all("all => all.map(one => one.dataset.id)")
    assert before[3] not in after
    page.get_by_role("button", name=re.compile("^Less like")).first.click()
    wait_for_results(page, "6 results")
    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowLeft")
    page.wait_for_url(re.compile(r"i%3A0\.9%3A"))
    assert page.evaluate("document.activeElement.type") == "range"  # the keyboard's place survives the redraw


def test_expression_and_its_mistakes(page: Any) -> None:
    page.locator("#samples button").first.click()
    wait_for_results(page)
    page.locator("#expression summary").click()
    page.fill("#where", "number >= 12 AND adult = TRUE")
    page.press("#where", "Enter")
    wait_for_results(page, "2 results")
    page.fill("#where", "nosuch = 'x'")
    page.press("#where", "Enter")
    page.wait_for_selector("#where-problem:not(:empty)")
    assert "nosuch" in page.locator("#where-problem").inner_text() and page.locator("#problem .problem").count() == 0
    assert page.locator("#where").get_attribute("aria-invalid") == "true"
    assert "where-problem" in (page.locator("#where").get_attribute("aria-describedby") or "")
    assert "expression cannot be read" in page.locator("#status").inner_text() and in_sight(page, "#where-problem")
    page.get_by_role("button", name="test", exact=True).click()  # a chip changes neither places nor words of errors
    page.wait_for_selector("#where-problem:not(:empty)")
    page.fill("#where", "  number >= 12) OR (number < 3")
    page.press("#where", "Enter")
    page.wait_for_function("() => document.getElementById('where-problem').textContent.includes('character 13')")
    assert "did not expect ')' there" in page.locator("#where-problem").inner_text()
    page.get_by_role("button", name="test", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.chip[aria-pressed=true]').length === 0")
    page.fill("#where", "number > 1000")
    page.press("#where", "Enter")
    page.locator("#nothing").wait_for(state="visible")
    assert page.locator("#where-problem").inner_text() == ""
    assert page.locator("#where").get_attribute("aria-invalid") is None
    page.click("#drop-filters")
    wait_for_results(page, "15 results")


def test_explanation_opens_closes_and_goes_back(page: Any, picture_file: Path) -> None:
    page.set_input_files("#file", str(picture_file))
    wait_for_results(page)
    opener = page.locator(".card .picture").nth(1)
    opener.focus()
    opener.press("Enter")
    page.wait_for_selector("#explanation[open] canvas")
    cosine, centred = (float(text) for text in page.locator("#explanation-body b").all_inner_texts()[:2])
    assert 0 < cosine < 1 and centred < cosine
    said = page.locator("#explanation-body").inner_text()
    assert "after taking away what all pictures of this collection share" in said
    assert "alike beyond what all pictures share" in said
    assert f"{cosine:.3f}" in page.locator(".card").nth(1).inner_text()
    page.wait_for_function("() => [...document.querySelectorAll('.layers img')].every(one => one.naturalWidth > 0)")
    painted = "canvas => canvas.getContext('2d').getImageData(0, 0, 384, 384).data.some(value => value > 0)"
    assert all(page.locator("#explanation canvas").nth(i).evaluate(painted) for i in (0, 1))
    for layers in page.locator(".layers").all():
        box, image, canvas = (layers.evaluate(_BOX, one) for one in ("", "img", "canvas"))
        assert image == box == canvas and image[2] / image[3] == pytest.approx(1, abs=0.02), "96 × 96, as it is"
        assert 200 < image[3] <= 0.6 * 900 + 1
    page.get_by_label("What keeps them apart").check()
    assert "keeps them apart. Blue: draws them together" in page.locator("#explanation-body").inner_text()
    page.get_by_label("The pictures alone").check()
    assert not any(page.locator("#explanation canvas").nth(i).evaluate(painted) for i in (0, 1))
    page.get_by_label("Where the encoder looks").check()
    page.locator(".pairs button").first.click()
    assert page.locator(".pairs button").first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    page.wait_for_selector("#explanation", state="hidden")
    assert page.evaluate("document.activeElement.className") == "picture"  # back where the keyboard was
    assert "explain=" not in page.url
    page.go_back()
    page.wait_for_selector("#explanation[open] canvas")
    page.go_back()
    page.wait_for_selector("#explanation", state="hidden")
    page.go_back()
    page.locator("#start").wait_for(state="visible")
    page.go_forward()
    wait_for_results(page)


@pytest.mark.parametrize(
    ("size", "viewport"), [((60, 180), {"width": 1200, "height": 900}), ((180, 60), {"width": 360, "height": 740})]
)
def test_explained_pictures_keep_their_ratio(
    browser: Any, served: Served, size: tuple[int, int], viewport: dict[str, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    with open_page(browser, served.url, viewport=viewport) as page:
        upload(page, "a.png", png(pixels))
        wait_for_results(page)
        page.locator(".card .picture").first.click()
        page.wait_for_selector("#explanation[open] canvas")
        page.wait_for_function("() => document.querySelector('.layers img').naturalWidth > 0")
        box, image, canvas = (page.locator(".layers").first.evaluate(_BOX, one) for one in ("", "img", "canvas"))
        assert image == box == canvas and image[2] / image[3] == pytest.approx(size[0] / size[1], rel=0.03)
        assert image[3] <= 0.6 * viewport["height"] + 1 and page.complaints == []


def test_bars_tell_the_scores_apart_and_say_how(page: Any, picture_file: Path) -> None:
    page.set_input_files("#file", str(picture_file))
    wait_for_results(page)
    bars = page.locator(".score meter").evaluate_all("all => all.map(one => one.value)")
    assert bars[0] == 1 and bars[-1] == pytest.approx(0.05) and bars == sorted(bars, reverse=True)
    lowest = page.locator(".score").last.inner_text().strip()
    title = page.locator(".score").first.get_attribute("title")
    assert f"from the lowest score shown, {lowest}, to the highest, 1.000" in title


def test_too_few_pictures_to_take_away_what_they_share(
    browser: Any, bird_encoder: Any, tmp_path: Path, make_birds: Any
) -> None:
    with serve(make_birds(tmp_path), bird_encoder) as running:
        link = f"{running.url}/?part=i:1:{running.ids[0]}&explain={running.ids[1]}"
        with open_page(browser, link) as page:
            page.wait_for_selector("#explanation[open] canvas")
            said = page.locator("#explanation-body").inner_text()
            assert "too few different pictures" in said and "beyond what all pictures share" not in said
            assert page.complaints == []


def test_link_opens_the_same_state_elsewhere(browser: Any, served: Served) -> None:
    id = served.ids[0]
    link = f"{served.url}/?part=i:0.8:{id}&less={served.ids[5]}&filter=split:train&k=12&explain={served.ids[1]}"
    with open_page(browser, link) as page:
        page.wait_for_selector("#explanation[open] canvas")
        assert page.locator(".part output").first.inner_text() == "0.8"
        assert page.locator("#count").input_value() == "12"
        assert page.complaints == []
    for shown in (served.ids[0], served.ids[15]):  # the query's own item, and one that does not pass the filter
        with open_page(browser, f"{served.url}/?part=i:1:{id}&where=number < 9&explain={shown}") as page:
            page.wait_for_selector("#explanation[open] canvas")
            assert page.complaints == []
    with open_page(browser, f"{served.url}/?part=i:1:{id}&explain={'0' * 16}") as page:
        page.wait_for_selector("#notes p")
        assert "no explanation of item 000000" in page.locator("#notes").inner_text().lower()
        assert "explain=" not in page.url and page.locator("#explanation").is_hidden()
        assert page.locator(".card").count() == 15
    with open_page(browser, f"{served.url}/?part=p:1:0123456789abcdef") as page:
        page.wait_for_selector("#problem .problem")
        assert "not in this browser" in page.locator("#problem").inner_text()


def test_values_without_a_chip_are_counted_and_can_be_reached(browser: Any, served: Served) -> None:
    def shorten(route: Any) -> None:
        answer = route.fetch()
        about = answer.json()
        facet = next(one for one in about["facets"] if one["column"] == "species")
        facet["values"], facet["whole"] = facet["values"][:1], False
        route.fulfill(response=answer, json=about)

    kind = json.loads(httpx.get(f"{served.url}/items/{served.ids[-1]}").text)["metadata"]["species"]
    with open_page(browser, "about:blank") as page:
        page.route("**/about", shorten)
        page.goto(f"{served.url}/?part=i:1:{served.ids[0]}")
        wait_for_results(page)
        assert page.get_by_text("1 of at least 4 values.").count() == 1
        assert page.get_by_text("2 of").count() == 0  # all are shown of the others
        page.get_by_role("button", name="Find others of species").click()
        page.keyboard.type(kind[1:].upper())
        page.keyboard.press("Enter")
        wait_for_results(page, "4 results")
        assert page.locator("#narrowing-title").text_content() == "Filters (1 set)"


def test_cards_and_captions_say_each_thing_once(page: Any, picture_file: Path) -> None:
    page.set_input_files("#file", [str(picture_file), str(sorted(picture_file.parent.glob("*.png"))[1])])
    wait_for_results(page)
    card = page.locator(".card").first
    assert len(set(card.locator(".card-actions button").evaluate_all("all => all.map(one => one.offsetTop)"))) == 1
    assert card.locator(".card-actions button").first.evaluate("one => one.offsetHeight") < 44, "one line"
    name, facts = card.locator(".name"), card.locator(".facts").inner_text()
    assert "/<wbr>" in name.inner_html() and "split: " in facts and "species" not in facts
    label = card.locator(".picture").get_attribute("aria-label")
    assert label.endswith(f"score {card.locator('.score').inner_text().strip()}")
    card.locator(".picture").click()
    page.wait_for_selector("#explanation[open] canvas")
    assert page.locator("figcaption").first.inner_text() == "Asked for: Your picture 1, the first of 2"


def test_keyboard_alone_is_enough(page: Any) -> None:
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className || 'x'"))
        if page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
    assert reached[0] == "skip" and "file" in reached and "theme" in reached and "chip" in reached
    page.keyboard.press("Enter")
    wait_for_results(page)


def test_focus_stays_near_what_was_done(page: Any) -> None:
    focus = "document.activeElement.id || document.activeElement.getAttribute('aria-label') || 'nowhere'"
    page.locator("#samples button").first.press("Enter")
    wait_for_results(page, "15 results")
    assert page.evaluate(focus) == "results"
    page.get_by_role("button", name=re.compile("^More like")).first.press("Enter")
    wait_for_results(page, "14 results")
    assert page.evaluate(focus) == "results"
    page.get_by_role("button", name=re.compile("^Remove item .* from")).press("Enter")
    wait_for_results(page, "15 results")
    assert page.evaluate(focus) == "file"
    slider, entries = page.get_by_role("slider"), page.evaluate("history.length")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    page.wait_for_url(re.compile(r"i%3A0\.7%3A"))
    assert page.evaluate("history.length") == entries + 1, "one adjustment"
    page.go_back()
    page.wait_for_url(re.compile(r"i%3A1%3A"))
    page.get_by_role("button", name=re.compile("^Remove Item")).press("Enter")
    page.locator("#start").wait_for(state="visible")
    assert page.evaluate(focus) == "file"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_accessibility_findings(browser: Any, served: Served, picture_file: Path, scheme: str) -> None:
    try:
        axe = axe_source()
    except LookupError as error:
        pytest.skip(str(error))
    found: dict[str, list[str]] = {}

    def check(state: str) -> None:
        page.evaluate(axe)
        violations = page.evaluate("axe.run({resultTypes: ['violations']}).then(found => found.violations)")
        found[state] = [
            f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in violations if one["impact"] in SERIOUS
        ]

    with open_page(browser, served.url, color_scheme=scheme, reduced_motion="reduce") as page:
        page.wait_for_selector("#samples button")
        check("start")
        page.set_input_files("#file", str(picture_file))
        wait_for_results(page)
        page.get_by_role("button", name="test", exact=True).click()
        wait_for_results(page, "8 results")
        page.get_by_role("button", name=re.compile("^More like")).first.click()
        wait_for_results(page, "7 results")
        check("results")
        page.locator(".card .picture").first.click()
        page.wait_for_selector("#explanation[open] canvas")
        check("explanation")
        page.keyboard.press("Escape")
        upload(page, "broken.png", b"<html>")
        page.wait_for_selector("#refused-picture .problem")
        check("problem")
    assert found == {"start": [], "results": [], "explanation": [], "problem": []}


def test_phone_width_has_no_sideways_scrolling(browser: Any, served: Served, picture_file: Path) -> None:
    with open_page(browser, served.url, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        page.wait_for_selector("#samples button")
        assert in_sight(page, "#results"), "filters are folded"
        page.set_input_files("#file", str(picture_file))
        wait_for_results(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#results").evaluate("one => Math.abs(one.getBoundingClientRect().top)") < 20
        page.locator("#narrowing-title").click()
        page.get_by_role("button", name="test", exact=True).click()
        wait_for_results(page, "8 results")
        assert in_sight(page, "#narrowing-title"), "only the first search moves the page"
        page.locator(".card .picture").first.click()
        page.wait_for_selector("#explanation[open] canvas")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        small = page.evaluate(
            "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.offsetHeight < 24).length"
        )
        assert small == 0
