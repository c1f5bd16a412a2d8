"""Pictures of each state of the search page: `make screenshots`, or

    python -m tests.search.screenshots [--out docs/images] [--index runs/demo/saga.index --encoder runs/demo/saga]

Without an index, one of drawn birds is made for the purpose.
"""

import argparse
import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from tests.search import serving
from tests.search.browser import open_browser, open_page

from fieldmark.search.encoders import load_search_encoder
from fieldmark.search.index import Index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--index", type=Path)
    parser.add_argument("--encoder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = load_search_encoder(given.encoder or serving.save_encoder(folder / "birds"))
        if given.index:
            index = Index.open(given.index)
        else:
            index = serving.make_collection(
                folder / "pictures", encoder, folder / "birds.index", species=16, per=6, size=192
            )
        with open_browser() as browser:
            take_all(browser, index, encoder, given.out)


def take_all(browser: Any, index: Index, encoder: Any, out: Path) -> None:
    """Every state, as service-STATE.png."""
    picture = index.root / next(iter(index.scan(["path"]))).to_pylist()[7]["path"]
    take = Camera(out)

    def searched(page: Any) -> None:
        page.wait_for_selector("#samples button")
        page.set_input_files("#file", str(picture))
        page.wait_for_selector(".card img")
        settle(page)

    with serving.serve(index, encoder) as running:
        with open_page(browser, running.url) as page:
            page.wait_for_selector("#samples button")
            settle(page)
            take(page, "start")
            searched(page)
            take(page, "results")
            other_of_its_kind(page, picture).click()
            page.wait_for_selector(".pairs button, #pairs-title")
            mark_a_pair(page)
            settle(page)
            take(page, "explanation")
            page.keyboard.press("Escape")
            page.locator("#filters .chip").nth(1).click()
            page.get_by_role("button", name=re.compile("^More like")).nth(1).click()
            page.get_by_role("button", name=re.compile("^Less like")).last.click()
            settle(page)
            take(page, "filtered")
            page.locator("#expression summary").click()
            page.fill("#where", "width > 100000")
            page.press("#where", "Enter")
            page.locator("#nothing").wait_for(state="visible")
            settle(page)
            take(page, "nothing-found")
            page.click("#clear")
            page.set_input_files(
                "#file", {"name": "x.png", "mimeType": "image/png", "buffer": picture.read_bytes()[:999]}
            )
            page.wait_for_selector("#refused-picture .problem")
            settle(page)
            take(page, "broken-picture")
        with open_page(browser, running.url, color_scheme="dark") as page:
            searched(page)
            take(page, "dark")
        with open_page(browser, running.url, viewport={"width": 390, "height": 844}) as page:
            searched(page)
            page.locator("#results").scroll_into_view_if_needed()
            page.evaluate("document.getElementById('results').scrollIntoView()")
            take(page, "phone")
        with open_page(browser, running.url) as page:
            page.wait_for_selector("#samples button")
            page.route("**/search", lambda route: None)  # never answered
            page.locator("#samples button").nth(3).click()
            page.wait_for_selector(".skeleton")
            take(page, "loading")
        with open_page(browser, running.url) as page:
            page.wait_for_selector("#samples button")
            page.route("**/search", busy)
            page.locator("#samples button").nth(3).click()
            page.wait_for_function("() => document.getElementById('status').textContent.includes('busy')")
            take(page, "busy")
        dying = open_page(browser, running.url)
        orphan = dying.__enter__()
        orphan.wait_for_selector("#samples button")
        settle(orphan)
    with contextlib.ExitStack() as stack:
        stack.push(dying)
        orphan.locator("#samples button").nth(3).click()
        orphan.wait_for_selector("#problem .problem")
        take(orphan, "no-answer")
    with (
        serving.serve(index, encoder, host="0.0.0.0", token_file="given") as running,
        open_page(browser, running.url) as page,
    ):
        page.wait_for_selector("form.token")
        take(page, "token")


def other_of_its_kind(page: Any, picture: Path) -> Any:
    """The second result that shows another bird of the picture's species, else the third result: something to explain,
    which the picture beside itself is not."""
    kind = f"{picture.parent.name}/"
    names = page.locator(".card .name").all_inner_texts()
    others = [n for n, name in enumerate(names) if name.startswith(kind) and name != f"{kind}{picture.stem}"]
    return page.locator(".card .picture").nth(others[1] if len(others) > 1 else 2)


def mark_a_pair(page: Any) -> None:
    """The strongest pair of regions in different places, which shows that pairs are not just compared place by place;
    else the strongest."""
    buttons = page.locator(".pairs button")
    pairs = [re.findall(r"\(\d+, \d+\)", text) for text in buttons.all_inner_texts()]
    if pairs:
        buttons.nth(next((n for n, (a, b) in enumerate(pairs) if a != b), 0)).click()


def busy(route: Any) -> None:
    body = '{"error": {"code": "overloaded", "message": "full", "request_id": "x"}}'
    route.fulfill(status=503, headers={"Retry-After": "3"}, content_type="application/json", body=body)


def settle(page: Any) -> None:
    """Wait until every visible picture is there."""
    page.wait_for_selector("#grid:not([aria-busy])", state="attached")
    page.wait_for_load_state("networkidle")
    page.evaluate("scrollTo(0, 0)")
    seen = "img => img.complete || img.getBoundingClientRect().top > innerHeight"
    page.wait_for_function(f"() => [...document.images].every({seen})")


class Camera:
    """Keeps pictures small: 128 colours are enough for a page."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)

    def __call__(self, page: Any, state: str) -> None:
        path = self.out / f"service-{state}.png"
        page.screenshot(path=path, animations="disabled")
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        print(f"{path} {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
