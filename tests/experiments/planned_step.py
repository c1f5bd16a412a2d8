"""One real step of SAGA on a random supervisor of any geometry, and what it holds: for the tests of the plan."""

import json
import shutil
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.fixtures_families import TINY
from tests.fixtures_models import pictures
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from fieldmark.data.loader import Batch
from fieldmark.losses.registry import build_metric_loss
from fieldmark.models.backbone import Backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.families import family_of
from fieldmark.models.precision import DTYPES
from fieldmark.models.tower import load_preprocessing
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.training.config import SagaConfig
from fieldmark.training.loop import Progress
from fieldmark.training.optimiser import build_optimiser
from fieldmark.training.saga import Saga
from fieldmark.training.session import build_encoder, prepare_tower, tower_tokens

CLASSES = 4
REWARD = "tests_coin_reward"


def coin(text: str) -> float:
    """Random models have no verdict; this reward differs within every group."""
    return float(sum(map(ord, text)) % 2)


sys.modules[REWARD] = types.ModuleType(REWARD)
sys.modules[REWARD].coin = coin  # type: ignore[attr-defined]


def write_family(folder: Path, name: str, **text: Any) -> Path:
    """A supervisor of one of `TINY`'s families, without weights: the published layout at sizes whose figures are not
    all odds and ends, with the bundled model's tokenizer."""
    write_supervisor(folder)
    ids = json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = TINY[name]
    names = {one: "<|image_pad|>" if one == "<IMG_CONTEXT>" else one for one in row.special_tokens}
    config = row.config(
        {one: tokenizer.convert_tokens_to_ids(known) for one, known in names.items()}, ids["text_config"]["vocab_size"]
    )
    language = config.get("text_config", config)
    language |= {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "max_position_embeddings": 2048}
    language |= text
    config["vision_config"] |= {"hidden_size": 96, "intermediate_size": 200, "num_heads": 4, "depth": 4}
    if language.get("rope_scaling"):
        language["rope_scaling"] |= {"mrope_section": [4, 2, 2]}
    for key, value in {"out_hidden_size": 96, "moe_intermediate_size": 40}.items():
        for part in (language, config["vision_config"]):
            if key in part:
                part[key] = value
    if name == "qwen2_vl":  # what others call hidden_size and intermediate_size
        config["vision_config"] |= {"embed_dim": 64}
    if name == "internvl":
        config["vision_config"] |= {"num_attention_heads": 4, "num_hidden_layers": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(row.processor))
    return folder


def write_supervisor(folder: Path, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None) -> Path:
    """The bundled model's folder with another geometry, and without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(bundled_path())
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and path.name != "config.json":
            shutil.copy(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= text or {}
    config["vision_config"] |= vision or {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_backbone(folder: Path, dtype: str = "float32", device: str = "cpu") -> Backbone:
    """The folder's model with random weights, language model frozen; its answers run to their full length."""
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).to(device, DTYPES[dtype])
    model.generation_config.eos_token_id = []
    preprocessing = load_preprocessing(folder, family_of(config.model_type, str(folder)).tower_config(config))
    backbone = Backbone(model, AutoTokenizer.from_pretrained(folder), preprocessing).eval()
    backbone.freeze_language()
    return backbone


@dataclass
class _Log:
    phase: Callable[[str], AbstractContextManager[None]]


class StepSession:
    """What `Saga` asks of a session, without files."""

    def __init__(self, config: SagaConfig, folder: Path, phase: Callable[[str], AbstractContextManager[None]]) -> None:
        self.config, self.log, self.progress = config, _Log(phase), Progress()
        device = config.model.device
        self.backbone = random_backbone(folder, config.model.dtype, device)
        prepare_tower(self.backbone, config.model, 0)
        self.encoder = build_encoder(self.backbone, config.model, config.data.image_size, 0)
        self.metric_loss = build_metric_loss(
            config.metric, CLASSES, self.encoder.embedding_size, generator=torch.Generator().manual_seed(0)
        ).to(device)
        self.optimiser, _ = build_optimiser(
            config.optimiser,
            self.encoder.tower.parameters(),
            self.encoder.pooler.parameters(),
            self.metric_loss.parameters(),
            10,
        )
        self.generator = torch.Generator().manual_seed(0)
        self.verdicts = None

    def next_batch(self) -> Batch:
        d = self.config.data
        labels = torch.arange(d.batch_size) % CLASSES
        images = pictures(d.batch_size, d.image_size)
        device = self.config.model.device
        return Batch(images.to(device), labels.to(device), torch.arange(d.batch_size))

    trains_tower = True

    def tokens(self, images: torch.Tensor) -> VisionTokens:
        return tower_tokens(self.encoder, images, self.config.model, 0)

    def zero_grad(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def update(self, losses: dict[str, float]) -> dict[str, float]:
        with self.log.phase("optimiser"):
            self.optimiser.step()
        return {}


def saga_step(
    config: SagaConfig, folder: Path, phase: Callable[[str], AbstractContextManager[None]]
) -> tuple[StepSession, Saga]:
    """A `Saga` ready for its first `step`."""
    session = StepSession(config, folder, phase)
    return session, Saga(session, config)  # type: ignore[arg-type]
