"""A packed miniature of an official archive through training and evaluation: the protocol's halves, and the record."""

import json
from pathlib import Path

import pytest
from tests import fixtures_benchmarks as mini
from tests.fixtures_models import save_tiny

from fieldmark.experiments.evaluate import EvaluationConfig, evaluate_saved
from fieldmark.training.config import DataConfig, MetricConfig, ModelConfig, ScheduleConfig
from fieldmark.training.metric import train_metric


def test_train_and_evaluate_on_an_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = tuple(f"{i:03d}.Bird_{i}" for i in range(1, 13))
    archive = mini.pack(tmp_path / "d/CUB_200_2011.tgz", mini.write_cub(tmp_path, classes=classes))
    config = MetricConfig(
        run=str(tmp_path / "run"),
        data=DataConfig(
            path=str(archive), image_size=16, batch_size=4, images_per_class=2, workers=0, validation_fraction=0.34
        ),
        model=ModelConfig(supervisor=str(save_tiny(tmp_path / "supervisor")), embedding_size=8),
        schedule=ScheduleConfig(steps=1, validate_every=1),
    )
    results = train_metric(config)
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert record["data"] == results["data"]
    assert record["data"]["benchmark"] == "CUB-200-2011"
    assert record["data"]["classes"] == {"train": 4, "validation": 2, "test": 6}
    assert record["data"]["differs_from_published"][0] == "training classes: 6 instead of 100 (-94)"
    assert "2 validation classes, taken from the training classes" in record["selection"]
    assert "the test classes were read once, at the end" in record["selection"]
    assert "is not the complete CUB-200-2011: training classes: 6" in capsys.readouterr().out

    again = evaluate_saved(EvaluationConfig(encoder=str(tmp_path / "run"), workers=0))
    assert again.num_classes == 6 and again.result.as_json()["recall_at_1"] == record["test"]["recall_at_1"]
