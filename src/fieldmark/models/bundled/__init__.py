"""The bundled tiny MLLM and the embedder made of it, in the layouts of published checkpoints and of saved embedders."""

from pathlib import Path

BUNDLED = "bundled"
"""Name of the bundled model wherever a checkpoint is asked for. How it was trained: docs/tiny-model.md."""
BUNDLED_EMBEDDER = "bundled-embedder"
"""Name of the bundled embedder wherever an embedder is asked for: the bundled model after ELVA's second stage."""


def bundled_path() -> Path:
    """Folder of the bundled model."""
    return Path(__file__).parent


def bundled_embedder_path() -> Path:
    """Folder of the bundled embedder: adapters that belong to the bundled model."""
    return bundled_path() / "embedder"


def located(checkpoint: str | Path) -> str | Path:
    """The folder that a bundled name stands for; anything else, a folder or a hub id, as it is."""
    if str(checkpoint) == BUNDLED:
        return bundled_path()
    return bundled_embedder_path() if str(checkpoint) == BUNDLED_EMBEDDER else checkpoint
