"""The bundled tiny MLLM and embedders made of it, in the layouts of published checkpoints and of saved embedders."""

from pathlib import Path

BUNDLED = "bundled"
"""Name of the bundled model wherever a checkpoint is asked for. How it was trained: docs/tiny-model.md."""
BUNDLED_EMBEDDER = "bundled-embedder"
"""Name of the bundled embedder wherever an embedder is asked for: the bundled model after ELVA's second stage."""
BUNDLED_ELVA_START = "bundled-elva-start"
"""Name of the bundled embedder that is blind to grains, from which ELVA's demo and evidence start."""

_FOLDERS = {BUNDLED: ".", BUNDLED_EMBEDDER: "embedder", BUNDLED_ELVA_START: "elva_start"}


def bundled_path() -> Path:
    """Folder of the bundled model."""
    return Path(__file__).parent


def located(checkpoint: str | Path) -> str | Path:
    """The folder that a bundled name stands for; anything else, a folder or a hub id, as it is."""
    folder = _FOLDERS.get(str(checkpoint))
    return checkpoint if folder is None else bundled_path() / folder
