"""Results and near-duplicates of an index as HTML: its pictures made small, and put into `fieldmark.report.found`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fieldmark import __version__
from fieldmark.data.decode import BadImage, decode_image
from fieldmark.report.found import ShownGroup, ShownPart, ShownPicture, duplicates_page, results_page
from fieldmark.report.html import Html
from fieldmark.report.pictures import picture_uri
from fieldmark.search.duplicates import Duplicates
from fieldmark.search.queries import Part, SearchQuery, SearchResults, as_image

if TYPE_CHECKING:
    from fieldmark.search.index import Index, Row

PIXELS = 240
MAX_GROUPS = 200
"""Groups of near-duplicates on one page."""
MAX_IN_GROUP = 24


def results_html(index: "Index", query: SearchQuery, results: SearchResults) -> Html:
    """The page of a query's results."""
    rows = index.rows([hit.id for hit in results])
    found = [_shown(index, rows.get(hit.id), hit.id, hit.path, hit.score, hit.metadata) for hit in results]
    narrowed = f" among those with {query.condition}" if query.where else ""
    summary = f"The {len(found)} best of {len(index):,} pictures{narrowed}, in {results.seconds:.2f} s."
    given = {"condition": query.condition, "instruction": query.instruction}
    settings = _settings(index) | {name: value for name, value in given.items() if value}
    return results_page(list(_parts(index, query)), found, summary, settings, results.notes)


def duplicates_html(index: "Index", duplicates: Duplicates) -> Html:
    """The page of groups of near-duplicates; the largest groups, if there are many."""
    groups = [
        ShownGroup(
            [
                _shown(index, row, row.id, row.path, score, row.metadata)
                for row, score in list(zip(group.rows, group.scores, strict=True))[:MAX_IN_GROUP]
            ],
            len(group.rows),
        )
        for group in duplicates.groups[:MAX_GROUPS]
    ]
    settings = _settings(index) | {"threshold": duplicates.threshold, "seconds": round(duplicates.seconds, 2)}
    more = len(duplicates.groups) - MAX_GROUPS
    left_out = f" The {MAX_GROUPS} largest groups are shown." if more > 0 else ""
    return duplicates_page(groups, duplicates_text(duplicates) + left_out, settings)


def duplicates_text(duplicates: Duplicates) -> str:
    """How many there are; and, if one group holds half of everything, what to do about it."""
    text = (
        f"{len(duplicates.groups):,} groups of pictures linked by a similarity of {duplicates.threshold:g} or more "
        f"among {duplicates.num_rows:,}: {duplicates.num_superfluous:,} beyond the first of each."
    )
    largest = max((len(group.rows) for group in duplicates.groups), default=0)
    if largest > 10 and 2 * largest > duplicates.num_rows:
        text += f" One group links {largest:,} of them, each to the next: the threshold is too low for this encoder."
    return text


def _settings(index: "Index") -> dict[str, Any]:
    return {
        "index": str(index.path),
        "pictures": len(index),
        "encoder": f"{index.encoder_name} ({index.encoder_fingerprint[:12]})",
        "fieldmark": __version__,
    }


def _parts(index: "Index", query: SearchQuery) -> Iterator[ShownPart]:
    for part in query.counted:
        title = " and ".join(["Picture"] * (part.image is not None) + ["Words"] * (part.text is not None))
        yield ShownPart(title or "Example", part.weight, part.text, _part_uri(index, part))
    for ids, title in ((query.more_like, "More like this"), (query.less_like, "Less like this")):
        for row in index.rows(ids).values():
            yield ShownPart(title, None, None if _uri(index, row)[0] else row.path, _uri(index, row)[0])


def _part_uri(index: "Index", part: Part) -> str | None:
    if part.id is not None:
        row = index.get(part.id)
        return None if row is None else _uri(index, row)[0]
    if part.image is None:
        return None
    return picture_uri(as_image(part.image), PIXELS)


def _shown(
    index: "Index", row: "Row | None", id: str, path: str, score: float, metadata: Mapping[str, Any]
) -> ShownPicture:
    uri, reason = (None, "the row has gone in the meantime") if row is None else _uri(index, row)
    facts = {} if row is None else {"size": f"{row.width} × {row.height}"}
    return ShownPicture(path, id, score, uri, reason, {**facts, **metadata})


def _uri(index: "Index", row: "Row") -> tuple[str | None, str]:
    """Data URI of a row's picture, or None and why it cannot be shown."""
    try:
        return picture_uri(decode_image(index.source(row), name=row.path), PIXELS), ""
    except BadImage as error:
        return None, error.reason
    except ValueError as error:
        return None, str(error)
