"""Whether the data and the start of a table are there: asked before anything is planned, in a dry run, too."""

from pathlib import Path

from fieldmark.data.emoji.collection import is_emoji_collection
from fieldmark.data.multimodal.mbeir_layout import find_tasks
from fieldmark.experiments.elva.plan import ElvaTableConfig, read_recipes
from fieldmark.experiments.elva.tables import EMOJI, FIELDGUIDE, load_table
from fieldmark.models.bundled import located
from fieldmark.models.weight_files import is_hub_name


def check_inputs(config: ElvaTableConfig) -> list[str]:
    """What is taken, a line each.

    Raises:
        ValueError: the collection is none, or not the benchmark's; there is no such start, and it can be no hub name.
            In a dry run the recipe's own start may be missing: it is then to be trained first.
    """
    return [_check_collection(config), _check_start(config)]


def _check_collection(config: ElvaTableConfig) -> str:
    if config.benchmark == FIELDGUIDE:
        return "data:  drawn by seed"
    if config.root is None:
        return "data:  --root is not given, which only a dry run may leave out"
    root = Path(config.root)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the collection with --root")
    if config.benchmark == EMOJI and not is_emoji_collection(root):
        raise ValueError(
            f"{root} is not what `fieldmark data emoji` writes (it has no emoji.json): make it with "
            "`fieldmark data emoji --out FOLDER` and give it with --root"
        )
    if not load_table(config.table).is_about_video:
        find_tasks(root, "test")
    return f"data:  {root}"


def _check_start(config: ElvaTableConfig) -> str:
    base = read_recipes(config).elva.model.base
    if Path(located(base)).is_dir():
        return f"start: {base}"
    if is_hub_name(base) and config.base is not None:
        return f"start: {base} (no folder here: taken as a hub name)"
    if config.base is None and config.dry_run:
        return f"start: {base}, the recipe's, is not there yet: train it first, or give another with --base"
    raise ValueError(
        f"there is no embedder at {base}: give one with --base (a run, a saved embedder, a peft adapter, a "
        "checkpoint), or train the recipe's start first (docs/elva-tables.md)"
    )
