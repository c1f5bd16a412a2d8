"""Decoding in processes: the same pixels as anywhere else, and limits that hold."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.decode import decode_image
from fieldmark.search.service.config import Limits
from fieldmark.search.service.decoding import DecodePool, check_picture
from fieldmark.search.service.errors import Refusal

LIMITS = Limits(picture_pixels=20_000_000, decode_seconds=20, decode_memory_mb=300)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    made = DecodePool(1, LIMITS)
    yield made
    made.close()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def upright_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 90, "exif": upright_exif()}), ("WEBP", {"lossless": True})]
)
def test_square_is_what_decoding_here_gives(pool: DecodePool, kind: str, options: dict[str, Any]) -> None:
    content = encoded(noise(40, 24), kind, **options)
    pixels, facts = pool.square(content, 16)
    image = decode_image(content)
    assert np.array_equal(pixels, np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))
    assert (facts.width, facts.height) == image.size == ((24, 40) if kind == "JPEG" else (40, 24))
    assert facts.format == kind
    pixels[0, 0] = 0  # it may be written to


def test_fitted_keeps_the_shape(pool: DecodePool) -> None:
    image = Image.open(BytesIO(pool.fitted(encoded(noise(200, 100)), 64).payload))
    assert (image.format, image.size) == ("WEBP", (64, 32))


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 415, "empty"),
        (b"<svg xmlns='x'/>", 415, "SVG"),
        (b"PK\x03\x04aaaa", 415, "ZIP"),
        (bytes(range(256)) * 4, 415, "no known picture format"),
        (encoded(noise(40, 24))[:200], 422, "damaged"),
        (encoded(Image.new("1", (5000, 4001))), 422, "pixels"),
    ],
)
def test_refusals_say_why(pool: DecodePool, content: bytes, status: int, reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refused:
        pool.square(content, 16)
    assert refused.value.status == status


def test_by_content_not_by_decoding() -> None:
    check_picture(b"\xff\xd8\xff" + bytes(20))  # claims to be a JPEG: for the process to decide
    with pytest.raises(Refusal, match="web page"):
        check_picture(b"<!DOCTYPE html><html>")


def test_too_much_memory_costs_the_picture_and_not_the_service(pool: DecodePool) -> None:
    small = DecodePool(1, replace(LIMITS, decode_memory_mb=24))
    try:
        with pytest.raises(Refusal) as refused:
            small.square(encoded(Image.new("RGB", (4000, 3000))), 16)
        assert refused.value.status == 422
        assert small.square(encoded(noise(8, 8)), 16)[0].shape == (16, 16, 3)
    finally:
        small.close()


def test_too_much_time_kills_the_process(pool: DecodePool) -> None:
    quick = DecodePool(1, replace(LIMITS, decode_seconds=0.05))
    try:
        first = quick.square(encoded(noise(8, 8)), 16)[1]  # the start is not the picture's
        assert first.width == 8
        process = only_process(quick)
        process.send_signal(signal.SIGSTOP)  # a decoder that never comes back
        with pytest.raises(Refusal, match="longer than"):
            quick.square(encoded(noise(8, 8)), 16)
        assert process.returncode == -signal.SIGKILL
        assert quick.square(encoded(noise(8, 8)), 16)[1].width == 8
    finally:
        quick.close()


def test_crash_is_the_pictures_fault(pool: DecodePool) -> None:
    pool.square(encoded(noise(8, 8)), 16)
    process = only_process(pool)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(Refusal, match="crash"):
        pool.square(encoded(noise(8, 8)), 16)
    assert pool.square(encoded(noise(8, 8)), 16)[1].width == 8
    assert only_process(pool).pid != process.pid


def test_process_holds_no_torch_and_can_write_no_file(pool: DecodePool) -> None:
    pool.square(encoded(noise(8, 8)), 16)
    pid = only_process(pool).pid
    about = Path(f"/proc/{pid}")
    if not about.is_dir():
        pytest.skip("this system has no /proc")
    assert "libtorch" not in (about / "maps").read_text()
    limits = (about / "limits").read_text().splitlines()
    assert [line.split()[3] for line in limits if line.startswith("Max file size")] == ["0"]


def test_all_processes_busy_is_said_after_a_while() -> None:
    made = DecodePool(1, replace(LIMITS, decode_seconds=0.2))
    process = made._idle.get()
    try:
        with pytest.raises(Refusal) as refused:
            made.square(encoded(noise(8, 8)), 16)
        assert refused.value.status == 503
    finally:
        made._idle.put(process)
        made.close()


def only_process(pool: DecodePool) -> Any:
    waiting = pool._idle.get()
    pool._idle.put(waiting)
    return waiting._process
