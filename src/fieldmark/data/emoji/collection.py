"""The emoji collection on disk: pictures, M-BEIR's files, licences. Real pictures and real words, none of them ours."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import ImageColor

from fieldmark.data.emoji.catalogue import Catalogue, Picture
from fieldmark.data.emoji.concepts import Concept, read_concepts, split_concepts
from fieldmark.data.emoji.contact_sheet import contact_sheet
from fieldmark.data.emoji.datasets import make_datasets
from fieldmark.data.emoji.icons import Style, read_style
from fieldmark.data.emoji.licences import write_licences
from fieldmark.data.emoji.packages import EMOJIBASE, PINS, STYLES, open_packages, read_version
from fieldmark.data.emoji.rendering import render_all
from fieldmark.data.multimodal.mbeir_writing import write_mbeir

_FACTS = "emoji.json"


@dataclass(frozen=True)
class EmojiConfig:
    """Settings of the collection; the same settings and packages give the same bytes."""

    size: int = 96
    """Side of the pictures in pixels."""
    background: str = "white"
    """Colour behind the drawings, as a name or "#rrggbb"."""
    languages: tuple[str, ...] = ("en", "de", "es", "fr")
    """Languages of names and keywords, English first."""
    held_out: str | None = "openmoji"
    """Style that no training query and no training candidate is drawn in; null: none is held out."""
    test_share: float = 0.5
    """Share of the concepts that is for testing."""
    val_share: float = 0.05
    """Share of the concepts that is for choosing between models."""
    seed: int = 0
    """Seed of the split and of what the queries draw."""

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise ValueError(f"size must be between 8 and 2048 pixels, got {self.size}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ValueError(
                f"background must be a colour such as white or #f0f0f0, got {self.background!r}"
            ) from error
        if self.languages[:1] != ("en",) or len(set(self.languages)) < len(self.languages):
            raise ValueError(
                f"languages must begin with en, whose words the queries are made with, and name each language once; "
                f"got {self.languages}"
            )
        if self.held_out is not None and self.held_out not in STYLES:
            raise ValueError(f"held_out must be one of {', '.join(STYLES)} or null, got {self.held_out!r}")
        if min(self.test_share, self.val_share) < 0 or not 0 < self.test_share + self.val_share < 1:
            raise ValueError(
                f"test_share and val_share must leave something to train on, got {self.test_share} and {self.val_share}"
            )

    @property
    def seen(self) -> tuple[str, ...]:
        """The styles that are not held out."""
        return tuple(style for style in STYLES if style != self.held_out)


@dataclass(frozen=True)
class EmojiSummary:
    """What was written."""

    concepts: int
    concepts_by_split: Mapping[str, int]
    pictures: Mapping[str, int]
    """By style."""
    shared_pictures: int
    """Pictures that their style uses for several emoji."""
    skipped: int
    """Drawings that are refused or empty."""
    queries: Mapping[str, int]
    """By "data set_task split"."""
    vague: int
    """Text queries left out because too many emoji would answer them."""
    versions: Mapping[str, str]
    """Of the packages."""

    def as_text(self) -> str:
        """For people."""
        styles = ", ".join(f"{style} {count}" for style, count in self.pictures.items())
        splits = ", ".join(f"{split} {count}" for split, count in self.concepts_by_split.items())
        lines = [
            f"{self.concepts} concepts ({splits})",
            f"{sum(self.pictures.values())} pictures ({styles}); {self.shared_pictures} stand for several emoji",
            f"{sum(self.queries.values())} queries; {self.vague} too vague ones left out",
            *(f"  {name:<28}{count:>7}" for name, count in self.queries.items()),
        ]
        if self.skipped:
            lines.append(f"{self.skipped} drawings could not be used: see skipped.jsonl")
        for name, version in self.versions.items():
            if version != PINS[name].version:
                lines.append(
                    f"{name} is version {version}, not {PINS[name].version}: figures differ from the published"
                )
        return "\n".join(lines)


def is_emoji_collection(folder: Path) -> bool:
    """Whether `write_emoji` wrote it."""
    return (folder / _FACTS).is_file()


def write_emoji(
    config: EmojiConfig,
    out: Path,
    *,
    packages: Path | None = None,
    workers: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EmojiSummary:
    """Writes the collection to `out` (made whole in a temporary folder beside it, then renamed).

    Layout: M-BEIR's folders; ``mbeir_images/STYLE/HEXCODE.png``; ``licences/``; ``emoji.json`` (settings, versions,
    counts); ``skipped.jsonl``; ``contact_sheet.png``.

    Args:
        packages: folder with the npm packages; None: npm fetches them.
        workers: processes that render; 0 renders in this one.
        progress: called with (done, count) now and then.

    Raises:
        ValueError: `out` exists and `force` is not said; a package is missing or has another layout.
    """
    out = Path(out)
    if out.exists() and not force:
        raise ValueError(f"{out} exists: choose another --out, or say --force to replace it")
    if out.exists() and not is_emoji_collection(out):
        raise ValueError(f"{out} holds no emoji collection: --force replaces nothing else. Choose another --out")
    temporary = out.with_name(out.name + ".writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        with open_packages(packages) as folders:
            styles = [read_style(key, folders[package]) for key, package in STYLES.items()]
            concepts = read_concepts(folders[EMOJIBASE], config.languages)
            write_licences(temporary / "licences", styles, folders[EMOJIBASE])
            versions = {name: read_version(folder) for name, folder in folders.items()}
        summary = _write(temporary, config, styles, concepts, versions, workers, progress)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
    return summary


def _write(
    root: Path,
    config: EmojiConfig,
    styles: Sequence[Style],
    concepts: Sequence[Concept],
    versions: Mapping[str, str],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> EmojiSummary:
    pictures, skipped = _write_pictures(root, config, styles, concepts, workers, progress)
    if not pictures:
        raise ValueError("no drawing of any style belongs to an emoji of emojibase-data: are these the right packages?")
    drawn = {picture.hexcode for picture in pictures}
    kept = tuple(concept for concept in concepts if concept.hexcode in drawn)
    shares = {"train": 1 - config.test_share - config.val_share, "val": config.val_share, "test": config.test_share}
    shares = {split: share for split, share in shares.items() if share > 0}
    twins = [picture.shows for picture in pictures if len(picture.shows) > 1]
    split = split_concepts(kept, twins, shares, np.random.default_rng([config.seed, 1]))
    titles = {style.key: style.title for style in styles}
    catalogue = Catalogue(kept, tuple(pictures), titles, config.languages, split)
    collections, vague = make_datasets(catalogue, config.seen, config.held_out, tuple(shares), config.seed)
    write_mbeir(root, *collections)
    queries = Counter(f"{c.name}_task{query.task} {query.split}" for c in collections for query in c.queries)
    counts = Counter(split.values())
    summary = EmojiSummary(
        len(kept),
        {name: counts[name] for name in shares},
        dict(Counter(picture.style for picture in pictures)),
        len(twins),
        len(skipped),
        dict(queries),
        vague,
        versions,
    )
    facts = {"format": 1, "settings": asdict(config), **asdict(summary)}
    (root / _FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in skipped)
    (root / "skipped.jsonl").write_text(lines, encoding="utf-8")
    contact_sheet(root, catalogue).save(root / "contact_sheet.png")
    return summary


def _write_pictures(
    root: Path,
    config: EmojiConfig,
    styles: Sequence[Style],
    concepts: Sequence[Concept],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Picture], list[dict[str, str]]]:
    """The pictures that were written, style by style, and what could not be drawn."""
    wanted = [(style, one.hexcode) for style in styles for one in concepts if one.hexcode in style.icons]
    icons = [style.icons[hexcode] for style, hexcode in wanted]
    made = render_all(icons, config.size, config.background, workers, progress)
    alike: dict[tuple[str, bytes], set[str]] = defaultdict(set)
    pictures, skipped = [], []
    for (style, hexcode), icon, rendering in zip(wanted, icons, made, strict=True):
        if rendering.problem:
            skipped.append({"style": style.key, "emoji": hexcode, "drawing": icon.name, "reason": rendering.problem})
            continue
        path = f"mbeir_images/{style.key}/{hexcode}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(rendering.png)
        key = style.key, hashlib.sha256(rendering.png).digest()
        alike[key].add(hexcode)
        pictures.append((style.key, hexcode, path, key))
    return [Picture(style, hexcode, path, frozenset(alike[key])) for style, hexcode, path, key in pictures], skipped
