"""What strangers may try, each with what must happen; afterwards the service lives and nothing has changed."""

import json
import os
import socket
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.search.raw_requests import (
    BOUNDARY,
    bomb,
    contents,
    fill,
    filtered,
    form,
    http,
    is_alive,
    jpeg_2000_by_name_only,
    query,
    send,
    text_chunk_bomb,
    zipped,
)
from tests.search.serving import TOKEN, Index, Served, png, serve


@dataclass(frozen=True)
class Attack:
    """One request, raw, and the answers that are right.

    Attributes:
        name: what is tried.
        request: the bytes on the wire; {host}, {id} and {token} are filled in.
        statuses: any of these; 0: the connection may also be closed without an answer.
        says: must be in the answer's body.
    """

    name: str
    request: bytes
    statuses: tuple[int, ...]
    says: str = ""
    never: tuple[str, ...] = field(default=("root:", "Traceback", ".py", "<script", "site-packages"))


GIF_CUT = b"GIF89a\xff\xff\xff\xff\xf7\0\0" + b"\0" * 40
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
XXE = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>'
DEEP = '{"parts": ' + "[" * 5000 + "]" * 5000 + "}"
TOKEN_HEADER = "Authorization: Bearer {token}\r\n"
NOT_FOUND = (404,)
BAD = (400, 422)

