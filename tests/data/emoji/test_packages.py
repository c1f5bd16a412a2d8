import base64
import hashlib
import io
import stat
import tarfile
from pathlib import Path

import pytest
from tests.data.emoji.miniature import content, miniature, write_installed, write_packed

from fieldmark.data.emoji import packages as module
from fieldmark.data.emoji.packages import EMOJIBASE, PINS, Pin, open_packages, read_json, read_version

NOTO = "@iconify-json/noto"
NOTO_ARCHIVE = f"iconify-json-noto-{PINS[NOTO].version}.tgz"


def all_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_packed_and_installed_packages_hold_the_same(tmp_path: Path, installed: Path) -> None:
    packed = write_packed(tmp_path / "packed", miniature())
    before = all_files(packed)
    with open_packages(packed) as one, open_packages(installed) as other:
        assert one.keys() == other.keys() == PINS.keys()
        for name, files in miniature().items():
            for file, value in files.items():
                assert (one[name] / file).read_bytes() == (other[name] / file).read_bytes() == content(value)
        copies = list(one.values())
    assert all_files(packed) == before, "the user's folder is left as it was"
    assert not any(path.exists() for path in copies)


def test_folders_without_node_modules_do_as_well(installed: Path) -> None:
    with open_packages(installed / "node_modules") as found:
        assert read_version(found[EMOJIBASE]) == PINS[EMOJIBASE].version


def test_only_data_files_are_unpacked(tmp_path: Path) -> None:
    packages = miniature()
    packages[NOTO] |= {"index.js": "throw 1", "scripts/install.js": "throw 2"}
    with open_packages(write_packed(tmp_path, packages)) as found:
        assert sorted(all_files(found[NOTO])) == ["chars.json", "icons.json", "info.json", "package.json"]


def test_missing_package_is_named_with_the_remedy(tmp_path: Path) -> None:
    packages = miniature()
    del packages[NOTO]
    folder = write_installed(tmp_path, packages)
    with pytest.raises(ValueError, match=rf"holds no {NOTO}.*npm pack {NOTO}@1\.2\.9"), open_packages(folder):
        pass


def test_package_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_packed(tmp_path, miniature())
    (tmp_path / NOTO_ARCHIVE).with_name("iconify-json-noto-1.0.0.tgz").write_bytes(
        (tmp_path / NOTO_ARCHIVE).read_bytes()
    )
    with pytest.raises(ValueError, match="2 times"), open_packages(tmp_path):
        pass


def test_other_package_with_the_same_beginning_is_not_taken(tmp_path: Path) -> None:
    write_packed(tmp_path, miniature())
    (tmp_path / "iconify-json-noto-v1-1.2.5.tgz").write_bytes(b"another package")
    with open_packages(tmp_path) as found:
        assert read_version(found[NOTO]) == PINS[NOTO].version


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"), open_packages(tmp_path / "nowhere"):
        pass


def rewrite(archive: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "packed", miniature())
    rewrite(folder / NOTO_ARCHIVE, ("package/package.json", b"{}"), ("package/../../../../icons.json", b"{}"))
    with pytest.raises(ValueError, match="leads out of the folder"), open_packages(folder):
        pass


def test_archive_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIMITS", module.UnpackLimits(max_member_bytes=1000))
    folder = write_packed(tmp_path / "packed", miniature())
    rewrite(folder / NOTO_ARCHIVE, ("package/icons.json", b" " * 2000))
    with pytest.raises(ValueError, match="more than 1000 bytes"), open_packages(folder):
        pass


@pytest.mark.parametrize(("text", "expected"), [(None, "is missing"), ("[1]", "no JSON object"), ("{", "is no JSON")])
def test_bad_json_names_the_file(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "info.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"info.json.*{expected}"):
        read_json(path)


# ---- npm


def put_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program called npm that is found first."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_missing_npm_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"npm is not installed.*apt-get.*--packages"), open_packages(None):
        pass


def test_npm_fetches_pinned_versions_without_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = write_packed(tmp_path / "published", miniature())
    pins = {}
    for name, pin in PINS.items():
        archive = packed / f"{name.removeprefix('@').replace('/', '-')}-{pin.version}.tgz"
        pins[name] = Pin(pin.version, base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode())
    put_npm(tmp_path / "bin", f'echo "$@" > {tmp_path}/said; cp {packed}/*.tgz .', monkeypatch)
    with pytest.raises(ValueError, match="is not what was published"), open_packages(None):
        pass
    monkeypatch.setattr(module, "PINS", pins)
    with open_packages(None) as found:
        assert read_json(found[NOTO] / "info.json") == miniature()[NOTO]["info.json"]
    said = (tmp_path / "said").read_text().split()
    assert said[0] == "pack" and "--ignore-scripts" in said
    assert said[-5:] == [f"{name}@{pin.version}" for name, pin in PINS.items()]


def test_what_npm_complains_of_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_npm(tmp_path / "bin", "echo no route to host >&2; exit 1", monkeypatch)
    with pytest.raises(ValueError, match=r"could not fetch[\s\S]*no route to host"), open_packages(None):
        pass
