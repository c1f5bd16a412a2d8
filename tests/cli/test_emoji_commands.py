from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.emoji.miniature import miniature, write_installed


def test_emoji_collection_from_packages_at_hand(fieldmark: Callable[..., Any], tmp_path: Path) -> None:
    packages = write_installed(tmp_path / "in", miniature())
    command = ("data", "emoji", "--out", tmp_path / "out", "--packages", packages, "--workers", 0, "--size", 16)
    said = fieldmark(*command, "--languages", "[en, de]", "--val_share", "0.2")
    assert said.code == 0, said.err
    assert "35 concepts" in said.out and "licences" in said.out
    assert (tmp_path / "out" / "licences" / "LICENCES.txt").is_file()

    again = fieldmark(*command, "--languages", "[en, de]")
    assert again.code == 2 and "--force" in again.err

    unknown = fieldmark(*command, "--languages", "[en, tlh]", "--force")
    assert unknown.code == 2 and "no language 'tlh'" in unknown.err
    assert (tmp_path / "out" / "emoji.json").is_file(), "what was there is kept"