ATTACKS = [
    Attack("a path that is none is not sent elsewhere", http("GET", "?search"), (400, 404)),
    Attack("a slash too many is not sent elsewhere", http("GET", "/health/"), NOT_FOUND),
    # --- paths that lead out of the root
    Attack("dots", http("GET", "/../../../../etc/passwd"), NOT_FOUND),
    Attack("dots below items", http("GET", "/items/../../../etc/passwd"), NOT_FOUND),
    Attack("encoded dots", http("GET", "/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd/image"), NOT_FOUND),
    Attack("doubly encoded dots", http("GET", "/items/%252e%252e%252fetc%252fpasswd/image"), NOT_FOUND),
    Attack("overlong UTF-8 dots", http("GET", "/items/%c0%ae%c0%ae%c0%afetc/image"), NOT_FOUND),
    Attack("backslashes", http("GET", "/items/..%5c..%5cetc%5cpasswd/image"), NOT_FOUND),
    Attack("absolute path as id", http("GET", "/items/%2Fetc%2Fpasswd/image"), NOT_FOUND),
    Attack("NUL in the id", http("GET", "/items/{id}%00.png/image"), NOT_FOUND),
    Attack("line break in the id", http("GET", "/items/{id}%0d%0aX-Evil:%201/image"), NOT_FOUND),
    Attack("page file above the page", http("GET", "/page/..%2fapp.py"), NOT_FOUND),
    Attack("page file by absolute path", http("GET", "/page/%2fetc%2fpasswd"), NOT_FOUND),
    Attack("source of the service", http("GET", "/page/__init__.py"), NOT_FOUND),
    Attack("id in capitals with wildcard", http("GET", "/items/%25/image"), NOT_FOUND),
    Attack("id with SQL", http("GET", "/items/x'%20OR%20'1'='1/image"), NOT_FOUND),
    Attack("id in full-width digits", http("GET", "/items/%EF%BC%90123456789abcdef"), NOT_FOUND),
    Attack("thumbnail of absurd size", http("GET", "/items/{id}/thumbnail?size=100000000"), (422,)),
    Attack("thumbnail size as text", http("GET", "/items/{id}/thumbnail?size=%27"), (422,)),
    Attack("sample of absurd size", http("GET", "/items?limit=100000000"), (422,)),
    # --- reflected markup, headers
    Attack("script in the path", http("GET", "/<script>alert(1)</script>"), (404, 400)),
    Attack("script in the query", http("GET", "/about?x=<script>alert(1)</script>"), (200, 400)),
    Attack("script in the filter", filtered("<script>alert(1)</script>"), BAD),
    Attack("script in a column's name", filtered("`<script>` = 'x'"), BAD, never=("Traceback", ".py")),
    Attack("other host (DNS rebinding)", b"GET /items HTTP/1.1\r\nHost: evil.example\r\n\r\n", (421,)),
    Attack("no host", b"GET /items HTTP/1.0\r\n\r\n", (421, 400)),
    Attack("two hosts", b"GET /items HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n", (400,)),
    Attack("host as prefix", b"GET /items HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", (421,)),
    Attack(
        "forged proxy headers",
        http("GET", "/health", headers="X-Forwarded-Host: evil\r\nX-Forwarded-For: ::1\r\n"),
        (200,),
    ),
    Attack("form of a foreign page", query("{}", headers="Origin: http://evil.example\r\n"), (403,)),
    Attack("page without origin", query("{}", headers="Origin: null\r\n"), (403,)),
    Attack("other port of this computer", query("{}", headers="Origin: http://127.0.0.1:1\r\n"), (403,)),
    Attack("cross-site by fetch metadata", query("{}", headers="Sec-Fetch-Site: cross-site\r\n"), (403,)),
    Attack("log forged by the request id", http("GET", "/health", headers="X-Request-ID: a b\tc\r\n"), (200,)),
    Attack("header of 100 kB", http("GET", "/health", headers=f"X-Long: {'a' * 100_000}\r\n"), (431, 400, 0)),
    Attack("path of 100 kB", http("GET", "/" + "a" * 100_000), (414, 400, 0)),
    Attack("5,000 headers", http("GET", "/health", headers="A: b\r\n" * 5000), (431, 400, 0)),
    Attack(
        "upgrade to a web socket", http("GET", "/", headers="Upgrade: websocket\r\nConnection: Upgrade\r\n"), (200, 400)
    ),
    Attack("TRACE", http("TRACE", "/"), (404, 405)),
    Attack("unknown method", http("BREW", "/about"), (404, 405)),
    Attack("PUT on an item", http("PUT", "/items/{id}", b"x"), (404, 405)),
    Attack("no HTTP at all", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), (400, 0)),
    Attack("request line with NUL", b"GET /\0 HTTP/1.1\r\nHost: {host}\r\n\r\n", (400, 0)),
    # --- bodies
    Attack(
        "announced body of 10 TB",
        http("POST", "/search", headers="Content-Length: 10995116277760\r\n", length=False),
        (413,),
    ),
    Attack("negative length", http("POST", "/search", headers="Content-Length: -1\r\n", length=False), (400,)),
    Attack(
        "two lengths",
        http("POST", "/search", headers="Content-Length: 2\r\nContent-Length: 9\r\n", length=False),
        (400,),
    ),
    Attack(
        "length and chunks (smuggling)",
        http(
            "POST",
            "/search",
            b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            False,
        ),
        (400, 415, 422),
    ),
    Attack(
        "chunk of absurd size",
        http("POST", "/search", b"ffffffffffffffff\r\nx", "Transfer-Encoding: chunked\r\n", False),
        (400, 408, 413, 415, 0),
    ),
    Attack(
        "body that never comes",
        http("POST", "/search", headers="Content-Type: application/json\r\nContent-Length: 9\r\n", length=False),
        (408,),
    ),
    Attack("no body", http("POST", "/search"), (415,)),
    Attack("XML body", http("POST", "/search", XXE, "Content-Type: application/xml\r\n"), (415,)),
    Attack("no JSON", query("{'parts': ["), (400,)),
    Attack("JSON that is no object", query("[1, 2, 3]"), (422,)),
    Attack("deep JSON", query(DEEP), BAD),
    Attack("JSON of 1 MB", query('{"parts": [' + " " * 2**20 + "]}"), (413,)),
    Attack("no UTF-8", query(b'{"where": "\xff\xfe"}'), (400,)),
    Attack("lone surrogate", query(r'{"parts": [{"text": "\ud800"}]}'), BAD),
    Attack("unknown field", query('{"parts": [], "__proto__": {"x": 1}}'), (422,)),
    Attack("weight NaN", query('{"parts": [{"id": "{id}", "weight": NaN}]}'), BAD),
    Attack("weight infinite", query('{"parts": [{"id": "{id}", "weight": 1e999}]}'), BAD),
    Attack("weight huge", query('{"parts": [{"id": "{id}", "weight": 1e300}]}'), BAD),
    Attack("k of a billion", query('{"parts": [{"id": "{id}"}], "k": 1000000000}'), BAD),
    Attack("k negative", query('{"parts": [{"id": "{id}"}], "k": -1}'), BAD),
    Attack("k as text", query('{"parts": [{"id": "{id}"}], "k": "20; DROP TABLE"}'), BAD),
    Attack("integer of 4,000 digits", query('{"k": ' + "9" * 4000 + "}"), BAD),
    Attack("a thousand parts", query(json.dumps({"parts": [{"text": "a"}] * 1000})), BAD),
    Attack("text of 100,000 characters", query(json.dumps({"parts": [{"text": "a" * 100_000}]})), BAD),
    Attack("words for an encoder without", query('{"parts": [{"text": "a bird"}]}'), (400,)),
    Attack("picture that was not sent", query('{"parts": [{"image": 7}]}'), (422,)),
    Attack("picture number negative", query('{"parts": [{"image": -1}]}'), (422,)),
    Attack("id as path", query('{"parts": [{"id": "../../etc/passwd"}]}'), (422,)),
    Attack("unknown id", query('{"parts": [{"id": "ffffffffffffffff"}]}'), (404,)),
    Attack(
        "parts that cancel out", query('{"parts": [{"id": "{id}", "weight": 1}, {"id": "{id}", "weight": -1}]}'), (400,)
    ),
    Attack("nothing asked", query("{}"), BAD),
    # --- filters
    Attack("filter: second statement", filtered("number = 1; DELETE FROM pictures"), (400,)),
    Attack("filter: comment", filtered("number = 1 -- x"), (400,)),
    Attack("filter: always true", filtered("1 = 1"), (400,)),
    Attack("filter: bracket over two", filtered(["number = 1) OR (number > 0", "(number = 1"]), (400,)),
    Attack("filter: many", filtered(["number = 1"] * 1000), (422,)),
    Attack("filter: nested list", filtered([["number = 1"]]), (422,)),
    Attack("filter: function", filtered("pg_sleep(10) = 1"), (400,)),
    Attack("filter: file function", filtered("read_text('/etc/passwd') = 'x'"), (400,)),
    Attack("filter: subquery", filtered("number IN (SELECT number FROM pictures)"), (400,)),
    Attack("filter: UNION", filtered("number = 1 UNION SELECT 1"), (400,)),
    Attack("filter: embedding", filtered("embedding IS NOT NULL"), (400,)),
    Attack("filter: hidden column", filtered("_rowid = 1"), (400,)),
    Attack("filter: cast", filtered("CAST(number AS string) = '1'"), (400,)),
    Attack("filter: deep brackets", filtered("(" * 400 + "number = 1" + ")" * 400), (400,)),
    Attack("filter: 100,000 characters", filtered("number = 1 OR " * 8000 + "number = 1"), (422,)),
    Attack("filter: quote not closed", filtered("species = 'x"), (400,)),
    Attack("filter: NUL", query(r'{"parts": [{"id": "{id}"}], "where": "species = \u0027a\u0000b\u0027"}'), (400,)),
    Attack("filter: backtracking pattern", filtered("species LIKE '" + "%a" * 300 + "'"), (200, 400)),
    # --- pictures
    Attack("picture: script called PNG", form([("a.png", b"<script>alert(1)</script>")]), (415,)),
    Attack("picture: SVG", form([("a.png", SVG)]), (415,), "SVG"),
    Attack("picture: SVG with entity", form([("a.png", XXE)]), (415,)),
    Attack("picture: ZIP", form([("a.png", zipped())]), (415,), "ZIP"),
    Attack("picture: gzip", form([("a.png", zlib.compress(b"x", wbits=31))]), (415,)),
    Attack("picture: PDF", form([("a.png", b"%PDF-1.7\n1 0 obj")]), (415,)),
    Attack("picture: PostScript", form([("a.png", b"%!PS-Adobe-3.0 EPSF\n(/etc/passwd) run")]), (415,)),
    Attack("picture: pickle", form([("a.png", b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.")]), (415,)),
    Attack("picture: empty", form([("a.png", b"")]), (415,)),
    Attack("picture: bomb by header", form([("a.png", bomb(100_000, 100_000))]), (422,), "pixels"),
    Attack("picture: bomb below the limit of Pillow", form([("a.png", bomb(9_000, 9_000))]), (422,), "pixels"),
    Attack("picture: text chunk bomb", form([("a.png", text_chunk_bomb())]), (200, 413, 422)),
    Attack("picture: truncated", form([("a.png", png((1, 2, 3), 64)[:60])]), (422,)),
    Attack("picture: GIF with absurd screen", form([("a.gif", GIF_CUT)]), (422,)),
    Attack("picture: damaged JPEG 2000", form([("a.jp2", jpeg_2000_by_name_only())]), (422,)),
    Attack("picture: too many bytes", form([("a.png", png((1, 2, 3)) + bytes(2**20))]), (413,)),
    Attack("picture: too many", form([("a.png", png((1, 2, 3)))] * 9), (400,)),
    Attack("picture: name with a path", form([("../../../../tmp/evil.png", png((1, 2, 3)))]), (200,)),
    Attack("picture: name with NUL", form([("a\0.png", png((1, 2, 3)))]), (200, 400)),
    Attack("form: unknown field", form([], "{}").replace(b'name="query"', b'name="root"'), (400,)),
    Attack(
        "form: two queries", form([], "{}").replace(b"--attack--", form([], "{}").partition(b"\r\n\r\n")[2]), (400,)
    ),
    Attack("form: no boundary", http("POST", "/search", b"x", "Content-Type: multipart/form-data\r\n"), (400,)),
    Attack(
        "form: never ends",
        http(
            "POST", "/search", b"--attack\r\nContent-Dis", f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        ),
        BAD,
    ),
    Attack(
        "form: header of 1 MB",
        form([], "{}").replace(b"Content-Disposition", b"X" * 500_000 + b": y\r\nContent-Disposition", 1),
        (400, 0),
    ),
    Attack("form: charset", form([], "{}").replace(b"boundary=", b"charset=zlib_codec; boundary=", 1), (200, 400, 422)),
    # --- changes
    Attack("add without token", form([("a.png", png((1, 2, 3)))], "{}", "/items"), (401,)),
    Attack(
        "add with a wrong token",
        form([("a.png", png((1, 2, 3)))], "{}", "/items", "Authorization: Bearer x\r\n"),
        (401,),
    ),
    Attack(
        "add with half the token",
        form([("a.png", png((1, 2, 3)))], "{}", "/items", f"Authorization: Bearer {TOKEN[:-1]}\r\n"),
        (401,),
    ),
    Attack(
        "token as basic password",
        form([("a.png", png((1, 2, 3)))], "{}", "/items", "Authorization: Basic {token}\r\n"),
        (401,),
    ),
    Attack("token in the address", form([("a.png", png((1, 2, 3)))], "{}", "/items?token={token}"), (401,)),
    Attack(
        "two tokens",
        form([("a.png", png((1, 2, 3)))], "{}", "/items", "Authorization: Bearer x\r\n" + TOKEN_HEADER),
        (401, 400),
    ),
    Attack("delete without token", http("DELETE", "/items/{id}"), (401,)),
    Attack(
        "delete by a foreign page",
        http("DELETE", "/items/{id}", headers=TOKEN_HEADER + "Origin: http://evil.example\r\n"),
        (403,),
    ),
    Attack("delete of a path", http("DELETE", "/items/..%2f..%2fetc%2fpasswd", headers=TOKEN_HEADER), NOT_FOUND),
    Attack("delete of everything", http("DELETE", "/items/x'%20OR%201=1%20--", headers=TOKEN_HEADER), NOT_FOUND),
    Attack("delete of what is not there", http("DELETE", "/items/ffffffffffffffff", headers=TOKEN_HEADER), NOT_FOUND),
    Attack("add an SVG", form([("a.svg", SVG)], "{}", "/items", TOKEN_HEADER), (415,)),
    Attack("add nothing", form([], "{}", "/items", TOKEN_HEADER), (422,)),
    Attack(
        "add with a path as metadata column",
        form([("a.png", png((1, 2, 3)))], '{"metadata": {"path": "/etc/passwd"}}', "/items", TOKEN_HEADER),
        (422,),
    ),
    Attack(
        "add with metadata of another type",
        form([("a.png", png((1, 2, 3)))], '{"metadata": {"number": "x"}}', "/items", TOKEN_HEADER),
        (422,),
    ),
    Attack(
        "add with a number too large",
        form([("a.png", png((1, 2, 3)))], '{"metadata": {"number": 1e400}}', "/items", TOKEN_HEADER),
        BAD,
    ),
    # --- explanations
    Attack("explain a path", query('{"a": {"id": "/etc/passwd"}, "b": {"id": "{id}"}}', "/explain"), (422,)),
    Attack("explain nothing", query('{"a": {}, "b": {}}', "/explain"), (422,)),
    Attack(
        "explain a picture that was not sent", query('{"a": {"image": 5}, "b": {"id": "{id}"}}', "/explain"), (422,)
    ),
    Attack(
        "explain a bomb",
        form([("a.png", bomb(100_000, 100_000))], '{"a": {"image": 0}, "b": {"id": "{id}"}}', "/explain"),
        (422,),
    ),
]


@pytest.fixture(scope="module")
def untouched(served: Served) -> Iterator[None]:
    """Holds that nothing has changed when the last attack is over."""
    before = contents(served.index)
    yield
    assert is_alive(served)
    assert contents(served.index) == before


def test_there_are_enough_attacks_and_each_has_its_own_name() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(served: Served, untouched: None, attack: Attack) -> None:
    answer = send(served, fill(attack.request, served))
    if answer is None:
        assert 0 in attack.statuses, "the connection was closed without an answer"
    else:
        status, headers, body = answer
        assert status in attack.statuses, body[:300]
        assert attack.says.encode() in body
        for secret in attack.never:
            assert secret.encode() not in body or (
                secret == "<script" and headers["content-type"].startswith("text/html")
            )
        if "x-request-id" in headers:  # not from uvicorn's own refusals
            assert headers["x-content-type-options"] == "nosniff"
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "x-evil" not in headers
            if status >= 400:
                assert set(json.loads(body)["error"]) - {"picture", "where"} == {"code", "message", "request_id"}
    assert is_alive(served)


# --- attacks that need files or several requests


@pytest.mark.parametrize("kind", ["link to a file outside", "link to a folder outside", "exchanged for a page", "pipe"])
def test_files_of_the_collection_that_turn_hostile(
    bird_encoder: Any, tmp_path: Path, kind: str, make_birds: Callable[[Path], Index]
) -> None:
    index = make_birds(tmp_path)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png((66, 66, 66)))
    row = next(iter(index.scan(["id", "path"]))).to_pylist()[0]
    file = index.root / row["path"]
    if kind == "link to a folder outside":
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / file.name).write_bytes(png((66, 66, 66)))
        for other in file.parent.iterdir():
            other.unlink()
        file.parent.rmdir()
        file.parent.symlink_to(outside)
    else:
        file.unlink()
        if kind == "link to a file outside":
            file.symlink_to(secret)
        elif kind == "pipe":
            os.mkfifo(file)
        else:
            file.write_bytes(b"<html><script>alert(1)</script></html>")
    with serve(index, bird_encoder) as running:
        for what in ("image", "thumbnail"):
            answer = httpx.get(f"{running.url}/items/{row['id']}/{what}", timeout=20)
            assert answer.status_code == (415 if kind == "exchanged for a page" else 404)
            assert answer.headers["content-type"] == "application/json"
        assert is_alive(running)


def test_upload_folder_that_is_a_link_is_not_followed(
    bird_encoder: Any, tmp_path: Path, make_birds: Callable[[Path], Index]
) -> None:
    index = make_birds(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (index.root / "added").symlink_to(outside)
    with serve(index, bird_encoder) as running:
        answer = httpx.post(
            f"{running.url}/items",
            files=[("image", ("a.png", png((1, 2, 3))))],
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=20,
        )
        assert answer.status_code == 409
    assert list(outside.iterdir()) == []
    assert len(index) == 4


def test_slow_headers_do_not_hold_a_connection_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from fieldmark.search.service import server

    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        assert connection.recv(100) == b""
    assert is_alive(served)
