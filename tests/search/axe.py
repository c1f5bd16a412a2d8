"""axe-core, which finds obstacles for people with disabilities: fetched from npm, never committed (MPL-2.0).

`python -m tests.search.axe` fetches it ahead of the tests.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of axe.min.js. A version of an npm package never changes."""
_SECONDS = 120


def cached_file() -> Path:
    """Where the tests look for it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fieldmark-tests" / f"axe-core-{VERSION}.js"


def axe_source() -> str:
    """The program's text.

    Raises:
        LookupError: it is not there and cannot be fetched; says why.
    """
    file = cached_file()
    if not _is_right(file):
        _fetch(file)
    return file.read_text(encoding="utf-8")


def _fetch(file: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise LookupError("npm is not installed, so axe-core cannot be fetched")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", folder, f"axe-core@{VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise LookupError(f"npm did not fetch axe-core in {_SECONDS} s") from None
        archive = next(Path(folder).glob("*.tgz"), None)
        if done.returncode != 0 or archive is None:
            raise LookupError(f"npm cannot fetch axe-core: {done.stderr.strip()[-200:]}")
        with tarfile.open(archive) as packed:
            member = packed.extractfile("package/axe.min.js")
            assert member is not None
            content = member.read()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    if not _is_right(temporary):
        temporary.unlink()
        raise LookupError(f"what npm fetched as axe-core {VERSION} is not what was published")
    temporary.replace(file)


def _is_right(file: Path) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == SHA256


if __name__ == "__main__":
    try:
        axe_source()
    except LookupError as error:
        sys.exit(str(error))
    print(cached_file())
