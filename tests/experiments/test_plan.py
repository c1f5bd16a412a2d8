"""The plan as a whole: what fits, what to change, what is refused; and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.experiments.planned_step import write_supervisor
from tests.experiments.test_plan_memory import GROUPED, small_config

from fieldmark.cli import main
from fieldmark.experiments.planning.plan import GIB, GPUS, Machine, make_plan, peak_bytes
from fieldmark.experiments.planning.workload import Assumptions
from fieldmark.models.tuning import TuningConfig
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.training.config import MetricConfig, ModelConfig, PairConfig, SagaConfig


@pytest.fixture
def config(tmp_path: Path) -> SagaConfig:
    config = small_config()
    folder = write_supervisor(tmp_path / "model", GROUPED)
    return replace(
        config,
        model=replace(config.model, supervisor=str(folder)),
        rollouts=RolloutConfig(vocabulary="fieldguide", max_new_tokens=256),
    )


def machine(gib: float) -> Machine:
    return Machine("small", gpu_memory=gib, gpu_tflops=1.0, usable=1.0)


def test_largest_batch_is_the_largest(config: SagaConfig) -> None:
    plan = make_plan(config, machine(1.0))
    assert plan.fits and not plan.changes
    largest, workload = plan.largest_batch, plan.workload
    assert largest % workload.images_per_class == 0
    assert peak_bytes(plan.geometry, replace(workload, batch=largest)) <= plan.limit
    assert peak_bytes(plan.geometry, replace(workload, batch=largest + workload.images_per_class)) > plan.limit


def test_what_to_change_leads_to_a_fit(config: SagaConfig) -> None:
    need = make_plan(config, machine(100.0)).peak.total / GIB
    plan = make_plan(config, machine(need * 0.6))
    assert not plan.fits
    assert plan.changes[0].what == "model.dtype: bfloat16"
    assert plan.changes[-1].peak <= need * 0.6
    changed = replace(config, model=replace(config.model, dtype="bfloat16"))
    assert make_plan(changed, machine(100.0)).peak.total / GIB == pytest.approx(plan.changes[0].peak)
    assert "does not fit" in plan.as_text() and "model.dtype: bfloat16" in plan.as_text()


def test_hopeless_is_said(config: SagaConfig) -> None:
    plan = make_plan(config, machine(0.01))
    assert plan.largest_batch == 0
    assert "more memory" in plan.changes[-1].what


def test_rounds_follow_the_share_of_mixed_pairs(config: SagaConfig) -> None:
    config = replace(config, pairs=PairConfig(pairs_per_round=4, contributing_pairs=8, max_rounds=8))
    few, many = (make_plan(config, machine(9.0), Assumptions(mixed=share)) for share in (1.0, 0.25))
    assert few.workload.sampling is not None and many.workload.sampling is not None
    assert (few.workload.sampling.rounds, many.workload.sampling.rounds) == (2, 8)
    assert many.peak.total > few.peak.total
    assert "all 8 micro-batches" in few.as_text()


def test_time_is_arithmetic_or_reading(config: SagaConfig) -> None:
    slow_memory = make_plan(config, replace(machine(9.0), gpu_bandwidth=0.001))
    plain = make_plan(config, machine(9.0))
    tokens = {p.name: p for p in plain.phases}["rollouts: tokens"]
    assert plain.seconds(tokens) == tokens.flops / 0.4e12
    assert slow_memory.seconds(tokens) == tokens.traffic / 0.4e9 > plain.seconds(tokens)


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ({"tuning": TuningConfig("lora")}, "adamw", []),
        ({"tuning": TuningConfig("lora", dropout=0.1)}, "adamw", ["dropout"]),
        ({"tower_precision": "bfloat16_autocast"}, "adamw_8bit", ["autocast", "8-bit"]),
        ({"tuning": TuningConfig("last_blocks", dropout=0.1), "tower_checkpoint": True}, "adamw", []),
    ],
)
def test_what_is_not_held_to_a_measurement_is_said(config: SagaConfig, model: dict, kind: str, said: list[str]) -> None:
    optimiser = replace(config.optimiser, kind=kind)
    plan = make_plan(replace(config, model=replace(config.model, **model), optimiser=optimiser), Machine())
    reservations = plan.as_json()["reservations"]
    assert len(reservations) == len(said)
    for word, reservation in zip(said, reservations, strict=True):
        assert word in reservation and reservation in plan.as_text()


def test_metric_needs_no_rollouts(config: SagaConfig) -> None:
    plan = make_plan(MetricConfig(model=config.model, data=config.data), machine(9.0))
    assert plan.workload.sampling is None
    assert [p.name for p in plan.phases] == ["tower forward", "metric loss", "tower backward", "optimiser"]
    assert "KV cache" not in plan.as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ModelConfig(supervisor="nowhere")}, "no model at nowhere"),
        ({"model": ModelConfig(supervisor="tests")}, "a checkpoint's folder"),
        ({"model": ModelConfig(attention="eager")}, "fused attention"),
        ({"rollouts": RolloutConfig(vocabulary="fieldguide", max_new_tokens=5000)}, "context of 2048"),
        ({"rollouts": RolloutConfig(vocabulary="nowhere")}, "no vocabulary"),
    ],
)
def test_bad_recipes(config: SagaConfig, change: dict, message: str) -> None:
    if "model" not in change:
        change = {**change, "model": config.model}
    with pytest.raises(ValueError, match=message):
        make_plan(replace(config, **change), machine(9.0))


def test_picture_size_and_architecture(config: SagaConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 12"):
        make_plan(replace(config, data=replace(config.data, image_size=100)), machine(9.0))
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "architectures": ["X"]}))
    with pytest.raises(ValueError, match="qwen3_vl"):
        make_plan(replace(config, model=replace(config.model, supervisor=str(folder))), machine(9.0))


def test_machines() -> None:
    assert Machine("H200").resolve() == GPUS["h200"]
    assert Machine("h200", gpu_memory=10).resolve().memory == 10
    for bad, message in (
        (lambda: Machine("mine").resolve(), "gpu_tflops"),
        (lambda: Machine("h200", usable=0), "usable"),
        (lambda: Machine("h200", gpu_memory=-1), "gpu_memory"),
        (lambda: Assumptions(mixed=2), "mixed"),
        (lambda: Assumptions(classes=1), "classes"),
    ):
        with pytest.raises(ValueError, match=message):
            bad()


def test_command(config: SagaConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "saga.yaml"
    recipe.write_text(
        f"model: {{supervisor: {config.model.supervisor}}}\ndata: {{image_size: 96}}\n"
        "rollouts: {vocabulary: fieldguide, max_new_tokens: 64}\n"
    )
    out = tmp_path / "plan.json"
    words = ["plan", str(recipe), "--gpu", "rtx4090", "--set", "data.batch_size=16", "--json", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "micro-batch: 16 pictures" in printed and "fits" in printed and "0.4 of peak" in printed
    figures = json.loads(out.read_text())
    assert figures["fits"] and figures["gpu"]["name"] == "rtx4090"
    assert sum(figures["memory"][0][part] for part in ("weights", "optimiser")) < figures["peak_bytes"]
    assert main(["plan", str(recipe), "--gpu", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--set", "data.bath_size=16"]) == 2
    assert "batch_size" in capsys.readouterr().err
