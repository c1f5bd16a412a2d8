"""The command that makes the tables of ELVA."""

from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("reproduce elva", "ELVA's tables and their controls, our figures beside the printed ones", "same command")
def _reproduce_elva(options: "Options") -> Run:
    """Runs every row of a table of ELVA with several seeds and writes it as Markdown, JSON and figure.
    Worlds, mined negatives and the multi-grain benchmark are made once. Finished runs are not repeated,
    unfinished ones go on where they stopped, and tables share the runs that they have in common.
    Fieldguide needs neither pictures nor checkpoint nor GPU.

    examples:
      fieldmark reproduce elva --table controls --dry_run
      fieldmark reproduce elva --table controls --base runs/stage2 --seeds [101,102,103]
      fieldmark reproduce elva --table main --benchmark mbeir --root M-BEIR --base runs/elva/stage2 --seeds [0]
      fieldmark reproduce elva --table posttrain --benchmark mbeir --root M-BEIR --base OTHER_RETRIEVER --seeds [0]
    """
    from fieldmark.experiments.elva.plan import ElvaTableConfig

    options.config(ElvaTableConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.elva.reproduce import reproduce_elva

        print(reproduce_elva(given.config))
        if not given.config.dry_run:
            print(f"tables in {given.config.docs_folder}")

    return run
