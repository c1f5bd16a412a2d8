"""The page in a real browser when something is wrong: with what it is given, with a link, with the service."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.search.browser import in_sight, open_page, upload, wait_for_results
from tests.search.serving import Index, Served, png, serve
from tests.search.test_service import HeldEncoder


@pytest.mark.parametrize(
    "query",
    [
        "part=t:1:<img src=x onerror=alert(1)>",
        "part=i:1:../../etc/passwd",
        "filter=<script>:x&more=nothing",
        "where='><script>alert(1)</script>&part=i:1:{id}",
        "part=i:nan:{id}&k=99999999&explain=javascript:alert(1)",
    ],
)
def test_hostile_links_run_nothing(browser: Any, served: Served, query: str) -> None:
    with open_page(browser, f"{served.url}/?{query.format(id=served.ids[0])}") as page:
        page.on("dialog", lambda dialog: page.complaints.append("a script ran"))
        page.wait_for_function("() => document.getElementById('collection').textContent !== ''")
        page.wait_for_timeout(150)
        assert page.complaints == [] and page.strangers == []
        assert page.locator("main script, main [onerror]").count() == 0


def test_broken_picture_says_so_and_can_be_removed(page: Any, picture_file: Path) -> None:
    upload(page, "broken.png", picture_file.read_bytes()[:900])
    page.wait_for_selector("#refused-picture .problem")
    assert "cannot be used" in page.locator("#refused-picture").inner_text()
    assert page.locator("#file").get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Try again").count() == 0
    page.get_by_role("button", name="Remove the picture").click()
    page.locator("#start").wait_for(state="visible")
    assert page.locator("#refused-picture .problem").count() == 0
    page.set_input_files("#file", str(picture_file))
    wait_for_results(page)
    page.set_viewport_size({"width": 1200, "height": 400})
    page.evaluate("scrollTo(0, 600); document.querySelector('.ask').scrollTo(0, 600)")
    upload(page, "drawing.png", b"<svg/>")
    page.wait_for_selector("#refused-picture .problem")
    said = page.locator("#refused-picture").inner_text()
    assert "Your picture 2: " in said and "render it to PNG" in said and in_sight(page, "#refused-picture")
    page.get_by_role("button", name="Remove the picture").click()
    wait_for_results(page)
    assert page.locator("#parts .part").count() == 1


def test_mistakes_in_a_query_are_not_tried_again(browser: Any, served: Served) -> None:
    with open_page(browser, f"{served.url}/?part=i:-1:{served.ids[0]}") as page:
        page.wait_for_selector("#problem .problem")
        assert page.locator("#problem button").count() == 0
        page.goto(f"{served.url}/?part=i:1:{served.ids[0]}&filter=nosuch:x")
        page.wait_for_selector("#problem .problem")
        assert "nosuch" in page.locator("#problem").inner_text()
        assert page.get_by_role("button", name="x", exact=True).get_attribute("aria-pressed") == "true"
        page.get_by_role("button", name="Remove the filters").click()
        wait_for_results(page)


def test_too_large_is_said_before_it_is_sent(page: Any) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    upload(page, "large.png", png((1, 2, 3)) + bytes(2**20))
    page.wait_for_selector("#picture-problem .problem")
    assert "POST" not in sent


def test_dead_server_and_its_return(browser: Any, birds: Index, bird_encoder: Any) -> None:
    with serve(birds, bird_encoder) as running:
        port = running.port
        context = open_page(browser, running.url)
        page = context.__enter__()
        page.wait_for_selector("#samples button")
    try:
        page.locator("#samples button").first.click()
        page.wait_for_selector("#problem .problem")
        assert "does not answer" in page.locator("#problem").inner_text()
        with serve(birds, bird_encoder, port=port):
            page.get_by_role("button", name="Try again").click()
            wait_for_results(page)
        assert page.complaints == []
    finally:
        context.__exit__(None, None, None)


def test_busy_server_is_asked_again(browser: Any, served: Served) -> None:
    with open_page(browser, served.url) as page:
        answers = iter([503, 503])
        refusal = json.dumps({"error": {"code": "overloaded", "message": "full", "request_id": "x"}})

        def answer(route: Any) -> None:
            if next(answers, 200) == 503:
                route.fulfill(status=503, headers={"Retry-After": "1"}, content_type="application/json", body=refusal)
            else:
                route.continue_()

        page.route("**/search", answer)
        page.wait_for_selector("#samples button")
        page.locator("#samples button").first.click()
        wait_for_results(page, "busy")
        wait_for_results(page)


def test_answers_show_placeholders_while_they_take_long(browser: Any, served: Served) -> None:
    with open_page(browser, served.url) as page:
        held: list[Any] = []
        page.route("**/search", lambda route: held.append(route))
        page.wait_for_selector("#samples button")
        page.locator("#samples button").first.click()
        page.wait_for_selector(".skeleton")
        assert page.locator("#grid").get_attribute("aria-busy") == "true"
        held[0].continue_()
        wait_for_results(page)
        assert page.locator("#grid").get_attribute("aria-busy") is None


def test_words_that_are_too_long_are_told(browser: Any, birds: Index, bird_encoder: Any) -> None:
    held = HeldEncoder(bird_encoder)
    held.gate.set()
    with serve(birds, held) as running, open_page(browser, running.url) as page:
        page.wait_for_selector("#words-form", state="visible")
        page.fill("#words", "x" * 2001)
        page.press("#words", "Enter")
        assert "2001 characters, 2000 are allowed" in page.locator("#words-problem").inner_text()
        assert len(page.locator("#words").input_value()) == 2001 and page.locator("#parts .part").count() == 0
        page.fill("#words", "a bird " * 40)
        page.press("#words", "Enter")
        wait_for_results(page)
        assert "longer than the encoder reads" in page.locator("#notes").inner_text()
        assert page.locator("#words-problem").inner_text() == ""
        page.goto(f"{running.url}/?part=t:1:{'x' * 2001}")
        page.wait_for_selector("#problem .problem")
        assert "2001, the service allows 2000" in page.locator("#problem").inner_text()
        assert page.complaints == []


def test_token_is_asked_for_where_it_is_needed(browser: Any, birds: Index, bird_encoder: Any) -> None:
    from tests.search.serving import TOKEN

    with (
        serve(birds, bird_encoder, host="0.0.0.0", token_file="given") as running,
        open_page(browser, running.url) as page,
    ):
        page.wait_for_selector("form.token")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector("#samples button")
        page.wait_for_function("() => document.querySelector('#samples img').naturalWidth > 0")
        assert page.complaints == []
