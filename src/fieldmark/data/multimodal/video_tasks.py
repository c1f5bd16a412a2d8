"""Text → video retrieval from the annotation files of MSR-VTT and MSVD, or files in their formats.

    MSR-VTT   JSON with "videos" (video_id, split) and "sentences" (video_id, caption); the 1k-A test as CSV with the
              columns video_id and sentence
    MSVD      text with lines "<video id> <caption>" and comments after #; the split's ids in a file, one a line

Pickled captions, as some copies of MSVD have them, are never loaded.
"""

import csv
import json
import warnings
from pathlib import Path
from typing import Any, Literal

from fieldmark.data.multimodal.video import VIDEO_SUFFIXES
from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.data.sources import confined

INSTRUCTION = "Find the video that this sentence describes."


def read_video_task(
    annotations: Path | str,
    videos: Path | str,
    *,
    ids: Path | str | None = None,
    split: str | None = None,
    missing: Literal["error", "skip"] = "error",
    instruction: str = INSTRUCTION,
) -> RetrievalTask:
    """Every caption is a query, every video of the split a candidate. No video is opened yet.

    Args:
        annotations: .json, .csv or .txt, see the module.
        videos: folder with ``<video id>.<ending>`` or a folder of frames ``<video id>/``.
        ids: file with the ids to take, one a line.
        split: of a JSON with splits: take only this one, as "test".
        missing: videos that are not there: "error", or "skip" leaves them and their captions out with a warning (of
            MSVD some have vanished from the web).
        instruction: for all queries.

    Raises:
        ValueError: an unknown format, an unknown split, videos that are missing, or nothing is left.
    """
    annotations, videos = Path(annotations), Path(videos)
    captions = _read_captions(annotations, split)
    if ids is not None:
        wanted = [line.strip() for line in Path(ids).read_text(encoding="utf-8").splitlines() if line.strip()]
        strangers = [name for name in wanted if name not in captions]
        if strangers:
            raise ValueError(
                f"{ids} names {len(strangers)} videos without captions in {annotations}: {strangers[0]!r} …"
            )
        captions = {name: captions[name] for name in wanted}
    files = {name: _find_video(videos, name) for name in captions}
    absent = [name for name, path in files.items() if path is None]
    if absent:
        message = f"{videos} lacks {len(absent)} of {len(files)} videos ({', '.join(absent[:3])} …)"
        if missing == "error":
            raise ValueError(f'{message}; missing="skip" leaves them out')
        warnings.warn(f"{message}; they and their captions are left out", stacklevel=2)
    candidates = [Item(name, video=path) for name, path in files.items() if path is not None]
    queries, relevance = [], {}
    for item in candidates:
        for k, caption in enumerate(captions[item.id]):
            query = Query(Item(f"{item.id}/{k}", caption), instruction=instruction)
            queries.append(query)
            relevance[query.id] = {item.id: 1.0}
    return RetrievalTask(annotations.stem, queries, candidates, relevance)


def _read_captions(path: Path, split: str | None) -> dict[str, list[str]]:
    """Video id → captions, in the file's order."""
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise ValueError(f"{path} is pickled, which may execute anything: take the text file of captions instead")
    if split is not None and suffix != ".json":
        raise ValueError(f"{path} knows no splits: name the ids of split {split!r} in a file")
    try:
        if suffix == ".json":
            captions = _from_json(path, split)
        elif suffix == ".csv":
            captions = _from_csv(path)
        elif suffix == ".txt":
            captions = _from_text(path)
        else:
            raise ValueError(f"{path}: captions are read from .json (MSR-VTT), .csv (its 1k-A test) or .txt (MSVD)")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not captions:
        raise ValueError(f"{path} holds no captions")
    return captions


def _from_json(path: Path, split: str | None) -> dict[str, list[str]]:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("sentences"), list):
        raise ValueError(f'{path} needs "sentences" with video_id and caption, as MSR-VTT has them')
    chosen: set[str] | None = None
    if split is not None:
        splits = {one["video_id"]: one.get("split") for one in content.get("videos", ())}
        chosen = {name for name, own in splits.items() if own == split}
        if not chosen:
            known = ", ".join(sorted({str(own) for own in splits.values()})) or "none"
            raise ValueError(f"{path} has no video of split {split!r}; its splits: {known}")
    captions: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        if chosen is None or sentence["video_id"] in chosen:
            captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
    return captions


def _from_csv(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        names = rows.fieldnames or ()
        column = next((name for name in ("sentence", "caption") if name in names), None)
        if column is None or "video_id" not in names:
            raise ValueError(f"{path} needs the columns video_id and sentence; it has {', '.join(names)}")
        for row in rows:
            captions.setdefault(row["video_id"], []).append(row[column])
    return captions


def _from_text(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, caption = line.strip().partition(" ")
        if not caption.strip():
            raise ValueError(f'{path}, line {number}: needs "<video id> <caption>", got {line!r}')
        captions.setdefault(name, []).append(caption.strip())
    return captions


def _find_video(folder: Path, name: str) -> Path | None:
    path = confined(folder, name)
    if path is None:
        raise ValueError(f"the video id {name!r} leads out of {folder}")
    if path.is_dir():
        return path
    # an id may hold a full stop: the ending is appended, not replaced
    return next((found for ending in VIDEO_SUFFIXES if (found := path.with_name(path.name + ending)).is_file()), None)
