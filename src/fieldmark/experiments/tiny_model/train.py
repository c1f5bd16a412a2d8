"""`make tiny-model`: two resumable stages, tower then language, and the export to the package."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldmark.experiments.tiny_model.architecture import PREPROCESSING, build_model, save_model
from fieldmark.experiments.tiny_model.fitting import fit, kept_pool, save_tensors
from fieldmark.experiments.tiny_model.language import (
    LanguageRecipe,
    draw_example,
    draw_text_example,
    language_loss,
    pool_tokens,
)
from fieldmark.experiments.tiny_model.pictures import draw_pool
from fieldmark.experiments.tiny_model.tower import DenseHeads, tower_accuracy, tower_batch, tower_loss
from fieldmark.models.backbone import Backbone
from fieldmark.policy.vocabulary import load_vocabulary

TOWER_POOL_SEED, LANGUAGE_POOL_SEED, HELD_OUT_SEED = 1, 2, 3


@dataclass(frozen=True)
class TinyModelConfig:
    """Recipe of the bundled MLLM."""

    seed: int = 0
    """Of weights, pictures and texts."""
    tower_steps: int = 700
    """Steps of stage 1."""
    tower_batch: int = 64
    """Pictures per step of stage 1."""
    tower_lr: float = 1.5e-3
    """Peak learning rate of stage 1."""
    tower_genera: int = 1000
    """Genera of 4 species with 4 pictures each in stage 1's pool."""
    tower_nuisance: float = 0.35
    """Nuisance of a picture is uniform up to this."""
    tower_habitats: float = 0.4
    """Share of the tower's pictures that stand in a habitat; the rest are plates on plain paper."""
    text_steps: int = 400
    """Steps of the language model on texts alone, before it sees pictures."""
    text_batch: int = 48
    """Texts per step."""
    language_steps: int = 1500
    """Steps of the language model with pictures."""
    language_batch: int = 24
    """Examples per step with pictures."""
    language_lr: float = 2e-3
    """Peak learning rate of the language model."""
    language_genera: int = 800
    """Genera of 4 species with 4 pictures each in stage 2's pool."""
    language_nuisance: float = 0.35
    """As tower_nuisance, for stage 2."""
    language_habitats: float = 1.0
    """As tower_habitats, for stage 2."""
    recipe: LanguageRecipe = field(default_factory=LanguageRecipe)
    """What the language model is shown."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""


def train_tiny_model(config: TinyModelConfig, run: Path, export: Path | None = None) -> dict[str, object]:
    """Train both stages in ``run`` (resuming what is there) and write the model to ``export``.

    Returns the figures of the run: accuracy per attribute on plates and in habitats, losses, seconds.
    """
    run.mkdir(parents=True, exist_ok=True)
    recorded = run / "config.json"
    resolved = json.loads(json.dumps(asdict(config)))
    if recorded.exists() and json.loads(recorded.read_text()) != resolved:
        raise ValueError(f"{run} holds a run of another recipe: choose another folder or delete it")
    recorded.write_text(json.dumps(resolved, indent=1))
    backbone = build_model(config.seed)
    figures: dict[str, object] = {}

    heads = nn.ModuleList(
        DenseHeads(backbone.hidden_size)
        for _ in range(1 + len(backbone.model.config.vision_config.deepstack_visual_indexes))
    )
    _train_tower(config, backbone, heads, run)
    patch = PREPROCESSING.patch_size * PREPROCESSING.merge_size
    for name, habitats in (("plates", 0.0), ("habitats", 1.0)):
        pool = draw_pool(16, 4, 8, config.language_nuisance, habitats, HELD_OUT_SEED)
        figures[f"tower_accuracy_{name}"] = tower_accuracy(backbone, heads, pool, patch)

    figures["language_loss"] = _train_language(config, backbone, run)
    (run / "figures.json").write_text(json.dumps(figures, indent=1))
    if export is not None:
        save_model(backbone, export, half=True)
    return figures


def _train_tower(config: TinyModelConfig, backbone: Backbone, heads: nn.ModuleList, run: Path) -> None:
    done = run / "tower.safetensors"
    tower = backbone.tower.model
    if done.exists():
        weights = load_file(done)
        tower.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("tower.")})
        heads.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("heads.")})
        return
    pool = kept_pool(
        run / "tower_pool.npz",
        config.tower_genera,
        config.tower_nuisance,
        config.tower_habitats,
        TOWER_POOL_SEED + 10 * config.seed,
    )
    patch = PREPROCESSING.patch_size * PREPROCESSING.merge_size
    generator = torch.Generator().manual_seed(config.seed)

    def loss(step: int) -> Tensor:
        indices = np.random.default_rng([config.seed, 11, step]).choice(
            len(pool.images), config.tower_batch, replace=False
        )
        return tower_loss(backbone, heads, tower_batch(pool, indices, patch, generator))

    modules = {"tower": tower, "heads": heads}
    fit(run / "tower", modules, config.tower_steps, config.tower_lr, loss, generator, config.checkpoint_every)
    tensors = {f"tower.{k}": v for k, v in tower.state_dict().items()} | {
        f"heads.{k}": v for k, v in heads.state_dict().items()
    }
    save_tensors(tensors, done)


def _train_language(config: TinyModelConfig, backbone: Backbone, run: Path) -> float:
    done = run / "language.safetensors"
    language = backbone.model.model.language_model
    if done.exists():
        language.load_state_dict(load_file(done))
        return _last_loss(run / "language" / "log.jsonl")
    pool = kept_pool(
        run / "language_pool.npz",
        config.language_genera,
        config.language_nuisance,
        config.language_habitats,
        LANGUAGE_POOL_SEED + 10 * config.seed,
    )
    tokens = pool_tokens(backbone, pool.images)
    vocabulary = load_vocabulary("fieldguide")
    backbone.model.requires_grad_(False)
    language.requires_grad_(True)
    generator = torch.Generator().manual_seed(config.seed)

    def text_loss(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 13, step])
        examples = [draw_text_example(vocabulary, backbone.tokenizer, rng) for _ in range(config.text_batch)]
        return language_loss(backbone, tokens, examples)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 12, step])
        examples = [
            draw_example(pool, config.recipe, vocabulary, backbone.tokenizer, rng) for _ in range(config.language_batch)
        ]
        return language_loss(backbone, tokens, examples)

    texts = run / "texts.safetensors"
    if not texts.exists():
        fit(
            run / "texts",
            {"language": language},
            config.text_steps,
            config.language_lr,
            text_loss,
            generator,
            config.checkpoint_every,
        )
        save_tensors(dict(language.state_dict()), texts)
    language.load_state_dict(load_file(texts))
    fit(
        run / "language",
        {"language": language},
        config.language_steps,
        config.language_lr,
        loss,
        generator,
        config.checkpoint_every,
    )
    backbone.model.requires_grad_(True)
    save_tensors(dict(language.state_dict()), done)
    return _last_loss(run / "language" / "log.jsonl")


def _last_loss(log: Path) -> float:
    losses = [json.loads(line)["loss"] for line in log.read_text().splitlines()[-50:]]
    return float(np.mean(losses))
