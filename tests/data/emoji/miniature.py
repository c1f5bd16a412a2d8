"""The five npm packages in miniature: same layout, a few emoji, drawings made here."""

import copy
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from fieldmark.data.emoji.packages import EMOJIBASE, PINS, STYLES

Packages = dict[str, dict[str, Any]]
"""Package → file → its content."""

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
GERMAN_TONES = ("helle", "mittelhelle", "mittlere", "mitteldunkle", "dunkle")
TITLES = {"noto": "Noto Emoji", "twemoji": "Twitter Emoji", "openmoji": "OpenMoji", "fluent": "Fluent Emoji Flat"}

# hexcode, English and German name, English and German keywords, group, subgroup, skin tones
EMOJI: list[tuple[str, str, str, list[str], list[str], int | None, int, int]] = [
    ("1F44D", "thumbs up", "Daumen hoch", ["hand", "like", "up"], ["hand", "gut"], 0, 0, 5),
    ("1F44B", "waving hand", "winkende Hand", ["hand", "hello", "wave"], ["hand", "hallo"], 0, 0, 5),
    ("1F9D4", "person: beard", "Person: Bart", ["beard", "face"], ["bart", "gesicht"], 0, 1, 5),
    ("1F3C3", "person running", "laufende Person", ["run", "fast"], ["laufen", "schnell"], 0, 1, 2),
    ("1F3C3-200D-2640-FE0F", "woman running", "laufende Frau", ["run", "fast"], ["laufen", "schnell"], 0, 1, 2),
    ("1F408", "cat", "Katze", ["animal", "cats"], ["tier"], 1, 2, 0),
    ("1F431", "cat face", "Katzengesicht", ["animal", "cat"], ["tier", "gesicht"], 1, 2, 0),
    ("1F415", "dog", "Hund", ["animal", "pet"], ["tier", "haustier"], 1, 2, 0),
    ("1F418", "elephant", "Elefant", ["animal", "grey"], ["tier", "grau"], 1, 2, 0),
    ("1F40E", "horse", "Pferd", ["animal", "race"], ["tier", "rennen"], 1, 2, 0),
    ("1F34E", "red apple", "roter Apfel", ["apple", "fruit"], ["apfel", "obst"], 2, 3, 0),
    ("1F34F", "green apple", "grüner Apfel", ["apple", "fruit"], ["apfel", "obst"], 2, 3, 0),
    ("1F1EB-1F1F7", "flag: France", "Flagge: Frankreich", ["flag", "FR"], ["flagge", "FR"], 3, 4, 0),
    ("1F1E8-1F1F5", "flag: Clipperton", "Flagge: Clipperton", ["flag", "CP"], ["flagge", "CP"], 3, 4, 0),
    ("2764", "red heart", "rotes Herz", ["heart", "love"], ["herz", "liebe"], 3, 4, 0),
    ("1F1E6", "letter A", "Buchstabe A", [], [], None, 4, 0),
]
GROUPS = {0: "people-body", 1: "animals-nature", 2: "food-drink", 3: "symbols"}
SUBGROUPS = {0: ("hands", "Hände"), 1: ("persons", "Personen"), 2: ("animals", "Tiere"), 3: ("fruit", "Früchte"),
             4: ("signs", "Zeichen")}  # fmt: skip


def drawing(*words: str) -> str:
    """The inside of an SVG that differs for different words: three coloured bars on 32 x 32."""
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()
    bars = (
        f'<rect x="{2 + 10 * i}" y="{int(digest[i], 16)}" width="8" height="16" fill="#{digest[6 * i : 6 * i + 6]}"/>'
        for i in range(3)
    )
    return "".join(bars)


def miniature() -> Packages:
    """Fluent lacks the letter; Noto spells hexcodes with selectors; Twemoji draws both flags alike."""
    emojibase: dict[str, Any] = {
        "package.json": {"name": EMOJIBASE, "version": PINS[EMOJIBASE].version, "license": "MIT", "author": "M. J."},
        "LICENSE": "All may use it.\n",
        "meta/groups.json": {
            "groups": {str(k): name for k, name in GROUPS.items()},
            "subgroups": {str(k): name for k, (name, _) in SUBGROUPS.items()},
        },
    }
    for number, language in enumerate(("en", "de")):
        emojibase[f"{language}/data.json"] = [_entry(one, number, order) for order, one in enumerate(EMOJI)]
        named = [{"key": names[0], "message": names[number], "order": k} for k, names in SUBGROUPS.items()]
        emojibase[f"{language}/messages.json"] = {"groups": [], "skinTones": [], "subgroups": named}
    packages: Packages = {EMOJIBASE: emojibase}
    for style, package in STYLES.items():
        icons, chars = {}, {}
        for entry in emojibase["en/data.json"]:
            for one in (entry, *entry.get("skins", ())):
                name = one["label"].replace(" ", "-")
                alike = style == "twemoji" and name.startswith("flag")
                if style == "fluent" and name == "letter-A":
                    continue
                icons[name] = {"body": drawing(style, "flag" if alike else name)}
                chars[one["hexcode"].lower() + ("-fe0f" if style == "noto" else "")] = name
        info = {
            "prefix": style,
            "name": TITLES[style],
            "author": {"name": f"Makers of {style}", "url": "https://example.org/" + style},
            "license": {"title": "Some Licence", "spdx": "CC-BY-4.0", "url": "https://example.org/licence"},
        }
        packages[package] = {
            "package.json": {"name": package, "version": PINS[package].version},
            "info.json": info,
            "chars.json": chars,
            "icons.json": {"prefix": style, "icons": icons, "width": 32, "height": 32},
        }
    return copy.deepcopy(packages)


def _entry(emoji: tuple[Any, ...], language: int, order: int) -> dict[str, Any]:
    hexcode, *texts, group, subgroup, tones = emoji
    label, tags = texts[language], texts[2 + language]
    entry: dict[str, Any] = {"label": label, "hexcode": hexcode, "tags": tags, "order": 10 * order}
    if group is None:
        return {key: value for key, value in entry.items() if key not in ("tags", "order")}
    entry |= {"group": group, "subgroup": subgroup}
    skins = []
    for tone in range(5 - tones, 5):
        words = f"{TONES[tone]} skin tone" if language == 0 else f"{GERMAN_TONES[tone]} Hautfarbe"
        first, colon, rest = label.partition(": ")
        toned = f"{first}: {words}, {rest}" if colon else f"{label}: {words}"
        before, joiner, after = hexcode.partition("-200D-")
        code = f"{before}-1F3F{'BCDEF'[tone]}{joiner}{after}"
        skins.append({"label": toned, "hexcode": code, "group": group, "subgroup": subgroup, "tone": tone + 1,
                      "order": 10 * order + tone + 1})  # fmt: skip
    return entry | ({"skins": skins} if skins else {})


def content(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()


def write_installed(folder: Path, packages: Packages) -> Path:
    """As `npm install` lays packages out."""
    for package, files in packages.items():
        for name, value in files.items():
            path = folder / "node_modules" / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(value))
    return folder


def write_packed(folder: Path, packages: Packages, top: str = "package") -> Path:
    """As `npm pack` writes archives."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, files in packages.items():
        name = f"{package.removeprefix('@').replace('/', '-')}-{PINS[package].version}.tgz"
        with tarfile.open(folder / name, "w:gz") as archive:
            for file, value in files.items():
                member = tarfile.TarInfo(f"{top}/{file}")
                member.size = len(content(value))
                archive.addfile(member, io.BytesIO(content(value)))
    return folder
