"""What every request passes: names, origins, tokens, room and size; files below the root; who may be answered."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from fieldmark.search.service.config import MIN_TOKEN, Limits, ServiceConfig, is_loopback, read_token
from fieldmark.search.service.confinement import open_below, remove_below, write_below
from fieldmark.search.service.errors import Refusal, token_needed
from fieldmark.search.service.guard import Access, Guard
from fieldmark.search.service.metrics import Metrics

TOKEN = "0123456789abcdef-secret"
LIMITS = Limits(pictures=1, picture_bytes=2**18, requests=2, bodies_mb=1, body_seconds=0.3)
OPEN = Access(None, False, frozenset({"localhost", "127.0.0.1"}), {"/", "/health"}, {"/", "/health"})
PRIVATE = Access(TOKEN, True, None, {"/", "/health"}, {"/", "/health"})


async def reads_everything(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


def ask(
    guard: Guard,
    method: str = "GET",
    path: str = "/items",
    headers: dict[str, str] | None = None,
    body: list[bytes] | None = None,
) -> tuple[int, dict[str, str]]:
    return asyncio.run(answer(guard, method, path, headers, body))


async def answer(
    guard: Guard, method: str, path: str, headers: dict[str, str] | None, body: list[bytes] | None
) -> tuple[int, dict[str, str]]:
    given = {"host": "localhost:8077"} | (headers or {})
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }
    chunks = list(body or [b""])
    sent: list[Any] = []

    async def receive() -> Any:
        if not chunks:
            await asyncio.sleep(20)
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def made(access: Access = OPEN, app: Any = reads_everything, limits: Limits = LIMITS) -> Guard:
    return Guard(app, access, limits, Metrics())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "127.0.0.1:99"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": ""}, 421),
        ({"content-length": "12x"}, 400),
        ({"content-length": "99999999"}, 413),
    ],
)
def test_host_and_length(headers: dict[str, str], status: int) -> None:
    assert ask(made(), headers=headers)[0] == status


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {"origin": "http://localhost:8077"}, 200),
        ("POST", {"sec-fetch-site": "same-origin"}, 200),
        ("POST", {}, 200),
        ("GET", {"origin": "http://evil.example"}, 200),  # a link to the page; what it reads, CORS keeps from it
        ("POST", {"origin": "http://evil.example"}, 403),
        ("POST", {"origin": "http://localhost:1"}, 403),
        ("POST", {"origin": "null"}, 403),
        ("DELETE", {"sec-fetch-site": "cross-site"}, 403),
        ("POST", {"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_pages_of_others_cannot_use_a_visitors_browser(method: str, headers: dict[str, str], status: int) -> None:
    assert ask(made(), method, headers=headers)[0] == status


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/items", None, 401),
        ("/items", "Bearer wrong", 401),
        ("/items", f"Basic {TOKEN}", 401),
        ("/items", f"Bearer {TOKEN}x", 401),
        ("/items", f"bearer {TOKEN}", 200),
        ("/items", f"Bearer {TOKEN}", 200),
        ("/", None, 200),
        ("/health", None, 200),
        ("/metrics", None, 401),
        ("//health", None, 401),
        ("/health/", None, 401),
    ],
)
def test_token(path: str, authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    found, given = ask(made(PRIVATE), path=path, headers=headers)
    assert found == status
    assert ("www-authenticate" in given) == (status == 401)


def test_a_wrong_token_is_told_from_none() -> None:
    assert "wrong" in token_needed(given=True).message and "wrong" not in token_needed(given=False).message


def test_every_answer_has_the_headers_of_a_careful_server() -> None:
    for access, status in ((OPEN, 200), (PRIVATE, 401)):
        found, headers = ask(made(access))
        assert found == status
        assert headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_request_id_is_taken_if_it_is_one() -> None:
    assert ask(made(), headers={"x-request-id": "abc-123"})[1]["x-request-id"] == "abc-123"
    for bad in ("a b", "x" * 65, "a\nb", "<b>", ""):
        assert ask(made(), headers={"x-request-id": bad})[1]["x-request-id"] != bad


def test_body_without_length_is_counted_while_it_comes() -> None:
    assert ask(made(), "POST", body=[bytes(2**18)])[0] == 200
    assert ask(made(), "POST", body=[bytes(2**18)] * 3)[0] == 413


def test_slow_body_is_given_up() -> None:
    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async def first_half() -> int:
        guard = made(app=waits)
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"a", "more_body": True}]

        async def receive() -> Any:
            if not messages:
                await asyncio.sleep(20)
            return messages.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "headers": [(b"host", b"localhost")]}
        await guard(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(first_half()) == 408


def test_room_for_so_many_requests_and_then_503() -> None:
    async def three() -> list[int]:
        gate = asyncio.Event()

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await reads_everything(scope, receive, send)

        guard = made(app=waits)
        tasks = [asyncio.create_task(answer(guard, "GET", "/items", None, None)) for _ in range(3)]
        await asyncio.sleep(0.05)
        health = asyncio.create_task(answer(guard, "GET", "/health", None, None))  # asked by who watches the service
        await asyncio.sleep(0.05)
        gate.set()
        found = [await task for task in tasks]
        assert (await health)[0] == 200
        refused = next(headers for status, headers in found if status == 503)
        assert int(refused["retry-after"]) >= 1
        statuses = sorted(status for status, _ in found)
        assert (await answer(guard, "GET", "/items", None, None))[0] == 200  # and there is room again
        return statuses

    assert asyncio.run(three()) == [200, 200, 503]


def test_memory_of_all_bodies_together_is_bounded() -> None:
    async def many() -> list[int]:
        gate = asyncio.Event()

        async def holds(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        guard = made(app=holds, limits=Limits(pictures=1, picture_bytes=2**19, requests=99, bodies_mb=1))
        tasks = [asyncio.create_task(answer(guard, "POST", "/search", None, [bytes(2**19)])) for _ in range(4)]
        await asyncio.sleep(0.05)
        gate.set()
        statuses = sorted([(await task)[0] for task in tasks])
        assert (await answer(guard, "POST", "/search", None, [bytes(2**19)]))[0] == 200
        return statuses

    assert asyncio.run(many()) == [200, 200, 503, 503]


def test_error_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the password is swordfish")

    status, headers = ask(made(app=fails))
    assert status == 500
    assert "swordfish" in caplog.text and headers["x-request-id"] in caplog.text


def test_paths_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ask(made(), path="/a\n2026-01-01 INFO forged")
    assert all("\n" not in record.getMessage() for record in caplog.records)


# --- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "picture.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.png")
    return root


def test_file_below_the_root(root: Path) -> None:
    with open_below(root, "a/b/picture.png") as file:
        assert file.read() == b"inside"


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "link.png", "folder/secret.png", "a//b/picture.png", "",
     "a/b/picture.png\0.jpg", "a/b", "pipe.png", "a/b/picture.png/x", "./a/b/picture.png", "nothing.png"],
)  # fmt: skip
def test_other_paths_are_not_found(root: Path, path: str) -> None:
    with pytest.raises(Refusal) as refused:
        open_below(root, path)
    assert refused.value.status == 404
    with pytest.raises(Refusal):
        remove_below(root, path if "/" in path else "folder/secret.png")
    assert (root.parent / "secret.png").exists()


def test_writing_is_whole_and_never_replaces(root: Path) -> None:
    assert write_below(root, "added", "x.png", b"first")
    assert not write_below(root, "added", "x.png", b"second")
    assert (root / "added" / "x.png").read_bytes() == b"first"
    assert [path.name for path in (root / "added").iterdir()] == ["x.png"]
    with pytest.raises(Refusal) as refused:
        write_below(root, "folder", "x.png", b"through a link")
    assert refused.value.status == 409
    remove_below(root, "added/x.png")
    remove_below(root, "added/x.png")
    assert list((root / "added").iterdir()) == []


# --- whom it answers


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("192.168.1.4", False), ("::", False), ("example.org", False), ("127.0.0.1.example.org", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
    if expected:
        assert ServiceConfig(index="x", host=host).host == host
    else:
        with pytest.raises(ValueError, match=r"--token_file|--insecure"):
            ServiceConfig(index="x", host=host)
        assert ServiceConfig(index="x", host=host, insecure=True).insecure
        assert ServiceConfig(index="x", host=host, token_file="secret").token_file == "secret"


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"port": 70000}, "port"), ({"decode_workers": 0}, "decode_workers"), ({"host": ""}, "host")],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ServiceConfig(**{"index": "x"} | settings)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("short", 0o600, str(MIN_TOKEN)),
        ("two words of a long secret", 0o600, "one word"),
        ("a-good-secret-of-many-letters", 0o644, "chmod 600"),
        ("ein-geheimnis-mit-umlaut-ü", 0o600, "ASCII"),
    ],
)
def test_token_files_that_are_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(ValueError, match=said):
        read_token(file)


def test_token_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  a-good-secret-of-many-letters\n")
    file.chmod(0o600)
    assert read_token(file) == "a-good-secret-of-many-letters"
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(tmp_path / "nothing")
