"""The page's files, read once: what is not in this list cannot be asked for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


def _read_all() -> dict[str, PageFile]:
    files = {}
    for path in sorted(_FOLDER.iterdir()):
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
        file = PageFile(content, _MEDIA_TYPES[path.suffix], etag)
        files["/" if path.name == "index.html" else f"/page/{path.name}"] = file
    return files


PAGE_FILES = _read_all()
"""By path of the request."""
