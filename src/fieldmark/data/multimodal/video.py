"""Frames of a video, sampled evenly: from a file (PyAV, the extra `video`) or from a folder of frames."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.data.decode import DEFAULT_LIMITS, BadImage, DecodeLimits, decode_image

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""Endings of frames in a folder."""

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".ogv")
"""Endings of video files, in the order in which they are looked for."""

# Containers that hold their own data. Playlists (HLS, concat) can name other files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf"


def frame_positions(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `total` frames; frames repeat where there are fewer.

    Raises:
        ValueError: a number is below 1.
    """
    if total < 1 or count < 1:
        raise ValueError(f"needs at least one frame of at least one, got count={count} of total={total}")
    return [(2 * k + 1) * total // (2 * count) for k in range(count)]


def sample_frames(path: Path, count: int, limits: DecodeLimits = DEFAULT_LIMITS) -> list[Image.Image]:
    """`count` frames of a video in order, RGB, at `frame_positions`.

    Args:
        path: a video file, or a folder of frames (taken in the order of the numbers in their names).
        count: frames to return.
        limits: `max_pixels` holds for each frame, `max_bytes` for each file of a folder.

    Raises:
        BadImage: there is no video, no frame in it, it is damaged, or of a kind that is not read.
        ValueError: PyAV is not installed, or `count` is below 1.
    """
    if path.is_dir():
        frames = frame_files(path)
        return [decode_image(frames[i], limits) for i in frame_positions(len(frames), count)]
    return _from_file(path, count, limits)


def read_video(path: Path, count: int, image_size: int, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
    """As `sample_frames`, resized whole (bicubic, antialiased): uint8 (count, S, S, 3)."""
    size = (image_size, image_size)
    frames = sample_frames(path, count, limits)
    return np.stack([np.asarray(frame.resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder: "frame10.jpg" comes after "frame9.jpg".

    Raises:
        BadImage: there are none.
    """
    files = [one for one in folder.iterdir() if one.suffix.lower() in FRAME_SUFFIXES and not one.name.startswith(".")]
    if not files:
        raise BadImage(folder, f"a folder without frames ({', '.join(sorted(FRAME_SUFFIXES))})")
    return sorted(files, key=lambda one: (_by_number(one.name), one.name))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _from_file(path: Path, count: int, limits: DecodeLimits) -> list[Image.Image]:
    av = _import_av()
    if not path.is_file():
        raise BadImage(path, "no such video")
    try:
        total = sum(1 for _ in _frames(av, path, limits))
        if total == 0:
            raise BadImage(path, "no frame can be decoded")
        chosen = frame_positions(total, count)
        found: dict[int, Image.Image] = {}
        for i, frame in enumerate(_frames(av, path, limits)):
            if i in chosen:
                found[i] = frame.to_image()
            if i == chosen[-1]:
                break
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(path, f"no video that can be read ({error})") from error
    return [found[i] for i in chosen]


def _frames(av: Any, path: Path, limits: DecodeLimits) -> Iterator[Any]:
    """Frames of the first video stream. Counted by decoding: what headers say of their number is often wrong."""
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    with av.open(str(path), container_options=options) as container:
        if not container.streams.video:
            raise BadImage(path, "it has no video stream")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.max_pixels:
            raise BadImage(path, f"frames of {width}×{height} pixels, the limit is {limits.max_pixels:,}")
        stream.thread_type = "AUTO"
        yield from container.decode(stream)


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ValueError("video files need PyAV: pip install 'fieldmark[video]'; or give folders of frames") from error
    return av
