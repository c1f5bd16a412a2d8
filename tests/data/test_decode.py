"""Every odd file of the issue, made with Pillow, against what a viewer would show."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from fieldmark.data.decode import DEFAULT_LIMITS, BadImage, DecodeLimits, decode_image, decode_picture


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colourful(width: int = 40, height: int = 30) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * 7 + y * 5) % 256], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def pixels_of(source: Path | bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    image = decode_image(source, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_same_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(encode(colourful(), kind))
    np.testing.assert_array_equal(pixels_of(path), np.asarray(colourful()))
    np.testing.assert_array_equal(pixels_of(path.read_bytes()), np.asarray(colourful()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF", "JPEG2000"])
def test_lossy_formats_come_close(kind: str) -> None:
    content = encode(colourful(), kind)
    picture = decode_picture(content)
    assert picture.format == kind and picture.num_bytes == len(content) and picture.num_frames == 1
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(colourful())).mean() < 12


# What a viewer does for orientation n, on arrays: the upright picture from the stored one.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(colourful(), kind, exif=exif, **options)
    np.testing.assert_array_equal(pixels_of(content), UPRIGHT[orientation](np.asarray(colourful())))


def test_exif_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pixels_of(encode(colourful(), "JPEG", exif=exif, quality=95))
    assert turned.shape == (40, 30, 3)
    assert np.abs(turned.astype(int) - np.rot90(np.asarray(colourful()), -1)).mean() < 6


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", b"Exif\0\0"])
def test_unreadable_exif_counts_as_none(exif: bytes) -> None:
    assert pixels_of(encode(colourful(), "JPEG", exif=exif)).shape == (30, 40, 3)


def test_sixteen_bit_grey_is_divided_by_257() -> None:
    values = np.array([[0, 128, 129, 257, 32767], [32768, 65278, 65406, 65407, 65535]], dtype=np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    assert expected.tolist() == [[0, 0, 1, 1, 127], [128, 254, 254, 255, 255]]
    for kind in ("PNG", "TIFF"):
        pixels = pixels_of(encode(Image.fromarray(values), kind))
        for channel in range(3):
            np.testing.assert_array_equal(pixels[..., channel], expected)


def test_sixteen_bit_grey_of_a_portable_map() -> None:
    values = np.array([[0, 25700, 65535]], dtype=">u2")
    np.testing.assert_array_equal(pixels_of(b"P5\n3 1\n65535\n" + values.tobytes())[0, :, 0], [0, 100, 255])


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_sixteen_bit_colour_and_alpha() -> None:
    # opaque mid-grey-ish colours, then a fully transparent one: white
    row = b"\0" + struct.pack(">8H", 0, 25700, 65535, 65535, 1000, 2000, 3000, 0)
    assert pixels_of(raw_png(2, 1, 16, 6, row)).tolist() == [[[0, 100, 255], [255, 255, 255]]]
    row = b"\0" + struct.pack(">3H", 257, 514, 771)
    assert pixels_of(raw_png(1, 1, 16, 2, row)).tolist() == [[[1, 2, 3]]]


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    row = b"\0" + struct.pack(">3H", 1000, 25700, 25701)
    content = raw_png(3, 1, 16, 0, row, png_chunk(b"tRNS", struct.pack(">H", 25700)))
    assert pixels_of(content)[0, :, 0].tolist() == [4, 255, 100]  # only exactly this value is transparent


def test_alpha_lies_over_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (200, 0, 0, 102)])
    expected = [[200, 0, 0], [255, 255, 255], [233, 153, 153]]  # .4 · colour + .6 · white
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        found = pixels_of(encode(rgba, kind, **options))[0].astype(int)
        assert np.abs(found - expected).max() <= 1, kind


def test_grey_with_alpha_lies_over_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    assert pixels_of(encode(image, "PNG")).tolist() == [[[10] * 3, [255] * 3]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_transparency_lies_over_white(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    pixels = pixels_of(encode(image, "PNG", transparency=transparency))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_palette_of_half_transparent_colours() -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([100, 0, 0])
    found = pixels_of(encode(image, "PNG", transparency=bytes([51])))[0, 0].astype(int)
    assert np.abs(found - [224, 204, 204]).max() <= 1


def test_transparent_gif() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    pixels = pixels_of(encode(image, "GIF", transparency=1))
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("colour_type", "row", "key", "expected"),
    [
        (0, bytes([0, 7, 8]), struct.pack(">H", 7), [[255] * 3, [8] * 3]),
        (2, bytes([0, 1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3), [[255] * 3, [4, 5, 6]]),
    ],
)
def test_a_colour_key_lies_over_white(colour_type: int, row: bytes, key: bytes, expected: list) -> None:
    content = raw_png(2, 1, 8, colour_type, row, png_chunk(b"tRNS", key))
    assert pixels_of(content)[0].tolist() == expected


def test_palette_grey_and_bilevel() -> None:
    palette = colourful().quantize(16)
    np.testing.assert_array_equal(pixels_of(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    grey = colourful().convert("L")
    np.testing.assert_array_equal(pixels_of(encode(grey, "PNG"))[..., 1], np.asarray(grey))
    bilevel = colourful().convert("1")
    np.testing.assert_array_equal(pixels_of(encode(bilevel, "PNG"))[..., 2], np.asarray(bilevel) * 255)


def test_cmyk_is_not_inverted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    for kind, options in (("JPEG", {"quality": 95}), ("TIFF", {})):
        content = encode(image, kind, **options)
        assert decode_picture(content).mode == "CMYK"
        red, green, blue = pixels_of(content)[8, 8].tolist()
        assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode_picture(content).num_frames == 3
    assert pixels_of(content)[4, 4].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_truncated_files_are_bad(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encode(noise, kind)
    assert pixels_of(content).shape == (64, 64, 3)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImage) as caught:
        decode_image(path)
    assert caught.value.path == str(path)
    assert "truncated" in caught.value.reason or "damaged" in caught.value.reason


def test_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("1", (3000, 2000)), "PNG")  # 6 million pixels in under a kilobyte
    assert len(content) < 2000
    assert decode_image(content, DecodeLimits(max_pixels=6_000_000)).size == (3000, 2000)

    def must_not_run(self: ImageFile.ImageFile) -> None:
        raise AssertionError("decoded before the limit was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", must_not_run)
    with pytest.raises(BadImage, match=r"3000×2000 pixels, the limit is 5,999,999"):
        decode_image(content, DecodeLimits(max_pixels=5_999_999))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_800, 20_000])
def test_bombs_above_the_limits_of_pillow_too(side: int) -> None:
    content = raw_png(side, side, 8, 0, b"\0" * 64)  # the header alone says how large it would be
    with pytest.raises(BadImage, match="decompression bomb"):
        decode_image(content)


def test_byte_limit_is_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # a sparse terabyte
    monkeypatch.setattr(Path, "open", lambda *a: pytest.fail("the file was opened"))
    with pytest.raises(BadImage, match=r"1099511627776 bytes, larger than the limit of 67108864 bytes"):
        decode_image(path)


def test_byte_limit_is_exact(tmp_path: Path) -> None:
    content = encode(colourful(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (path, content):
        assert decode_image(source, DecodeLimits(max_bytes=len(content))).size == (40, 30)
        with pytest.raises(BadImage, match="larger than the limit"):
            decode_image(source, DecodeLimits(max_bytes=len(content) - 1))


def test_the_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(colourful(), "PNG"))
    assert decode_picture(path).format == "PNG"
    (tmp_path / "photo.txt").write_bytes(encode(colourful(), "GIF"))
    assert decode_picture(tmp_path / "photo.txt").format == "GIF"


def zip_of(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"<!-- " + b"a licence " * 500 + b" --> <?xml-stylesheet href='x'?>\n<!DOCTYPE svg>", "SVG"),
        (b"<?xml version='1.0'?><svg:svg xmlns:svg='x'/>", "SVG"),
        (b"<!-- <svg> --> hello", "text"),
        (b"<!-- " * 20_000, "text"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"<?xml version='1.0'?><note/>", "XML"),
        (b"hello world\n", "text"),
        ("Grüße an alle Vögel".encode(), "text"),
        (zip_of(b"x"), "ZIP"),
        (gzip.compress(b"x"), "gzip"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "tar archive"),
        (b"%PDF-1.7", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps({"a": 1}, protocol=4), "never loaded"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"\x01\x02\x03\x04" * 50, "no known picture format"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"8BPS\0\x01", "Photoshop"),
    ],
    # Packed contents hold the time: in the tests' names it would differ between the processes of one run.
    ids=lambda value: value if isinstance(value, str) else "bytes",
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_is_no_picture_is_refused_with_its_reason(content: bytes, reason: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadImage, match=reason) as caught:
        decode_image(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_pickles_do_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harmed"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(BadImage):
            decode_image(pickle.dumps(Evil(), protocol))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_defined_range_are_refused(mode: str) -> None:
    with pytest.raises(BadImage, match="no defined range"):
        decode_image(encode(Image.new(mode, (4, 4)), "TIFF"))


def test_missing_folders_and_pipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="No such file"):
        decode_image(tmp_path / "missing.png")
    with pytest.raises(BadImage, match="not a regular file"):
        decode_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    with pytest.raises(BadImage, match="not a regular file"):
        decode_image(tmp_path / "pipe.png")


def test_errors_name_bytes_as_told_and_survive_pickling() -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(b"", name="train.parquet#3")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason) == ("train.parquet#3", "the file is empty")
    assert isinstance(again, BadImage) and str(again) == "train.parquet#3: the file is empty"
    with pytest.raises(BadImage, match="<bytes>"):
        decode_image(b"")


@pytest.mark.parametrize("values", [{"max_bytes": 0}, {"max_pixels": 0}, {"max_pixels": 10**9}])
def test_senseless_limits_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_"):
        DecodeLimits(**values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_damaged_files_give_a_picture_or_bad_image_and_nothing_else(kind: str) -> None:
    rng = np.random.default_rng(7)
    content = np.frombuffer(encode(colourful(), kind), dtype=np.uint8)
    limits = DecodeLimits(max_pixels=100_000)
    bad = 0
    for _ in range(120):
        broken = content.copy()
        places = rng.integers(0, len(broken), rng.integers(1, 12))
        places[0] = rng.integers(0, min(64, len(broken)))  # the header is where decoders trust most
        broken[places] = rng.integers(0, 256, len(places))
        cut = rng.integers(1, len(broken) + 1) if rng.random() < 0.3 else len(broken)
        try:
            assert decode_image(broken[:cut].tobytes(), limits).mode == "RGB"
        except BadImage as error:
            assert error.reason
            bad += 1
    assert bad > 10


def test_the_same_file_gives_the_same_bytes_twice() -> None:
    content = encode(colourful(), "JPEG")
    assert decode_image(content).tobytes() == decode_image(content).tobytes()
