"""The universal embedder that a method trains: where it comes from, and what of it is trained."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fieldmark.models.adapters import AdapterConfig, adapter_layers
from fieldmark.models.bundled import located
from fieldmark.models.embedder_files import EMBEDDER_FILE, read_description
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.new_words import add_words, read_words
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.models.weight_files import SMALL_FILES, fetch


@dataclass(frozen=True)
class EmbedderModelConfig:
    """The multimodal LLM that embeds, and what of it is trained."""

    base: str = "bundled"
    """"bundled" (the tiny Fieldguide model), "bundled-embedder" (the same after stage 2), "bundled-elva-start" (after
    a stage 2 that leaves it blind to grains), a checkpoint folder, a hub id, a peft adapter's folder, a saved embedder,
    or the folder of a run that saved one. An adapter that it brings is folded into the weights before the new one is
    added (and is saved with it)."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """The new adapter."""
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    """How it is asked; said anew for every stage, whatever a saved embedder was asked with."""
    train_tower: bool = False
    """Also train the vision tower. Not part of ELVA; for towers that never saw such pictures."""
    train_words: bool = False
    """Also train token embeddings and output head. Not part of ELVA; for tiny models that never wrote such words."""
    new_words: str | None = None
    """Text file (`fieldmark data words`): words that become tokens of their own; `train_words` must be set. Not part of
    ELVA."""
    dtype: str = "float32"
    """Weights and activations; "auto" takes bfloat16 where the processor has instructions for it. Adapters are always
    float32."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        if self.new_words is not None and not self.train_words:
            raise ValueError("new words mean nothing until they are trained: set model.train_words to true")


def embedder_folder(path: str | Path) -> str:
    """What `load_embedder` takes: the saved embedder of a run, if ``path`` is the folder of one; else ``path``.

    Raises:
        ValueError: a run that has saved none yet.
    """
    saved = Path(path) / "encoder"
    if (saved / EMBEDDER_FILE).is_file():
        return str(saved)
    if (Path(path) / "config.yaml").is_file():
        raise ValueError(f"{path} is a run that has saved no embedder yet: finish it with --resume")
    return str(path)


def asked_config(folder: str | Path, **changes: Any) -> EmbedderConfig:
    """How an embedder was saved to be asked, else `EmbedderConfig()`, with the changes that are not None.

    Args:
        folder: as `load_embedder` takes it.

    Raises:
        ValueError: nothing there, or a changed value out of range.
    """
    saved = read_description(fetch(located(folder), SMALL_FILES))
    asked = {name: value for name, value in changes.items() if value is not None}
    return replace(saved.config if saved else EmbedderConfig(), **asked)


def load_for_training(config: EmbedderModelConfig, seed: int) -> UniversalEmbedder:
    """The base with a new adapter, the same for the same seed; in training mode.

    Raises:
        ValueError: see `load_embedder` and `UniversalEmbedder.add_adapter`.
    """
    embedder = load_embedder(
        embedder_folder(config.base), config=config.embedder, dtype=config.dtype, device=config.device
    )
    if adapter_layers(embedder.backbone):
        embedder.fold_adapter()
    if config.new_words is not None:
        add_words(embedder.backbone, read_words(Path(config.new_words)))
    embedder.add_adapter(config.adapter, torch.Generator().manual_seed(seed))
    if config.train_tower:
        embedder.train_part("tower")
    if config.train_words:
        embedder.train_part("words")
    return embedder.train()
