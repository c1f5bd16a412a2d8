"""A tiny world, encoders with random weights, made-up logs and completions."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures_models import tiny_backbone

from fieldmark.data.collection import FileSource, LabelledImages, load_collection
from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
from fieldmark.data.splits import split_classes
from fieldmark.models.pooler import PoolerKind, build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.models.sampling import Completion

EVIL = "<script>alert(\"x\")</script> & 'Co'"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Test half of a Fieldguide world: 4 species with 4 pictures each."""
    folder = tmp_path_factory.mktemp("report") / "world"
    write_fieldguide(FieldguideConfig(species=8, per=4, siblings=2, size=48), folder, workers=1)
    return split_classes(load_collection(folder)).test


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Three classes of random pictures without masks; one class has a dangerous name."""
    folder = tmp_path_factory.mktemp("plain")
    random = np.random.default_rng(0)
    sources, ids = [], []
    for i in range(9):
        path = folder / f"{i}.png"
        Image.fromarray(random.integers(0, 255, (24, 20, 3), np.uint8)).save(path)
        sources.append(FileSource(path))
        ids.append(path.name)
    return LabelledImages(tuple(sources), tuple(ids), np.arange(9) // 3, (EVIL, "b_long.name", "c"), folder)


def make_encoder(kind: PoolerKind = "attention", seed: int = 0, sharp: float = 60.0) -> RetrievalEncoder:
    backbone = tiny_backbone(seed)
    pooler = build_pooler(kind, backbone.hidden_size, 8, torch.Generator().manual_seed(seed))
    if kind == "attention":
        with torch.no_grad():
            pooler.query.mul_(sharp)
    return RetrievalEncoder(backbone.tower, pooler, 32)


def write_log(path: Path, steps: int = 20, **figures: float) -> Path:
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "kind": "train", "loss": 2 / step} | {k: v * step for k, v in figures.items()}
        lines.append(json.dumps(line | ({"val_recall_at_1": 0.02 * step} if step % 5 == 0 else {})))
    path.write_text("\n".join(lines) + "\n")
    return path


def completions(tokenizer: object, texts: Sequence[str]) -> list[Completion]:
    """Completions that say these texts."""
    made = []
    for text in texts:
        ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[operator]
        nothing = torch.zeros(len(ids))
        made.append(Completion(ids, nothing, nothing, torch.zeros(len(ids), 0), "stop"))
    return made
