"""The commands that run many trainings: the bundled model, the evidence, the publication's tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("tiny-model", "train the bundled tiny multimodal LLM again", "same command")
def _tiny_model(options: "Options") -> Run:
    """Trains the bundled model's tower and then its language model on Fieldguide drawings; about an
    hour on two cores. Stopped runs go on where they were. No combination of marks that a test
    species can have is drawn.

    example:
      fieldmark tiny-model --run runs/tiny-model
    """
    from fieldmark.experiments.tiny_model.train import TinyModelConfig

    options.config(TinyModelConfig)
    options.add("--run", "Folder of the run.", default="runs/tiny-model")
    options.add("--export", "Also write the model, as a checkpoint folder, here.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import as_text
        from fieldmark.experiments.tiny_model.train import train_tiny_model

        export = None if given.export is None else Path(given.export)
        figures = train_tiny_model(given.config, Path(given.run), export)
        print(as_text(figures))
        if export is None:
            print(
                f"nothing exported; to try the model: fieldmark tiny-model --run {given.run} --export {given.run}/model"
            )
            print("and then give that folder as --model.supervisor, or copy it to src/fieldmark/models/bundled")
        else:
            print(f"model: {export} (give it as --model.supervisor)")

    return run


@command("tiny-embedder", "train the bundled embedder again", "same command")
def _tiny_embedder(options: "Options") -> Run:
    """Teaches the bundled model to sum up what a search is for, and trains it through ELVA's first two
    stages on Fieldguide drawings. Stopped runs go on where they were.

    example:
      fieldmark tiny-embedder --run runs/tiny-embedder
    """
    from fieldmark.experiments.tiny_embedder.train import TinyEmbedderConfig

    options.config(TinyEmbedderConfig)
    options.add("--run", "Folder of the run.", default="runs/tiny-embedder")
    options.add("--export", "Also write the embedder here.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.experiments.tiny_embedder.train import train_tiny_embedder

        export = None if given.export is None else Path(given.export)
        folder = train_tiny_embedder(given.config, Path(given.run), export)
        print(f"embedder: {folder} (give it as --base or --embedder)")

    return run


@command("evidence", "the grid of runs behind docs/evidence", "same command")
def _evidence(options: "Options") -> Run:
    """Runs methods × seeds × worlds and writes the tables of docs/evidence. Finished runs are not
    repeated.

    example:
      fieldmark evidence --limit 3
    """
    from fieldmark.experiments.evidence import EvidenceConfig

    options.config(EvidenceConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.evidence import run_evidence

        rows = run_evidence(given.config)
        print(f"{len(rows)} finished runs in {given.config.out}; tables in {given.config.docs}")

    return run


@command("reproduce saga", "the publication's tables, our figures beside the printed ones", "same command")
def _reproduce_saga(options: "Options") -> Run:
    """Runs every row of a table of SAGA with several seeds and writes it as Markdown, JSON and figure.
    Finished runs are not repeated, unfinished ones go on where they stopped, and tables share the
    runs that they have in common. Fieldguide needs neither pictures nor checkpoint nor GPU.

    examples:
      fieldmark reproduce saga --table components --dry_run
      fieldmark reproduce saga --table components --seeds [101,102,103]
      fieldmark reproduce saga --table main --benchmark cub --root data/CUB_200_2011 --seeds [0]
      fieldmark reproduce saga --table backbone --benchmark cub --root data/CUB_200_2011 --supervisor CHECKPOINT
    """
    from fieldmark.experiments.reproduce.plan import ReproduceConfig

    options.config(ReproduceConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.reproduce.run import reproduce_saga

        print(reproduce_saga(given.config))
        if not given.config.dry_run:
            print(f"tables in {given.config.docs_folder}")

    return run
