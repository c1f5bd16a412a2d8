"""Raw requests, as an attacker writes them: built byte by byte, sent over a socket, and what came back."""

import hashlib
import io
import json
import re
import socket
import struct
import zipfile
import zlib

import httpx
from tests.search.serving import TOKEN, Index, Served, png

Answer = tuple[int, dict[str, str], bytes]
BOUNDARY = "attack"


def http(method: str, target: str, body: bytes = b"", headers: str = "", length: bool = True) -> bytes:
    lines = f"{method} {target} HTTP/1.1\r\nHost: {{host}}\r\n{headers}"
    if length and (body or method in ("POST", "DELETE")):
        lines += "Content-Length: {length}\r\n"
    return lines.encode("utf-8", "surrogateescape") + b"Connection: close\r\n\r\n" + body


def query(text: str | bytes, target: str = "/search", headers: str = "") -> bytes:
    body = text.encode() if isinstance(text, str) else text
    return http("POST", target, body, f"Content-Type: application/json\r\n{headers}")


def form(
    files: list[tuple[str, bytes]], text: str = '{"parts": [{"image": 0}]}', target: str = "/search", headers: str = ""
) -> bytes:
    body = b""
    if text:
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="query"\r\n\r\n{text}\r\n'.encode()
    for name, content in files:
        body += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n"
        ).encode() + content + b"\r\n"  # fmt: skip
    body += f"--{BOUNDARY}--\r\n".encode()
    return http("POST", target, body, f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n{headers}")


def filtered(where: object) -> bytes:
    return query(json.dumps({"parts": [{"id": "{id}"}], "where": where}))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that unpacks to width × height pixels."""
    packer = zlib.compressobj(9)
    line = b"\0" * (width // 8 + 1)
    packed = b"".join(packer.compress(line) for _ in range(min(height, 4000))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", png((1, 2, 3)))
    return file.getvalue()


def text_chunk_bomb() -> bytes:
    """A PNG whose compressed text chunk unpacks to 64 MB."""
    good = png((9, 9, 9))
    bloated = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 2**20), 9))
    return good[:33] + bloated + good[33:]


def jpeg_2000_by_name_only() -> bytes:
    return b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 200


def fill(request: bytes, served: Served) -> bytes:
    """Put in host, id and token, and the length of the body that comes of it."""
    filled = request
    for name, value in (("host", f"127.0.0.1:{served.port}"), ("id", served.ids[0]), ("token", TOKEN)):
        filled = filled.replace(f"{{{name}}}".encode(), value.encode())
    head, mark, body = filled.partition(b"\r\n\r\n")
    head = head.replace(b"{length}", str(len(body)).encode())
    return head + mark + body


def send(served: Served, raw: bytes, timeout: float = 20.0) -> Answer | None:
    """The answer, or None if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=timeout) as connection:
        received = b""
        try:
            connection.sendall(raw)
            while part := connection.recv(65536):
                received += part
                if complete(received):
                    break
        except (ConnectionError, BrokenPipeError):
            pass
    if not received.startswith(b"HTTP/1."):
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def complete(received: bytes) -> bool:
    head, mark, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(mark) and length is not None and len(body) >= int(length.group(1))


def contents(index: Index) -> dict[str, str]:
    """All files of the collection, and the rows of the index, by their sums."""
    files = {
        str(path.relative_to(index.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(index.root.rglob("*"))
        if path.is_file()
    }
    rows = sorted(str(row) for batch in index.scan() for row in batch.to_pylist())
    return files | {"rows": hashlib.sha256("".join(rows).encode()).hexdigest()}


def is_alive(served: Served) -> bool:
    found = httpx.post(f"{served.url}/search", json={"parts": [{"id": served.ids[0]}], "k": 3}, timeout=20)
    return found.status_code == 200 and len(found.json()["hits"]) == 3
