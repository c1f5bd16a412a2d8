"""The plan's memory against tensor bytes that a real step holds, phase by phase, within 10 %."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.planned_step import CLASSES, REWARD, random_backbone, saga_step, write_family, write_supervisor
from tests.fixtures_families import TINY
from tests.live_bytes import LiveBytes

from fieldmark.experiments.planning.geometry import Geometry, meta_backbone, read_geometry
from fieldmark.experiments.planning.memory import (
    Moment,
    cache_tokens,
    step_moments,
    tower_activations,
    trained_bytes,
    vision_tokens,
    weight_bytes,
)
from fieldmark.experiments.planning.workload import Assumptions, Workload, read_workload
from fieldmark.models.tuning import TuningConfig
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.training.config import DataConfig, LossWeights, ModelConfig, PairConfig, SagaConfig

GROUPED = {"num_attention_heads": 6, "num_key_value_heads": 2}
TUNED = {
    "lora": {"tuning": TuningConfig("lora", rank=8)},
    "last block": {"tuning": TuningConfig("last_blocks", blocks=1)},
    "recomputed": {"tower_checkpoint": True},
    "lora, recomputed": {"tuning": TuningConfig("lora", rank=8), "tower_checkpoint": True},
    "last blocks, recomputed": {"tuning": TuningConfig("last_blocks", blocks=3), "tower_checkpoint": True},
}
PHASES = {  # what the step's log calls a phase -> what the plan calls its moments
    "rollouts": ("rollouts: prompts", "rollouts: tokens", "rollouts: logits"),
    "replay": ("replay forward", "replay logits", "replay backward"),
    "tower": ("tower forward", "tower backward", "balance of both gradients", "optimiser"),
}


def small_config(**replay: Any) -> SagaConfig:
    return SagaConfig(
        data=DataConfig(image_size=96, batch_size=8, images_per_class=2),
        model=ModelConfig(embedding_size=32),
        pairs=PairConfig(pairs_per_round=4, contributing_pairs=None),
        rollouts=RolloutConfig(
            vocabulary="fieldguide",
            group_size=6,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=24,
            reward=f"{REWARD}:coin",
        ),
        replay=ReplayConfig(**{"prompts_per_chunk": 2, **replay}),
        weights=LossWeights(),
    )


def planned(config: SagaConfig, folder: Path) -> tuple[Geometry, Workload]:
    backbone = meta_backbone(str(folder))
    geometry = read_geometry(backbone)
    return geometry, read_workload(config, backbone, geometry, Assumptions(mixed=1.0, classes=CLASSES))


def step_bytes(moment: Moment) -> float:
    """Without what existed before the step."""
    return moment.total - moment.parts["weights"] - moment.parts["optimiser"]


def check_step(config: SagaConfig, folder: Path) -> None:
    geometry, workload = planned(config, folder)
    live = LiveBytes()
    session, saga = saga_step(config, folder, live.phase)
    parameters = {*session.backbone.parameters(), *session.encoder.parameters(), *session.metric_loss.parameters()}
    assert sum(p.nbytes for p in parameters) == weight_bytes(geometry, workload)
    trained = [p for group in session.optimiser.param_groups for p in group["params"]]
    for parameter in trained:  # the moments exist in every step but the first
        parameter.grad = torch.zeros_like(parameter)
    session.optimiser.step()
    session.zero_grad()
    with live:
        figures = saga.step()
    assert figures["groups"] >= workload.sampling.chunk, "no full chunk was replayed: the step tells nothing"
    assert figures["tokens"] == workload.sampling.new_tokens
    moments = {m.phase: step_bytes(m) for m in step_moments(geometry, workload)}
    for phase, names in PHASES.items():
        expected = max(moments[name] for name in names)
        assert expected == pytest.approx(live.phases[phase], rel=0.1), (phase, expected, live.phases[phase])
    assert max(moments.values()) == pytest.approx(max(live.phases.values()), rel=0.1)
    state = [v for values in session.optimiser.state.values() for v in values.values() if v.numel() > 1]
    assert sum(p.grad.nbytes for p in trained) == trained_bytes(geometry, workload)
    assert sum(v.nbytes for v in state) == pytest.approx(2 * trained_bytes(geometry, workload), rel=0.01)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ({}, {}),
        ({**GROUPED, "vocab_size": 6000}, {}),
        (GROUPED, {"ragged": True}),
        (GROUPED, {"method": "packed"}),
        (GROUPED, {"method": "packed", "checkpoint": True}),
        ({}, {"method": "unpacked"}),
        (GROUPED, {"dtype": "bfloat16"}),
        ({}, {"tuning": TuningConfig("lora", rank=8)}),
        ({}, {"tuning": TuningConfig("last_blocks", blocks=4)}),
        ({}, {"tower_checkpoint": True}),
    ],
    ids=[
        "as bundled",
        "grouped heads",
        "ragged prompts",
        "packed",
        "checkpointed",
        "unpacked",
        "bfloat16",
        "lora",
        "last blocks",
        "recomputed tower",
    ],
)
def test_step_holds_what_the_plan_says(tmp_path: Path, text: dict[str, Any], changes: dict[str, Any]) -> None:
    ragged, dtype = changes.pop("ragged", False), changes.pop("dtype", "float32")
    tower = {name: changes.pop(name) for name in ("tuning", "tower_checkpoint") if name in changes}
    config = small_config(**changes)
    config = replace(config, model=replace(config.model, dtype=dtype, **tower))
    if dtype == "bfloat16":  # emulated on many CPUs: less of everything
        config = replace(config, data=DataConfig(image_size=48, batch_size=8, images_per_class=2))
    if ragged:
        config = replace(config, rollouts=replace(config.rollouts, attributes_per_prompt=2))
    if changes.get("checkpoint"):
        config = replace(config, weights=replace(config.weights, alignment=0.0))
    check_step(config, write_supervisor(tmp_path / "model", text))


@pytest.mark.parametrize("name", list(TINY))
def test_every_family_holds_what_the_plan_says(tmp_path: Path, name: str) -> None:
    config = replace(small_config(), data=DataConfig(image_size=48, batch_size=8, images_per_class=2))
    check_step(config, write_family(tmp_path / "model", name))


@pytest.mark.parametrize("tuned", ["lora", "last blocks, recomputed"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_tuned_families_hold_what_the_plan_says(tmp_path: Path, name: str, tuned: str) -> None:
    config = replace(small_config(), data=DataConfig(image_size=96, batch_size=8, images_per_class=2))
    config = replace(config, model=replace(config.model, **TUNED[tuned]))
    check_step(config, write_family(tmp_path / "model", name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["as bundled", *TINY])
def test_the_tower_by_itself(tmp_path: Path, name: str, dtype: str) -> None:
    """So that an error here cannot hide behind another part."""
    folder = tmp_path / "model"
    folder = write_supervisor(folder, GROUPED) if name == "as bundled" else write_family(folder, name)
    config = small_config()
    config = replace(
        config,
        model=replace(config.model, dtype=dtype),
        data=DataConfig(image_size=48, batch_size=4, images_per_class=2),
    )
    check_tower(config, folder, 0.02)


def check_tower(config: SagaConfig, folder: Path, tolerance: float) -> None:
    geometry, workload = planned(config, folder)
    _, saga = saga_step(config, folder, LiveBytes().phase)
    with LiveBytes() as live:
        batch = saga.session.next_batch()
        vision = saga.session.tokens(batch.images)
    expected = tower_activations(geometry, workload) + vision_tokens(geometry, workload)
    assert expected == pytest.approx(live.live, rel=tolerance)
    del vision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tuned", list(TUNED))
@pytest.mark.parametrize("name", [name for name in TINY if name != "qwen3_vl_moe"])  # whose tower is Qwen3-VL's
def test_the_tuned_tower_of_every_family(tmp_path: Path, name: str, tuned: str, dtype: str) -> None:
    config = small_config()
    config = replace(
        config,
        model=replace(config.model, dtype=dtype, **TUNED[tuned]),
        data=DataConfig(image_size=48, batch_size=4, images_per_class=2),
    )
    check_tower(config, write_family(tmp_path / "model", name), 0.1)


def test_the_cache_has_room_for_all_tokens(tmp_path: Path) -> None:
    _, workload = planned(small_config(), write_supervisor(tmp_path / "model", GROUPED))
    assert cache_tokens(workload.sampling)[1] >= workload.sampling.prompt + 6 * 23


def test_a_wrong_plan_is_noticed(tmp_path: Path) -> None:
    """The measure itself: half the pictures hold about half as much."""
    folder = write_supervisor(tmp_path / "model")
    held = []
    for size in (4, 8):
        config = replace(small_config(), data=DataConfig(image_size=96, batch_size=size, images_per_class=2))
        session, _ = saga_step(config, folder, LiveBytes().phase)
        batch = session.next_batch()
        with LiveBytes() as live:
            vision = session.encoder.tokens(batch.images)
            held.append(live.live)
        del vision
        assert live.live < held[-1] / 10, "released tensors must not count"
    assert held[1] / held[0] == pytest.approx(2, rel=0.02)


@pytest.mark.slow
def test_two_gigabytes_of_model(tmp_path: Path) -> None:
    """A model of more than 2 GB of float32 weights, 224 px, grouped heads, vocabulary of 32,000."""
    text = {
        "hidden_size": 1280,
        "intermediate_size": 4480,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_hidden_layers": 16,
        "vocab_size": 32000,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [16, 8, 8],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 10,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
        "out_hidden_size": 1280,
        "deepstack_visual_indexes": [2, 5],
    }
    folder = write_supervisor(tmp_path / "model", text, vision)
    config = small_config(prompts_per_chunk=1)
    config = replace(
        config,
        data=DataConfig(image_size=96, batch_size=8, images_per_class=2),
        model=replace(config.model, embedding_size=1024),
    )
    geometry, workload = planned(config, folder)
    assert weight_bytes(geometry, workload) > 2e9
    check_step(config, folder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_on_a_gpu(tmp_path: Path, dtype: str) -> None:
    text = {**GROUPED, "num_hidden_layers": 8, "vocab_size": 32000}
    vision = {"depth": 12, "hidden_size": 320, "intermediate_size": 1280}
    folder = write_supervisor(tmp_path / "model", text, vision)
    config = small_config(prompts_per_chunk=2)
    config = replace(
        config,
        data=replace(config.data, batch_size=64),
        model=replace(config.model, device="cuda", dtype=dtype),
    )
    geometry, workload = planned(config, folder)
    assert not workload.cpu

    @contextmanager
    def unmeasured(name: str) -> Iterator[None]:
        yield

    before = torch.cuda.memory_allocated()
    _, saga = saga_step(config, folder, unmeasured)
    saga.step()
    torch.cuda.reset_peak_memory_stats()
    saga.step()
    peak = max(m.total for m in step_moments(geometry, workload))
    assert peak == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


@pytest.mark.parametrize("name", list(TINY))
def test_weights_are_not_needed(tmp_path: Path, name: str) -> None:
    folder = write_family(tmp_path / "model", name)
    assert not list(folder.glob("*.safetensors"))
    geometry = read_geometry(meta_backbone(str(folder)))
    real = random_backbone(folder)
    assert geometry.tower.parameters + geometry.decoder.parameters == sum(p.numel() for p in real.model.parameters())
