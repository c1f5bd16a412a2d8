"""Runs and their names; processes that do them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.run_names import embedder_fingerprint, placed, run_name
from fieldmark.experiments.runs import Run, execute
from fieldmark.training.config import DataConfig, MetricConfig, ModelConfig, SagaConfig
from fieldmark.training.run_folder import to_plain


def run_of(training: str = "saga", **changes) -> Run:
    return Run(
        training, SagaConfig(run="r", data=DataConfig(path="w"), model=ModelConfig(supervisor="bundled"), **changes)
    )


def test_fields_at_their_defaults_are_no_part_of_the_name(monkeypatch) -> None:
    name = run_name(run_of())
    before = to_plain

    def newer(value):
        """What a later version with one more field would store, at its default."""
        plain = before(value)
        return {**plain, "data": {**plain["data"], "added_later": 3}} if isinstance(value, SagaConfig) else plain

    monkeypatch.setattr("fieldmark.experiments.run_names.to_plain", newer)
    assert run_name(run_of()) == name
    assert run_name(run_of(alignment_layer=2)) != name


def test_the_world_belongs_to_the_name_and_its_seed_does_not() -> None:
    world = FieldguideConfig(habitat=0.8, seed=1)
    names = [run_name(run_of(), w) for w in (world, replace(world, seed=2), replace(world, habitat=0.0), None)]
    assert names[0] == names[1] and len(set(names)) == 3


def test_what_a_metric_run_ignores_is_no_part_of_its_name() -> None:
    one, other = run_of("metric"), run_of("metric", alignment_layer=2)
    assert run_name(one) == run_name(other) != run_name(run_of("saga"))


def test_a_finished_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = placed(run_of("metric"), tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text('{"test": 1}')
    stored = to_plain(run.resolved)
    assert isinstance(run.resolved, MetricConfig)
    del stored["metric"]["proxy_lr_factor"]  # made before this field was added
    stored["data"] |= {"workers": 7, "path": "elsewhere"}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(stored))
    assert execute(run) == {"test": 1}
    stored["data"]["batch_size"] = 12
    (run.folder / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ValueError, match=r"another data\.batch_size: delete it"):
        execute(run)


@pytest.mark.fault
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from pathlib import Path\n"
        "from tests.experiments.test_runs import say_and_sleep\n"
        "from fieldmark.experiments.runs import in_processes\n"
        "if __name__ == '__main__':\n"
        f"    list(in_processes([Path({str(tmp_path / 'pid')!r})], say_and_sleep, 1))\n"
    )
    paths = os.pathsep.join(["src", "."])
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py"], env={**os.environ, "PYTHONPATH": paths})
    try:
        until(lambda: (tmp_path / "pid").exists(), 60)
        worker = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{worker}").exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until(lambda: not Path(f"/proc/{worker}").exists(), 10)
    finally:
        parent.kill()


def say_and_sleep(path: Path) -> None:
    """What the worker of the test above does."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(str(os.getpid()))
    temporary.rename(path)
    time.sleep(600)


def until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_names_of_finished_runs_stay():
    """Renamed runs would be repeated: what earlier versions called these is what they are called."""
    world = FieldguideConfig(species=160, per=24, nuisance=0.35, habitat=0.8, seed=101, train_share=60 / 160)
    config = SagaConfig(
        run="x",
        seed=3,
        data=DataConfig(path="w", batch_size=48),
        model=ModelConfig(supervisor="someone/model", pooler="mean", embedding_size=None),
        weights=replace(SagaConfig().weights, alignment=0.5),
    )
    names = {training: run_name(Run(training, config), world) for training in ("saga", "metric", "untrained")}
    assert names == {
        "saga": "saga-a22a9a991d",
        "metric": "metric-d19576e02f",
        "untrained": "untrained-ec8689c797",
    }


def test_embedders_are_told_apart_by_their_files_and_not_by_their_place(tmp_path):
    def saved(name, alpha=4, base="here", weights=b"1"):
        folder = tmp_path / name / "encoder"
        (folder / "folded-0").mkdir(parents=True)
        (folder / "embedder.json").write_text(json.dumps({"base": base, "base_checksum": "x"}))
        settings = {"lora_alpha": alpha, "base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "folded-0" / "adapter_model.safetensors").write_bytes(weights)
        return str(tmp_path / name)

    one = embedder_fingerprint(saved("one"))
    assert one == embedder_fingerprint(saved("two", base="there")) == embedder_fingerprint(f"{tmp_path}/one/encoder")
    assert one != embedder_fingerprint(saved("three", alpha=8))
    assert one != embedder_fingerprint(saved("four", weights=b"2"))
    assert embedder_fingerprint("someone/embedder") == "someone/embedder"
