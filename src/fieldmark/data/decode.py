"""One picture file of whatever kind → RGB pixels, or `BadImage` with the file and the reason.

What the bytes say decides, never the file's extension. Only the decoders named in `FORMATS` may open a file:
none of them starts another program (as PostScript would) or renders a document.
"""

import re
import stat
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import (
    AvifImagePlugin,  # noqa: F401  an imported plugin registers its formats; nothing else is registered for us
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

FORMATS: tuple[str, ...] = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000",
)  # fmt: skip
"""Pillow's names of the formats that are read."""

_OPENERS = tuple(name for name in FORMATS if name != "MPO")  # a JPEG with several pictures; JPEG's opener finds out

# What Pillow's decoders raise for damaged files, beside OSError.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    NotImplementedError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(ValueError):
    """A picture that cannot be used.

    Attributes:
        path: the file (or "file.parquet#row", or "<bytes>") as text.
        reason: why, in words for the user.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # args = the two parts: it survives the way from a worker process
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class DecodeLimits:
    """What a picture may cost at most; guards against decompression bombs."""

    max_bytes: int = 64 * 2**20
    """Size of the file in bytes; larger files are not read at all."""
    max_pixels: int = 64_000_000
    """Width × height as the header states them; larger pictures are not decoded."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise ValueError(f"limits must be at least 1; got max_bytes={self.max_bytes}, max_pixels={self.max_pixels}")
        ceiling = Image.MAX_IMAGE_PIXELS
        if ceiling is not None and self.max_pixels > 2 * ceiling:
            raise ValueError(
                f"max_pixels={self.max_pixels} is above {2 * ceiling}, where Pillow itself refuses pictures; "
                "raise PIL.Image.MAX_IMAGE_PIXELS first if you mean it"
            )


DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True)
class DecodedPicture:
    """A decoded picture and what its file was."""

    image: Image.Image
    """RGB, upright, opaque."""
    format: str
    """One of `FORMATS`, from the content."""
    mode: str
    """Pillow's name of the stored pixel type ("P", "CMYK", "I;16", …)."""
    num_bytes: int
    """Size of the file."""
    num_frames: int
    """Frames or pages in the file; the first one is used."""


def decode_image(
    source: Path | bytes, limits: DecodeLimits = DEFAULT_LIMITS, *, name: str | None = None
) -> Image.Image:
    """Decodes one picture to RGB, upright, on white.

    EXIF orientation is applied; transparency of every kind (alpha, palette, colour key) lies over white; 16-bit
    values are divided by 257 (65535 → 255; Pillow reads 16-bit *colour* files by their high byte, which differs
    by at most 1); CMYK, palette, grey and bilevel pictures become RGB; of several frames or pages the first
    counts. Colour profiles are not applied.

    Args:
        source: a file, or the bytes of one.
        limits: bytes are checked before reading, pixels before decoding.
        name: how to call the picture in errors; the path itself if None.

    Returns:
        A loaded picture of mode "RGB".

    Raises:
        BadImage: no picture, a damaged, empty or truncated one, one above the limits, or one whose values have
            no defined range (32-bit numbers).
    """
    return decode_picture(source, limits, name=name).image


def decode_picture(
    source: Path | bytes, limits: DecodeLimits = DEFAULT_LIMITS, *, name: str | None = None
) -> DecodedPicture:
    """As `decode_image`, with the facts about the file that an inspection wants."""
    name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
    content = read_content(source, limits, name)
    refusal = refuse_content(content)
    if refusal is not None:
        raise BadImage(name, refusal)
    try:
        with warnings.catch_warnings():
            # Pillow warns at its own, higher limit; ours is checked two lines below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(content), formats=_OPENERS)
        with image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise BadImage(name, _too_many_pixels(f"{width}×{height}", limits))
            frames = int(getattr(image, "n_frames", 1))
            image.load()
            rgb = _upright(_to_rgb(image, name), image)
            return DecodedPicture(rgb, str(image.format), image.mode, len(content), frames)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(name, _too_many_pixels(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,}", limits)) from error
    except Image.UnidentifiedImageError as error:
        raise BadImage(name, "no known picture format, or a damaged header") from error
    except MemoryError as error:
        raise BadImage(name, "not enough memory to decode it") from error
    except _DAMAGED as error:
        raise BadImage(name, f"damaged or truncated ({error or type(error).__name__})") from error


def refuse_content(content: bytes) -> str | None:
    """Why these bytes are no picture that we read, if that can be told from how they begin; else None."""
    if not content:
        return "the file is empty"
    if looks_like_picture(content):
        return None
    head = content[:1024]
    for magic, reason in _REFUSED:
        if head.startswith(magic):
            return reason
    if content[257:262] == b"ustar":
        return "a tar archive, not a picture: unpack it"
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "HEIC is not read: convert it to JPEG or PNG"
        return "a video, not a picture"
    text = _without_prolog(content[:_PROLOG_BYTES]).lower()
    if re.match(rb"<(?:[\w.-]+:)?svg\b|<!doctype\s+(?:[\w.-]+:)?svg\b", text):
        return "SVG is not read (a drawing can load other files): render it to PNG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture (did the download fail?)"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<?xml"):
        return "XML, not a picture"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "text, not a picture"
    return None


# A byte order mark, declarations and comments: what may stand before a drawing, licences of some kilobytes among it.
_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s+|<\?.*?\?>|<!--.*?-->)*+", re.DOTALL)
_PROLOG_BYTES = 2**16


