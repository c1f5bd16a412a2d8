"""Ten thousand random requests and two thousand damaged pictures: the service lives and nothing has changed."""

import collections
import io
import json
import random
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.search.raw_requests import contents, fill, is_alive, send
from tests.search.serving import Served
from tests.search.test_attacks import ATTACKS

REQUESTS, PICTURES = 10_000, 2_000
PIECES = (
    b"..", b"/", b"%2e%2e%2f", b"\0", b"%00", b"'", b'"', b"<script>", b"{", b"}", b"[" * 30, b"\r\n", b"\xff\xfe",
    b";", b"--", b"A" * 300, b"NaN", b"1e999", b"-1", b"99999999999999999999", b"null", b"true", b"\xf0\x9f\x90\xa6",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"multipart/form-data", b"boundary=", b"image",
    b"query", b'{"parts":', b"more_like", b"where", b"HTTP/1.1", b"%25", b"\\", b"`species`", b" OR 1=1",
)  # fmt: skip
RIGHT = {200, 304, 400, 401, 403, 404, 405, 408, 413, 414, 415, 421, 422, 431, 503}


@pytest.fixture
def unchanged(served: Served) -> Iterator[None]:
    before = contents(served.index)
    yield
    assert is_alive(served)
    assert contents(served.index) == before


def mutated(raw: bytes, rng: random.Random, pieces: tuple[bytes, ...] = PIECES) -> bytes:
    """A few bytes changed, cut, doubled, or put in."""
    made = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(made) + 1)
        what = rng.randrange(5)
        if what == 0 and made:
            made[min(at, len(made) - 1)] = rng.randrange(256)
        elif what == 1:
            del made[at : at + rng.randint(1, 40)]
        elif what == 2:
            made[at:at] = rng.choice(pieces)
        elif what == 3:
            made[at:at] = made[at : at + rng.randint(1, 60)]
        elif made:
            made[min(at, len(made) - 1)] ^= 1 << rng.randrange(8)
    return bytes(made)


def quick(served: Served, raw: bytes) -> int:
    """The status of the answer, or 0 if nothing came: then the request was not complete."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            head = connection.recv(64)
        except (ConnectionError, TimeoutError):
            return 0
    return int(head.split()[1]) if head.startswith(b"HTTP/1.") else 0


def fuzz_requests(served: Served, count: int, seed: int) -> collections.Counter[int]:
    rng = random.Random(seed)
    small = [fill(attack.request, served) for attack in ATTACKS if len(attack.request) < 3000]
    # a token's owner may change the index: that is no attack
    seeds = [raw for raw in small if b"Authorization" not in raw]
    found: collections.Counter[int] = collections.Counter()
    for _ in range(count):
        raw = mutated(rng.choice(seeds), rng)
        status = quick(served, raw)
        assert status == 0 or status in RIGHT, raw
        found[status] += 1
    return found


def fuzz_pictures(served: Served, count: int, seed: int) -> collections.Counter[int]:
    rng = random.Random(seed)
    path = next(iter(served.index.root.rglob("*.png")))
    originals = [path.read_bytes()]
    picture = Image.open(path).convert("RGB")
    for kind in ("JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"):
        file = io.BytesIO()
        picture.save(file, kind)
        originals.append(file.getvalue())
    found: collections.Counter[int] = collections.Counter()
    query = json.dumps({"parts": [{"image": 0}], "k": 1})
    with httpx.Client(base_url=served.url, timeout=30) as client:
        for _ in range(count):
            content = mutated(
                rng.choice(originals), rng, (bytes(8), b"\xff" * 8, b"IDAT", b"\xff\xd8\xff", b"\x7f\xff\xff\xff")
            )
            answer = client.post("/search", data={"query": query}, files=[("image", ("x", content))])
            assert answer.status_code in RIGHT - {304}, answer.text
            found[answer.status_code] += 1
    return found


def test_a_few_random_requests_and_pictures(served: Served, unchanged: Any) -> None:
    assert fuzz_requests(served, 60, 1)[400] > 0
    assert fuzz_pictures(served, 20, 1)[422] > 0


@pytest.mark.slow
def test_random_requests(served: Served, unchanged: Any) -> None:
    found = fuzz_requests(served, REQUESTS, 2)
    print(f"{REQUESTS} random requests: {dict(sorted(found.items()))}")
    assert sum(found.values()) == REQUESTS


@pytest.mark.slow
def test_damaged_pictures(served: Served, unchanged: Any) -> None:
    found = fuzz_pictures(served, PICTURES, 3)
    print(f"{PICTURES} damaged pictures: {dict(sorted(found.items()))}")
    assert sum(found.values()) == PICTURES
    assert set(found) <= {200, 413, 415, 422}


def test_the_sender_of_the_attacks_sees_answers(served: Served) -> None:
    answer = send(served, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert answer is not None and answer[0] == 200
