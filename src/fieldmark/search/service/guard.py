"""What every request passes before it is worked on, and every answer before it is sent.

In this order: an id for the log; the name it was sent to, and the page it was sent from (so that no foreign page can
use a visitor's browser against the service); the token; room; the size and the patience of its body. Answers get
the headers that keep browsers from executing or embedding anything. Errors become one JSON shape, without a trace
of where they happened.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fieldmark.search.service.config import Limits
from fieldmark.search.service.errors import Refusal, error_body, overloaded, token_needed
from fieldmark.search.service.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("fieldmark.service")
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"})
_HEADERS, _HEADER_BYTES, _ADDRESS_BYTES = 100, 16 * 1024, 8 * 1024
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)


@dataclass(frozen=True)
class Access:
    """Whom the service answers.

    Attributes:
        token: the secret, or None.
        private: whether reading needs the token, too.
        hosts: names that requests may be sent to, lower case, without port; None: any.
        open_paths: what is answered without the token even if private: the page's own files, /health.
        unlimited_paths: what is answered even if there is no room: /health, /metrics and the page's own files.
    """

    token: str | None
    private: bool
    hosts: frozenset[str] | None
    open_paths: Collection[str]
    unlimited_paths: Collection[str]

    def token_is_right(self, given: str | None) -> bool:
        """Compares in a time that tells nothing about the secret, its length included."""
        if self.token is None or given is None:
            return False
        ours, theirs = (hashlib.sha256(one.encode("utf-8", "surrogateescape")).digest() for one in (self.token, given))
        return hmac.compare_digest(ours, theirs)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._active = 0
        self._bytes = 0
        """Of the bodies of all requests that are worked on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _single_headers(scope["headers"])
        given = headers.get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        began = time.perf_counter()
        self._metrics.request_began()
        counted = scope["path"] not in self._access.unlimited_paths
        self._active += counted
        body = _Body()
        try:
            self._admit(scope, headers, counted)
            await self._app(scope, self._limited(receive, body), answer.send)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception:
            LOG.exception("request %s failed", request_id)
            await answer.refuse(
                Refusal(500, "internal", "something went wrong here; the log has it under the request id")
            )
        finally:
            self._active -= counted
            self._bytes -= body.received
            self._log(scope, answer.status, time.perf_counter() - began, request_id)

    def _admit(self, scope: Scope, headers: dict[str, str], counted: bool) -> None:
        # uvicorn's own limit counts only what has not arrived at once
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > _HEADER_BYTES or len(scope["headers"]) > _HEADERS:
            raise Refusal(431, "bad_request", f"more than {_HEADERS} headers, or {_HEADER_BYTES} bytes of them")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > _ADDRESS_BYTES:
            raise Refusal(414, "bad_request", f"the address has more than {_ADDRESS_BYTES} bytes")
        if headers.get("host") == _AMBIGUOUS or headers.get("content-length") == _AMBIGUOUS:
            raise Refusal(400, "bad_request", "a header that must be unique was given twice")
        host = headers.get("host", "").lower()
        if self._access.hosts is not None and _without_port(host) not in self._access.hosts:
            raise Refusal(421, "wrong_host", "the service does not answer under this name: see --allowed_hosts")
        if scope["method"] not in _READING:
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc.lower() != host
            if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refusal(403, "foreign_page", "requests from other sites' pages are not answered")
        authorised = self._access.token_is_right(_bearer(headers.get("authorization")))
        scope["state"]["authorised"] = authorised
        if self._access.private and not authorised and scope["path"] not in self._access.open_paths:
            raise token_needed(given="authorization" in headers)
        if counted and self._active > self._limits.requests:
            raise overloaded("too many requests at once", 1)
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or len(length) > 15):
            raise Refusal(400, "bad_request", "the content length is no number")
        if length is not None and int(length) > self._limits.body_bytes:
            raise _too_large(self._limits)

    def _limited(self, receive: Receive, body: "_Body") -> Receive:
        deadline = time.monotonic() + self._limits.body_seconds

        async def limited() -> Message:
            if body.whole:  # what comes now is at most the client's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                raise Refusal(
                    408, "too_slow", f"the request did not arrive in {self._limits.body_seconds:g} s"
                ) from None
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                body.received += size
                self._bytes += size
                body.whole = not message.get("more_body", False)
                if body.received > self._limits.body_bytes:
                    raise _too_large(self._limits)
                if self._bytes > self._limits.bodies_mb * 2**20:
                    raise overloaded("too many pictures are being sent at once", 2)
            return message

        return limited

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.request_ended(method, route, status, seconds)
        # As JSON, so that no path can forge a line of the log; the query is left out: it holds what people look for.
        line = {"id": request_id, "method": method, "path": scope["path"][:200], "status": status}
        LOG.info("%s", json.dumps(line | {"ms": round(1000 * seconds, 1)}))


@dataclass
class _Body:
    """How much of a request's body has come, and whether that was all."""

    received: int = 0
    whole: bool = False


class _Answer:
    """Sends one answer, with the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 499  # as long as nothing was sent: the client left
        self._began = False
        self._complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._began = True
            self.status = message["status"]
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            given += [(name, value) for name, value in SECURITY_HEADERS if name not in names]
            given.append((b"x-request-id", self._request_id.encode()))
            if b"cache-control" not in names:
                given.append((b"cache-control", b"no-store"))
            message = {**message, "headers": given}
        elif message["type"] == "http.response.body":
            self._complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self._complete:
            return
        if self._began:  # too late for another status: break the connection off rather than end it as if it were whole
            raise ConnectionError(refusal.code)
        body = json.dumps(error_body(refusal, self._request_id)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += refusal_headers(refusal)
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """Headers that belong to a refusal's status."""
    headers: list[tuple[bytes, bytes]] = []
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == 408:
        headers.append((b"connection", b"close"))
    return headers


_AMBIGUOUS = "\0"
_UNIQUE = frozenset({"host", "content-length", "authorization", "origin"})


def _single_headers(headers: Collection[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        key = name.decode("latin-1").lower()
        found[key] = _AMBIGUOUS if key in found and key in _UNIQUE else value.decode("latin-1")
    return found


def _bearer(header: str | None) -> str | None:
    if header is None or not header.lower().startswith("bearer "):
        return None
    return header[7:].strip()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0]


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, "too_large", f"the request is larger than the limit of {limits.body_bytes} bytes")
