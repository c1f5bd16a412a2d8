"""Runs that earlier versions began: their configurations lack fields, and still mean what they meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fieldmark.training.config import EARLIER, MetricConfig, SagaConfig
from fieldmark.training.run_folder import prepare_run


def without(stored: dict[str, Any], name: str) -> None:
    *places, last = name.split(".")
    for place in places:
        stored = stored.get(place, {})
    stored.pop(last, None)


@pytest.mark.parametrize("config", [MetricConfig(), SagaConfig()], ids=["metric", "saga"])
def test_a_run_without_the_new_fields_is_resumed(tmp_path: Path, config: MetricConfig | SagaConfig) -> None:
    """The first version's names: a field that is added and not in EARLIER would stop its runs."""
    prepare_run(tmp_path, config)
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in EARLIER:
        without(stored, name)
    assert stored["model"].pop("tuning") == {}
    assert "attention" not in stored["model"] and "kind" not in stored["optimiser"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ValueError, match=r"model\.tuning\.method"):
        prepare_run(tmp_path, config, resume=True)
    assert prepare_run(tmp_path, config, resume=True, earlier=EARLIER).resumed
