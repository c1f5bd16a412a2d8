"""The commands about multimodal retrieval data."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("data mbeir", "what of M-BEIR lies in a folder: tasks, counts, missing files and pictures")
def _data_mbeir(options: "Options") -> Run:
    """Reads every query file, qrels and pool of a folder in M-BEIR's layout, the published one or one's
    own, and tells by task how many queries and candidates there are, what is damaged or left out, which
    files are missing, and which pictures.

    examples:
      fieldmark data mbeir --root downloads/M-BEIR
      fieldmark data mbeir --root my/collection --skip_pictures
    """
    options.add("--root", "Folder in M-BEIR's layout.", required=True)
    options.flag("--skip_pictures", "Do not look whether the pictures are there.")
    options.flag("--json", "Print JSON instead of a table.")

    def run(given: "Given") -> None:
        from fieldmark.data.multimodal.inspection import inspect_mbeir

        found = inspect_mbeir(Path(given.root), pictures=not given.skip_pictures)
        print(found.as_json() if given.json else found.as_text())

    return run


@command("data convert", "your own queries and candidates (JSONL) into M-BEIR's layout")
def _data_convert(options: "Options") -> Run:
    """Writes two JSONL files, of queries and of candidates, as a data set in M-BEIR's layout, which every
    command of this toolkit reads, and others' tools too. Everything is checked before anything is
    written. docs/data-mbeir.md describes the fields.

    example:
      fieldmark data convert --queries queries.jsonl --candidates candidates.jsonl --name shop --out data/shop
    """
    from fieldmark.data.multimodal.convert import ConvertConfig

    options.config(ConvertConfig)
    options.add("--out", "Folder to write.", required=True)

    def run(given: "Given") -> None:
        from fieldmark.data.multimodal.convert import convert

        done = convert(given.config, Path(given.out))
        print(f"{done.candidates} candidates, {done.pictures} pictures: {done.root}")
        for key, count in done.queries.items():
            print(f"  {key}: {count} queries")
        print(f"next: fieldmark data mbeir --root {done.root}")

    return run


@command("data fieldguide", "draw the bundled picture world: birds with known field marks")
def _data_fieldguide(options: "Options") -> Run:
    """Draws a world of birds: class folders, true attributes, part masks, a split and a contact sheet.
    The same seed gives the same bytes. With --habitat 1 every training species stands in its own
    habitat: a shortcut that the labels do not warn of, and that the test species do not have.

    With --as mbeir it becomes a retrieval collection instead, in M-BEIR's layout (docs/data-mbeir.md):
    text and pictures in four directions, queries with their grains, pools rich in near misses, and
    triplets of sentences. The options --retrieval.* are for it.

    examples:
      fieldmark data fieldguide --out worlds/birds --species 200 --per 24 --nuisance .35 --habitat 1 --seed 0
      fieldmark data fieldguide --out worlds/queries --as mbeir --habitat 0
    """
    from fieldmark.data.fieldguide.collections import FieldguideOptions, Layout

    options.config(FieldguideOptions)
    options.add("--out", "Folder to write.", required=True)
    options.add("--as", "folders: class folders; mbeir: a retrieval collection.", Layout, "folders")
    options.add("--workers", "Processes that draw. Not given: one per processor.", int | None)
    options.flag("--force", "Replace the folder if it exists.")

    def run(given: "Given") -> None:
        from fieldmark.data.fieldguide.retrieval import write_fieldguide_retrieval
        from fieldmark.data.fieldguide.world import write_fieldguide

        out, config = Path(given.out), given.config
        if getattr(given, "as") == "mbeir":
            written = write_fieldguide_retrieval(
                config.world, config.retrieval, out, workers=given.workers, force=given.force
            )
            print(written.as_text())
            return
        write_fieldguide(config.world, out, workers=given.workers, force=given.force)
        print(f"{config.species} species, {config.per} pictures each: {out}")
        print(f"contact sheet: {out / 'contact_sheet.png'}")

    return run
