"""The plan's arithmetic against `torch.utils.flop_counter`, phase by phase, within 10 %."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.planned_step import CLASSES, random_backbone, write_supervisor
from tests.experiments.test_plan_memory import GROUPED, small_config
from tests.fixtures_models import pictures
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fieldmark.experiments.planning import flops
from fieldmark.experiments.planning.geometry import read_geometry
from fieldmark.experiments.planning.workload import Assumptions, read_workload
from fieldmark.losses.registry import MetricLossConfig, build_metric_loss
from fieldmark.models.sampling import sample
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.rollouts import build_prompt
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.training.session import build_encoder


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of `work`. The counter knows no fused attention on CPU, so that runs as plain products here."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


class Case:
    def __init__(self, folder: Path, text: dict[str, Any], **replaying: Any) -> None:
        config = small_config(**replaying)
        self.config = replace(
            config,
            data=replace(config.data, image_size=48),
            rollouts=replace(config.rollouts, max_new_tokens=20),
            pairs=replace(config.pairs, pairs_per_round=2),
        )
        self.backbone = random_backbone(write_supervisor(folder, text))
        self.geometry = read_geometry(self.backbone)
        self.workload = read_workload(
            self.config, self.backbone, self.geometry, Assumptions(mixed=1.0, classes=CLASSES)
        )
        self.sampling = self.workload.sampling
        assert self.sampling is not None
        self.images = pictures(self.workload.batch, 48)
        prompt = build_prompt(load_vocabulary("fieldguide"))
        self.prompt = self.backbone.chat_prompt(prompt.text, 2)
        self.pairs = [(i, i + 1) for i in range(self.sampling.pairs)]

    def vision(self) -> Any:
        return self.backbone.vision(self.backbone.pixels(self.images))


@pytest.fixture(params=[{}, {**GROUPED, "vocab_size": 3000}], ids=["as bundled", "grouped heads"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(tmp_path / "model", request.param)


def test_tower(case: Case) -> None:
    forward, vision = counted(case.vision)
    outputs = (vision.merged, *vision.deepstack)
    backward, _ = counted(lambda: torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs]))
    assert flops.tower_forward(case.geometry, case.workload) == pytest.approx(forward, rel=0.1)
    assert flops.tower_backward(case.geometry, case.workload) == pytest.approx(backward, rel=0.1)


def test_rollouts(case: Case) -> None:
    vision = case.vision().detach()

    def draw(tokens: int) -> None:
        sample(
            case.backbone,
            vision,
            [case.prompt] * len(case.pairs),
            case.pairs,
            num_samples=case.sampling.group_size,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=tokens,
            generator=torch.Generator().manual_seed(0),
            stop_ids=(),
        )

    one, _ = counted(lambda: draw(1))
    whole, _ = counted(lambda: draw(case.sampling.new_tokens))
    prompts = flops.prefill(case.geometry, case.sampling, case.sampling.pairs)
    first = flops.decoding(case.geometry, replace(case.sampling, mean_tokens=1))
    assert prompts + first == pytest.approx(one, rel=0.1)
    assert flops.decoding(case.geometry, case.sampling) - first == pytest.approx(whole - one, rel=0.1)


@pytest.mark.parametrize("method", ["prefix", "packed", "unpacked", "checkpointed"])
@pytest.mark.parametrize("text", [{}, {**GROUPED, "vocab_size": 3000}], ids=["as bundled", "grouped heads"])
def test_replay(tmp_path: Path, text: dict[str, Any], method: str) -> None:
    checkpoint = method == "checkpointed"
    case = Case(tmp_path / "model", text, method="packed" if checkpoint else method)
    s = replace(case.sampling, checkpoint=checkpoint, tap=not checkpoint)
    ids = torch.arange(s.new_tokens) % 200
    tasks = [ReplayGroup(case.prompt, pair, (ids,) * s.group_size) for pair in case.pairs]
    leaves = case.vision().as_leaves()
    chunks = replay(
        case.backbone,
        leaves,
        tasks,
        method=s.method,
        prompts_per_chunk=len(tasks),
        attention_layer=3 if s.tap else None,
        checkpoint=checkpoint,
    )
    forward, chunk = counted(lambda: next(chunks))
    backward, _ = counted(lambda: torch.cat([row for rows in chunk.logprobs for row in rows]).sum().backward())
    assert len(chunk.groups) == s.groups
    assert flops.replay_forward(case.geometry, s) == pytest.approx(forward, rel=0.1)
    assert flops.replay_backward(case.geometry, s) == pytest.approx(backward, rel=0.1)


@pytest.mark.parametrize("pooler", ["attention", "mean"])
def test_metric(tmp_path: Path, pooler: str) -> None:
    case = Case(tmp_path / "model", {})
    config = replace(
        case.config,
        model=replace(case.config.model, pooler=pooler, embedding_size=64),
        metric=MetricLossConfig(options={"proxies_per_class": 3}),
        weights=replace(case.config.weights, policy=0.0, alignment=0.0),
    )
    assumed = Assumptions(classes=40)
    workload = read_workload(config, case.backbone, case.geometry, assumed)
    assert workload.sampling is None
    encoder = build_encoder(case.backbone, config.model, 48, 0)
    loss = build_metric_loss(config.metric, 40, 64, generator=torch.Generator().manual_seed(0))
    leaves = case.vision().as_leaves()
    labels = torch.arange(len(case.images)) % 40
    found, _ = counted(lambda: loss(encoder.pool(leaves).embedding, labels).backward())
    assert flops.metric(case.geometry, workload) == pytest.approx(found, rel=0.1)


def test_traffic_counts_every_weight_once_a_token(case: Case) -> None:
    s = replace(case.sampling, pairs=1, group_size=2, mean_tokens=2.0)
    d = case.geometry.decoder
    weights = 4 * (d.layers * d.layer_weights + d.width * d.vocabulary)
    keys = s.prompt + 2
    assert flops.decoding_traffic(case.geometry, case.workload, s) >= weights + 8 * keys * d.key_heads * d.head_dim
