"""The command that searches an index."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldmark.cli.commands import Run, command

_CELL = 40
"""Characters of a column's value in the table; --json has all."""

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options
    from fieldmark.search.index import Index
    from fieldmark.search.queries import SearchQuery


@command("search", "search an index by pictures, words, both, or examples; find near-duplicates")
def _search(options: "Options") -> Run:
    """Finds the pictures of an index that are nearest to what is asked for: pictures, words (for encoders
    that read them), or both, added up by their weights. A weight stands behind a caret: a.jpg^2. What
    follows --minus leads away, by 0.5 unless a weight is given. --more_like and --less_like name pictures
    of the index, by id or path, that are wanted more or less of (Rocchio). docs/search.md tells more.

    With --duplicates and no query, groups of near-duplicates within the index, all compared with all;
    with a query, only what is at least as similar as --threshold.

    examples:
      fieldmark search --index shop.index --image a.jpg b.jpg -k 5
      fieldmark search --index birds.index --image a.jpg --text "yellow eye ring" --minus "striped breast"
      fieldmark search --index birds.index --more_like p/1.jpg p/2.jpg --where "genus = 'Sylvia'" --html found.html
      fieldmark search --index shop.index --duplicates --html twins.html
    """
    several = {"nargs": "+", "action": "extend"}
    options.add("--index", "Folder of the index.", required=True)
    options.add("--image", "Pictures to search by, each perhaps with a weight: a.jpg^0.5.", **several)
    options.add("--text", "Words to search by, in quotes, perhaps with a weight.", **several)
    options.add("--minus", "Pictures or words to lead away from.", **several)
    options.add("--more_like", "Ids or paths of pictures of the index: more like these.", **several)
    options.add("--less_like", "Ids or paths of pictures of the index: less like these.", **several)
    options.flag("--together", "Read a picture and the words as one request, as the encoder was trained to.")
    options.add("--instruction", "What is wanted, told to an encoder that reads words.", default="")
    options.add("--where", "A condition on columns, such as: genus = 'Corvus' AND year >= 2020.", str | None)
    options.add("-k", "How many results.", int, 20)
    options.flag("--exact", "Compare with every picture, whatever approximate index there is.")
    options.flag("--duplicates", "Near-duplicates only.")
    options.add("--threshold", "With --duplicates: cosine similarity from which on pictures count.", float, 0.98)
    options.add("--encoder", "Folder of the encoder, if it does not lie where it lay at the build.", str | None)
    options.add("--device", "Where the encoder computes: cpu, cuda, …", str, "cpu")
    options.flag("--json", "Print JSON instead of a table.")
    options.add("--html", "Write a page with the pictures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.search.index import Index
        from fieldmark.search.written_queries import written_query

        index = Index.open(given.index)
        if given.html is not None:
            _check_page(Path(given.html))  # before minutes of work
        asked = {"images": given.image, "texts": given.text, "minus": given.minus}
        asked |= {"more_like": given.more_like, "less_like": given.less_like}
        if given.duplicates and not any(asked.values()):
            _print_duplicates(index, given)
            return
        query = written_query(
            index,
            **{name: values or () for name, values in asked.items()},
            where=given.where,
            k=given.k,
            instruction=given.instruction,
            together=given.together,
            min_score=given.threshold if given.duplicates else -1.0,
        )
        _print_results(index, query, given)

    return run


def _print_results(index: "Index", query: "SearchQuery", given: "Given") -> None:
    from fieldmark.cli.printing import as_text
    from fieldmark.search.pages import results_html
    from fieldmark.search.queries import check_where, load_index_encoder, search

    check_where(index, query.where)  # before an encoder is loaded
    encoder = load_index_encoder(index, given.encoder, given.device) if query.encoded else None
    results = search(index, query, encoder, exact=given.exact)
    rows = results.as_rows()
    for note in results.notes:
        print(f"note: {note}", file=sys.stderr)
    if given.json:
        print(as_text({"seconds": results.seconds, "notes": results.notes, "hits": rows}))
    elif rows:
        print(_table(rows))
        print(f"{len(rows)} of {len(index):,} pictures, {results.seconds:.2f} s")
    else:
        print("nothing was found" + (f" among those with {query.condition}" if query.where else ""))
    if given.html is not None:
        _write_page(given.html, results_html(index, query, results))


def _print_duplicates(index: "Index", given: "Given") -> None:
    from tqdm import tqdm

    from fieldmark.cli.printing import as_text, printable
    from fieldmark.search.duplicates import near_duplicates
    from fieldmark.search.pages import MAX_GROUPS, MAX_IN_GROUP, duplicates_html, duplicates_text

    with tqdm(total=100, unit="%", desc="comparing", disable=None, leave=False) as bar:
        found = near_duplicates(
            index,
            given.threshold,
            where=given.where,
            device=given.device,
            progress=lambda share: bar.update(round(100 * share) - bar.n),
        )
    groups: list[list[dict[str, Any]]] = [
        [{"id": row.id, "path": row.path, "score": score} for row, score in zip(group.rows, group.scores, strict=True)]
        for group in found.groups
    ]
    if given.json:
        print(as_text({"threshold": found.threshold, "rows": found.num_rows, "groups": groups}))
    else:
        for number, group in enumerate(groups[:MAX_GROUPS], start=1):
            lines = [f"  {one['score']:6.3f}  {printable(one['path'])}" for one in group[:MAX_IN_GROUP]]
            rest = [f"  … and {len(group) - MAX_IN_GROUP:,} more"] if len(group) > MAX_IN_GROUP else []
            print("\n".join([f"{number}. {len(group):,} pictures", *lines, *rest]))
        if len(groups) > MAX_GROUPS or any(len(group) > MAX_IN_GROUP for group in groups):
            print("--json lists all of them. The numbers are similarities to the first of a group.")
        print(duplicates_text(found))
    if given.html is not None:
        _write_page(given.html, duplicates_html(index, found))


def _table(rows: list[dict[str, Any]]) -> str:
    """Rank, score, path, id and the other columns, shortened, aligned."""
    own = ("rank", "score", "path", "id")
    names = [*own, *(name for name in rows[0] if name not in own)]
    cells = [names] + [[_cell(name, row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def _cell(name: str, value: Any) -> str:
    from fieldmark.cli.printing import printable

    if name == "score":
        return f"{value:.3f}"
    text = "–" if value is None else printable(str(value))
    return text if len(text) <= _CELL or name in ("path", "id") else f"{text[: _CELL - 1]}…"


def _check_page(file: Path) -> None:
    from fieldmark.search.disk import require_writable

    if file.is_dir():
        raise ValueError(f"{file} is a folder: name the file, for instance {file / 'found.html'}")
    require_writable(file)


def _write_page(path: str, text: str) -> None:
    from fieldmark.search.disk import storing
    from fieldmark.training.run_folder import write_text

    file = Path(path)
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    print(f"written: {file}", file=sys.stderr)
