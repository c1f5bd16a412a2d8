"""Running the service: `fieldmark serve`."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fieldmark.search.encoders import load_search_encoder
from fieldmark.search.index import Index
from fieldmark.search.service.app import build_app
from fieldmark.search.service.config import ServiceConfig, is_loopback, read_token

_HEADER_SECONDS = 10.0
_IDLE_SECONDS = 15
_CONNECTIONS_PER_REQUEST = 4


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which ends connections whose first request does not come: uvicorn itself waits for ever."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._first = self.loop.call_later(_HEADER_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._first.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if self.conn.their_state is h11.IDLE and self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def make_server(app: Any, config: ServiceConfig) -> uvicorn.Server:
    """uvicorn around an application of `build_app`; `serve` on it blocks until it is told to stop."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=config.host.strip("[]"),
            port=config.port,
            http=PatientProtocol,
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=10,
            h11_max_incomplete_event_size=16 * 1024,
            limit_concurrency=_CONNECTIONS_PER_REQUEST * config.limits.requests,
        )
    )


def serve(config: ServiceConfig) -> None:
    """Open the index, load its encoder, and answer until Ctrl-C.

    Raises:
        ValueError: no index or encoder there, an encoder of another index, an unfit token file, or a port in use.
    """
    token = None if config.token_file is None else read_token(config.token_file)
    index = Index.open(config.index)
    _require_free(config)  # before the encoder is loaded, and before anybody is told to open a browser
    place = config.encoder or index.encoder_name
    if config.encoder is None and not Path(place).exists():
        raise ValueError(f"the index was built with {place}, which is not there any more: say where with --encoder")
    app = build_app(index, load_search_encoder(place, config.device), config, token)
    _log_to_stderr()
    for line in _welcome(config, len(index), token is not None):
        print(line, file=sys.stderr, flush=True)
    server = make_server(app, config)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve())
    except SystemExit as stop:  # uvicorn's answer to an address that was taken meanwhile; it has logged why
        raise _not_free(config) from stop
    if not server.started:
        raise _not_free(config)


def _require_free(config: ServiceConfig) -> None:
    """Hold that the address can be listened on. Raises ValueError."""
    try:
        addresses = socket.getaddrinfo(
            config.host.strip("[]"), config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn will
                if family == socket.AF_INET6:
                    tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                tried.bind(address)
    except OSError as error:
        raise _not_free(config, f" ({error.strerror})") from error


def _not_free(config: ServiceConfig, why: str = "") -> ValueError:
    return ValueError(f"cannot listen on {config.host}:{config.port}{why}: choose another --port, or another --host")


def _welcome(config: ServiceConfig, rows: int, has_token: bool) -> list[str]:
    host = "localhost" if is_loopback(config.host) else config.host
    lines = [f"{rows:,} pictures of {config.index}"]
    if config.port:
        lines.append(f"Open http://{host}:{config.port}/ in a browser. Ctrl-C ends.")
    if not is_loopback(config.host) and config.insecure and not has_token:
        lines.append(f"INSECURE: whoever reaches {config.host} sees every picture of this index.")
    elif not is_loopback(config.host) and config.insecure:
        lines.append(f"INSECURE: whoever reaches {config.host} sees every picture; changes need the token.")
    if not is_loopback(config.host):
        lines.append(
            "The connection is not encrypted: put a proxy with TLS in front of it on networks you do not trust."
        )
    lines.append("Items can be added and deleted with the token." if has_token else "Read only: no --token_file.")
    return lines


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("fieldmark.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(os.environ.get("FIELDMARK_LOG", "INFO"))
        logger.propagate = False
