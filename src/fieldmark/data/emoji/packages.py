"""The npm packages that the emoji collection is made of: fetched by npm, or found in a folder, as plain folders.

Nothing of a package is ever executed: npm runs no scripts, and only the data files below are unpacked.
"""

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fieldmark.data.benchmarks.archives import UnpackLimits, unpack, unpacked_folder

EMOJIBASE = "emojibase-data"
STYLES = {
    "noto": "@iconify-json/noto",
    "twemoji": "@iconify-json/twemoji",
    "openmoji": "@iconify-json/openmoji",
    "fluent": "@iconify-json/fluent-emoji-flat",
}
"""Our name of a style → package with its drawings."""


@dataclass(frozen=True)
class Pin:
    """A version, and what npm calls its integrity: base64 of the SHA-512 of the archive."""

    version: str
    integrity: str


PINS = {
    "@iconify-json/noto": Pin(
        "1.2.9", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw=="
    ),
    "@iconify-json/twemoji": Pin(
        "1.2.5", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw=="
    ),
    "@iconify-json/openmoji": Pin(
        "1.2.29", "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ=="
    ),
    "@iconify-json/fluent-emoji-flat": Pin(
        "1.2.6", "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw=="
    ),
    EMOJIBASE: Pin(
        "17.0.0", "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA=="
    ),
}
"""What is fetched. A version of an npm package never changes, so the collection does not either."""

_LIMITS = UnpackLimits(max_members=5_000, max_member_bytes=128 * 2**20, max_total_bytes=512 * 2**20)
_FETCH_SECONDS = 900
_WANTED = ("package.json", "info.json", "icons.json", "chars.json", "data.json", "messages.json", "groups.json")


@contextmanager
def open_packages(given: Path | None) -> Iterator[dict[str, Path]]:
    """Every package as a folder, by name; copies that were made are gone afterwards.

    Args:
        given: a folder with the packages: as `npm pack` writes them (.tgz), or as `npm install` does
            (``node_modules/NAME`` or ``NAME``). Other versions than the pinned ones are accepted. None: npm fetches.

    Raises:
        ValueError: npm is missing or fails; a package is missing in `given`, there twice, or damaged.
    """
    with TemporaryDirectory(prefix="fieldmark-emoji-") as temporary:
        workshop = Path(temporary)
        if given is None:
            _fetch(workshop)
        elif not given.is_dir():
            raise ValueError(f"there is no folder {given}: --packages takes the folder that holds the npm packages")
        yield {name: _as_folder(name, given or workshop, workshop) for name in PINS}


def read_version(folder: Path) -> str:
    """The version that a package calls itself."""
    version = read_json(folder / "package.json").get("version")
    if not isinstance(version, str):
        raise ValueError(f"{folder / 'package.json'} tells no version: it is no npm package")
    return version


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a package.

    Raises:
        ValueError: the file is missing, or holds something else.
    """
    value = _parse(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object: the package has another layout than the pinned version")
    return value


def read_json_list(path: Path) -> list[Any]:
    """A JSON list of a package; errors as in `read_json`."""
    value = _parse(path)
    if not isinstance(value, list):
        raise ValueError(f"{path} holds no JSON list: the package has another layout than the pinned version")
    return value


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: the package is incomplete or has another layout") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): get the package again") from error


def _fetch(folder: Path) -> None:
    """`npm pack` of every pinned package into `folder`, checked against the pinned sums."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            "npm is not installed: install it (Debian: apt-get install npm), or run `npm pack "
            + " ".join(f"{name}@{pin.version}" for name, pin in PINS.items())
            + "` on another machine and give the folder with --packages"
        )
    command = [npm, "pack", "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    command += [f"{name}@{pin.version}" for name, pin in PINS.items()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=_FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"npm was not done after {_FETCH_SECONDS} s: try again, or give --packages") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise ValueError(f"npm could not fetch the packages (or give them with --packages):\n{said}")
    for name, pin in PINS.items():
        archive = _archives(name, folder)[0:1]
        if not archive:
            raise ValueError(f"npm said that all went well, but {name} is not there: give it with --packages")
        found = base64.b64encode(hashlib.sha512(archive[0].read_bytes()).digest()).decode()
        if found != pin.integrity:
            raise ValueError(
                f"{name} {pin.version} as npm fetched it is not what was published (SHA-512 {found}): "
                "your npm is set to another source, or the copy is damaged"
            )


def _archives(name: str, folder: Path) -> list[Path]:
    """What `npm pack` may have written for a package: "@scope/name" becomes "scope-name-VERSION.tgz"."""
    start = name.removeprefix("@").replace("/", "-") + "-"
    return sorted(p for p in folder.glob(f"{start}*.tgz") if p.name[len(start) :][:1].isdigit())


def _as_folder(name: str, given: Path, workshop: Path) -> Path:
    folders = [f for f in (given / name, given / "node_modules" / name) if (f / "package.json").is_file()]
    archives = _archives(name, given)
    found = [*folders, *archives]
    if not found:
        raise ValueError(
            f"{given} holds no {name}: there should be {_archive_name(name)} or the folder {name}; "
            f"get it with `npm pack {name}@{PINS[name].version}`"
        )
    if len(found) > 1:
        raise ValueError(f"{given} holds {name} {len(found)} times ({', '.join(map(str, found))}): keep one of them")
    if folders:
        return folders[0]
    archive = archives[0]
    if archive.parent != workshop:  # nothing is written into the user's folder
        archive = Path(shutil.copyfile(archive, workshop / archive.name))
    unpack(archive, keep=_wanted, limits=_LIMITS, quiet=True)
    unpacked = unpacked_folder(workshop, archive.name.removesuffix(".tgz"))
    tops = [p for p in unpacked.iterdir() if (p / "package.json").is_file()]
    if len(tops) != 1:
        raise ValueError(f"{archive.name} is no npm package: it should hold one folder with a package.json")
    return tops[0]


def _archive_name(name: str) -> str:
    return f"{name.removeprefix('@').replace('/', '-')}-{PINS[name].version}.tgz"


def _wanted(member: str) -> bool:
    last = member.rsplit("/", 1)[-1]
    return last in _WANTED or last.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
