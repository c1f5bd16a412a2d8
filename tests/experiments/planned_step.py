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
from tests.fixtures_models import pictures
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from fieldmark.data.loader import Batch
from fieldmark.losses.registry import build_metric_loss
from fieldmark.models.backbone import Backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.precision import DTYPES
from fieldmark.models.vision_tokens import Preprocessing
from fieldmark.training.config import SagaConfig
from fieldmark.training.loop import Progress
from fieldmark.training.optimiser import build_optimiser
from fieldmark.training.saga import Saga
from fieldmark.training.session import build_encoder

CLASSES = 4
REWARD = "tests_coin_reward"


def coin(text: str) -> float:
    """Random models have no verdict; this reward differs within every group."""
    return float(sum(map(ord, text)) % 2)


sys.modules[REWARD] = types.ModuleType(REWARD)
sys.modules[REWARD].coin = coin  # type: ignore[attr-defined]


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
        model = AutoModelForImageTextToText.from_config(config).to(device=device, dtype=DTYPES[dtype])
    model.generation_config.eos_token_id = []
    preprocessing = Preprocessing.from_file(folder / "preprocessor_config.json")
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
