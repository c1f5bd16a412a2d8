"""A browser for tests and screenshots: the chromium of the system, driven by playwright."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def find_chromium() -> str:
    """Where it is. Raises LookupError if it is not installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise LookupError("chromium is not installed (Debian: apt-get install chromium)")
    return found


@contextlib.contextmanager
def open_browser() -> Iterator["Browser"]:
    """A browser without a window. Raises LookupError."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise LookupError("playwright is not installed (pip install playwright)") from None
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(browser: "Browser", url: str, **settings: Any) -> Iterator["Page"]:
    """A page in a context of its own, at `url`; requests elsewhere are refused and noted in `page.strangers`, what goes
    wrong in its scripts in `page.complaints`."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | settings)
    page = context.new_page()
    strangers: list[str] = []
    complaints: list[str] = []
    page.strangers, page.complaints = strangers, complaints  # type: ignore[attr-defined]

    def watch(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            strangers.append(request.url)

    page.on("request", watch)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
    page.set_default_timeout(60_000)  # beside other tests a browser may have to wait long for its turn
    page.goto(url)
    try:
        yield page
    finally:
        context.close()


def upload(page: Any, name: str, content: bytes, kind: str = "image/png") -> None:
    """Give the page a file."""
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})


def in_sight(page: Any, selector: str) -> bool:
    """Whether its beginning is on the screen."""
    top: float = page.locator(selector).evaluate("one => one.getBoundingClientRect().top")
    return 0 <= top < page.viewport_size["height"] - 20


def wait_for_results(page: Any, text: str = "results in") -> None:
    """Until the status line says so. A page that never does so tells what it said instead."""
    from playwright.sync_api import TimeoutError as TooLong

    try:
        page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)
    except TooLong as error:
        said = {name: page.locator(name).all_inner_texts() for name in ("#status", "#problem", "#picture-problem")}
        raise AssertionError(f"no {text!r}: {said}, complaints {page.complaints}") from error


def _is_complaint(message: Any) -> bool:
    # that a request was answered with 4xx or not at all is said by the browser, not by the page
    return message.type == "error" and "Failed to load resource" not in message.text
