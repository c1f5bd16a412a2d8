"""What the packages say about their licences, beside the pictures."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.data.emoji.icons import Style
from fieldmark.data.emoji.packages import EMOJIBASE, STYLES, read_json

_UNKNOWN = "(the package does not say)"


def write_licences(folder: Path, styles: Sequence[Style], emojibase: Path) -> None:
    """``LICENCES.txt``, each style's own words (``STYLE.json``), and licence files that emojibase-data brings along."""
    folder.mkdir(parents=True)
    lines = [
        "# Licences of this collection",
        "",
        "Nobody here drew or wrote any of it. The pictures are rendered drawings of the sets below, each under its own",
        "licence; names and keywords come from emojibase-data, which takes them from Unicode's CLDR.",
        "",
        "| what | package | author | licence | text |",
        "|---|---|---|---|---|",
    ]
    for style in styles:
        author, licence = (_mapping(style.info.get(key)) for key in ("author", "license"))
        lines.append(
            _row(
                f"mbeir_images/{style.key}: {style.title}",
                STYLES[style.key],
                f"{author.get('name', _UNKNOWN)}, {author.get('url', '')}",
                licence.get("spdx") or licence.get("title") or _UNKNOWN,
                licence.get("url", ""),
            )
        )
        text = json.dumps({"author": dict(author), "license": dict(licence)}, indent=1, ensure_ascii=False)
        (folder / f"{style.key}.json").write_text(text + "\n", encoding="utf-8")
    package = read_json(emojibase / "package.json")
    files = sorted(p for p in emojibase.iterdir() if p.is_file() and p.name.upper().startswith(("LICENSE", "LICENCE")))
    lines.append(
        _row(
            "names, keywords, groups",
            EMOJIBASE,
            package.get("author", _UNKNOWN),
            package.get("license", _UNKNOWN),
            ", ".join(f"{EMOJIBASE}.{path.name}" for path in files),
        )
    )
    for path in files:
        shutil.copyfile(path, folder / f"{EMOJIBASE}.{path.name}")
    lines += [
        "",
        "CC-BY and CC-BY-SA ask you to name the author wherever you show these pictures; CC-BY-SA asks you to pass",
        "adapted pictures on under the same licence.",
    ]
    (folder / "LICENCES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _row(*cells: Any) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "/") for cell in cells) + " |"
