"""The command that makes the emoji collection."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("data emoji", "real pictures and words: emoji in four styles as an M-BEIR collection")
def _data_emoji(options: "Options") -> Run:
    """Takes four sets of emoji drawings and emojibase's names and keywords from npm packages of fixed
    versions, renders the drawings and writes queries, pools and relevance in M-BEIR's layout: text to
    picture, picture to text, the same emoji in other styles, and a picture with a wish ("with dark
    skin tone"). Half of the concepts and one style are kept for testing. npm runs no scripts. The
    licences of the sets lie beside the pictures.

    examples:
      fieldmark data emoji --out worlds/emoji
      fieldmark data emoji --out worlds/emoji --packages downloads --languages '[en, ja, pt]'
    """
    from fieldmark.data.emoji.collection import EmojiConfig

    options.config(EmojiConfig)
    options.add("--out", "Folder to write.", required=True)
    options.add("--packages", "Folder with the npm packages, packed or installed. Not given: npm fetches.", str | None)
    options.add("--workers", "Processes that render; 0 renders in line.", int, 1)
    options.flag("--force", "Replace the folder if it exists.")

    def run(given: "Given") -> None:
        from fieldmark.data.emoji.collection import write_emoji

        packages = Path(given.packages) if given.packages is not None else None
        summary = write_emoji(
            given.config, Path(given.out), packages=packages, workers=given.workers, force=given.force
        )
        print(summary.as_text())
        print(f"\nwritten: {given.out} (pictures at a glance: {given.out}/contact_sheet.png)")
        print(f"licences: {given.out}/licences/LICENCES.txt")

    return run