def _without_prolog(content: bytes) -> bytes:
    found = _PROLOG.match(content)
    assert found is not None  # it matches nothing as well
    return content[found.end() :][:64]


_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the picture: run `git lfs pull`"),
    (b"PK\x03\x04", "a ZIP archive, not a picture: unpack it"),
    (b"PK\x05\x06", "a ZIP archive, not a picture: unpack it"),
    (b"\x1f\x8b", "a gzip archive, not a picture: unpack it"),
    (b"BZh", "a bzip2 archive, not a picture: unpack it"),
    (b"\xfd7zXZ\0", "an xz archive, not a picture: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive, not a picture: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive, not a picture: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive, not a picture: unpack it"),
    (b"%PDF", "PDF is not read: render it to PNG"),
    (b"%!PS", "PostScript is not read (it is a program): render it to PNG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript is not read (it is a program): render it to PNG"),
    (b"8BPS", "Photoshop files are not read: export to PNG"),
    (b"PAR1", "a parquet file: give its path as the collection"),
    (b"\x93NUMPY", "a NumPy array, not a picture"),
    (b"\x80\x02", "pickled Python objects are never loaded"),
    (b"\x80\x03", "pickled Python objects are never loaded"),
    (b"\x80\x04", "pickled Python objects are never loaded"),
    (b"\x80\x05", "pickled Python objects are never loaded"),
)

_PICTURE_MAGIC: tuple[bytes, ...] = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes (16 are enough) claims to be in one of `FORMATS`."""
    return (
        head.startswith(_PICTURE_MAGIC)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and len(head) > 3)
    )


def read_content(source: Path | bytes, limits: DecodeLimits, name: str) -> bytes:
    """The bytes of a picture as they are stored. Raises `BadImage`: unreadable, no regular file, or too large."""
    too_large = f"larger than the limit of {limits.max_bytes} bytes (max_bytes)"
    if isinstance(source, bytes):
        if len(source) > limits.max_bytes:
            raise BadImage(name, too_large)
        return source
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever, a device never end
            raise BadImage(name, "not a regular file")
        if status.st_size > limits.max_bytes:
            raise BadImage(name, f"{status.st_size} bytes, {too_large}")
        with source.open("rb") as file:
            content = file.read(limits.max_bytes + 1)
    except OSError as error:
        raise BadImage(name, f"cannot be read ({error.strerror or error})") from error
    if len(content) > limits.max_bytes:
        raise BadImage(name, too_large)
    return content


def _too_many_pixels(found: str, limits: DecodeLimits) -> str:
    return f"{found} pixels, the limit is {limits.max_pixels:,}: a decompression bomb, or scale it down"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Any pixel type → RGB over white. The picture is loaded."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise BadImage(name, f"32-bit pixels ({image.mode}) have no defined range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return _over_white(rgba.convert("RGB"), rgba.getchannel("A"))
    # convert() returns a copy also where the mode is RGB already: the result outlives the closed file
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    rgb = Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, int):  # a colour key: pixels of exactly this value are transparent
        return _over_white(rgb, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return rgb


def _over_white(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgb.size, (255, 255, 255))
    white.paste(rgb, mask=alpha)
    return white


def _upright(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """Applies the EXIF orientation of the file. Unreadable EXIF counts as none, as in every viewer."""
    try:
        orientation = original.getexif().get(_ORIENTATION_TAG)
    except _DAMAGED:
        return rgb
    if isinstance(orientation, int) and orientation in _TRANSPOSE:
        return rgb.transpose(_TRANSPOSE[orientation])
    return rgb
