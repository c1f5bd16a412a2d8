"""The bundled tiny MLLM: weights, tokenizer and configuration in the layout of a published checkpoint."""

from pathlib import Path


def bundled_path() -> Path:
    """Folder of the bundled model. How it was trained: docs/tiny-model.md."""
    return Path(__file__).parent


def bundled_embedder_path() -> Path:
    """Folder of the bundled embedder, trained up to ELVA's second stage. How: docs/tiny-model.md."""
    return bundled_path() / "embedder"
