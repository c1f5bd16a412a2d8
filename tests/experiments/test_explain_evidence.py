"""The figure on look-alikes: its pairs are what they claim to be, and an encoder that is told finds the marks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.world import (
    FieldguideConfig,
    plan_sightings,
    read_world,
    world_species,
    write_fieldguide,
)
from fieldmark.experiments import explain_evidence as module
from fieldmark.experiments.explain_evidence import (
    ExplainEvidenceConfig,
    evidence_json,
    evidence_text,
    run_explain_evidence,
)
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder

CONFIG = FieldguideConfig(species=12, per=2, siblings=3, nuisance=0.2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fieldguide(CONFIG, tmp_path_factory.mktemp("explain") / "world", workers=1)


def test_settings_are_read_back(world: Path, tmp_path: Path) -> None:
    assert read_world(world) == CONFIG
    with pytest.raises(ValueError, match="no Fieldguide collection"):
        read_world(tmp_path)
    (tmp_path / "fieldguide.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match="another version"):
        read_world(tmp_path)


def test_found_pictures_are_those_on_disk_and_altered_ones_differ_on_the_mark_alone(world: Path) -> None:
    pairs = module._draw_pairs(CONFIG, 2, np.random.default_rng(0))
    on_disk = {np.asarray(Image.open(world / one.id).convert("RGB")).tobytes() for one in plan_sightings(CONFIG)}
    species = [one for one in world_species(CONFIG) if one.evaluation]
    siblings = [(a, b) for i, a in enumerate(species) for b in species[i + 1 :] if a.genus == b.genus]
    assert len(pairs["found"]) == len(pairs["altered"]) == 2 * len(siblings) == 12
    for k, (found, altered) in enumerate(zip(pairs["found"], pairs["altered"], strict=True)):
        first, second = siblings[k // 2]
        marks = {name for name in first.marks if first.marks[name] != second.marks[name]}
        assert found.differing == altered.differing == {PART_OF_ATTRIBUTE[name] for name in marks}
        assert found.a.image.tobytes() in on_disk and found.b.image.tobytes() in on_disk
        assert altered.a is found.a
        changed = (altered.a.image.astype(int) - altered.b.image).__abs__().sum(-1) > 0
        parts = [PARTS.index(part) for part in altered.differing]
        allowed = np.isin(altered.a.mask, parts) | np.isin(altered.b.mask, parts)
        around = np.stack([np.roll(allowed, (dy, dx), (0, 1)) for dy in range(-4, 5) for dx in range(-4, 5)]).any(0)
        assert changed.any() or not allowed.any()
        assert not (changed & ~around).any(), "blur and outlines reach a few pixels, nothing else may change"


def test_an_encoder_that_reads_pixels_points_at_what_was_altered(world: Path, tmp_path: Path) -> None:
    """The bundled tower, untrained: on altered pictures it must do far better than a patch drawn by lot."""
    backbone = load_backbone(bundled_path())
    for name, kind in (("plain", "mean"), ("attended", "attention")):
        pooler = build_pooler(kind, backbone.hidden_size, None, torch.Generator().manual_seed(0))
        RetrievalEncoder(backbone.tower, pooler, 96).save_pretrained(tmp_path / name / "encoder")
        (tmp_path / name / "config.yaml").write_text(f"data:\n  path: {world}\n")
    runs = (str(tmp_path / "plain"), str(tmp_path / "attended"))
    found = run_explain_evidence(ExplainEvidenceConfig(runs=runs, pairs_per_siblings=1))
    assert [(one.method, one.condition) for one in found] == [
        (m, c) for m in ("plain", "attended") for c in ("found", "altered")
    ]
    plain = found[1]
    assert plain.pairs == 6 and plain.differing.maps <= 12 and plain.cosine > found[0].cosine
    assert plain.differing.lift > 2 and plain.differing.lift > plain.shared.lift
    assert plain.differing.area < plain.differing.share <= plain.differing.best
    assert plain.attention is None and found[3].attention is not None
    text = evidence_text(found)
    assert "| plain | 1 |" in text and "± " not in text and "6 pairs per run" in text
    again = [*found, *found]
    assert "± 0.0" in evidence_text(again) and evidence_json(found)[1]["differing"]["lift"] == plain.differing.lift


def test_wrong_input_is_told(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no runs given"):
        run_explain_evidence(ExplainEvidenceConfig())
    with pytest.raises(ValueError, match="pairs_per_siblings must be at least 1"):
        ExplainEvidenceConfig(pairs_per_siblings=0)
    with pytest.raises(ValueError, match="neither a run's folder"):
        run_explain_evidence(ExplainEvidenceConfig(runs=(str(tmp_path),)))
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").touch()
    (tmp_path / "config.yaml").write_text("data:\n  path: nowhere/at/all\n")
    with pytest.raises(ValueError, match="set --world"):
        run_explain_evidence(ExplainEvidenceConfig(runs=(str(tmp_path),)))
    with pytest.raises(ValueError, match="no look-alike siblings"):
        module._draw_pairs(FieldguideConfig(species=4, per=1, siblings=1), 1, np.random.default_rng(0))
