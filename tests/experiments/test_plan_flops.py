"""The plan's arithmetic against `torch.utils.flop_counter`, phase by phase, within 10 %."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.planned_step import CLASSES, random_backbone, write_family, write_supervisor
from tests.experiments.test_plan_memory import GROUPED, small_config
from tests.fixtures_families import TINY
from tests.fixtures_models import pictures
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fieldmark.experiments.planning import flops
from fieldmark.experiments.planning.geometry import read_geometry
from fieldmark.experiments.planning.workload import Assumptions, read_workload
from fieldmark.losses.registry import MetricLossConfig, build_metric_loss
from fieldmark.models.sampling import sample
from fieldmark.models.tuning import TuningConfig
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.rollouts import build_prompt
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.training.config import LossWeights
from fieldmark.training.session import build_encoder, prepare_tower


def counted(work: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of `work`. The counter knows no fused attention on CPU, so that runs as plain products here."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


class Case:
    """A supervisor, its plan, and what its phases are run on. side: of a picture, in pixels."""

    def __init__(self, folder: Path, side: int = 48, **replaying: Any) -> None:
        config = small_config(**replaying)
        self.config = replace(
            config,
            data=replace(config.data, image_size=side),
            rollouts=replace(config.rollouts, max_new_tokens=20),
            pairs=replace(config.pairs, pairs_per_round=2),
        )
        self.backbone = random_backbone(folder)
        if (
            self.backbone.model._can_set_experts_implementation()
        ):  # the counter knows no product of many experts at once
            self.backbone.model.set_experts_implementation("eager")
        self.geometry = read_geometry(self.backbone)
        self.workload = read_workload(
            self.config, self.backbone, self.geometry, Assumptions(mixed=1.0, classes=CLASSES)
        )
        self.sampling = self.workload.sampling
        assert self.sampling is not None
        self.images = pictures(self.workload.batch, side)
        prompt = build_prompt(load_vocabulary("fieldguide"))
        self.prompt = self.backbone.chat_prompt(prompt.text, 2)
        self.pairs = [(i, i + 1) for i in range(self.sampling.pairs)]

    def vision(self) -> Any:
        return self.backbone.vision(self.backbone.pixels(self.images))


SUPERVISORS = ["as bundled", "grouped heads", *TINY]


def make_case(folder: Path, supervisor: str, **replaying: Any) -> Case:
    if supervisor in TINY:  # 5 x 5 tokens: Qwen2.5-VL's windows of 2 x 2 do not come out even
        return Case(write_family(folder, supervisor), side=40, **replaying)
    text = {**GROUPED, "vocab_size": 3000} if supervisor == "grouped heads" else {}
    return Case(write_supervisor(folder, text), **replaying)


@pytest.fixture(params=SUPERVISORS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return make_case(tmp_path / "model", request.param)


def test_tower(case: Case) -> None:
    forward, vision = counted(case.vision)
    outputs = (vision.merged, *vision.deepstack)
    backward, _ = counted(lambda: torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs]))
    assert flops.tower_forward(case.geometry, case.workload) == pytest.approx(forward, rel=0.1)
    assert flops.tower_backward(case.geometry, case.workload) == pytest.approx(backward, rel=0.1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "tuning",
    [TuningConfig(), TuningConfig("lora", rank=16), TuningConfig("last_blocks", blocks=2), TuningConfig("frozen")],
    ids=lambda tuning: tuning.method,
)
@pytest.mark.parametrize("supervisor", ["as bundled", "qwen2_vl", "qwen2_5_vl", "internvl"])
def test_tower_that_trains_in_part(tmp_path: Path, supervisor: str, tuning: TuningConfig, recompute: bool) -> None:
    case = make_case(tmp_path / "model", supervisor)
    model = replace(case.config.model, tuning=tuning, tower_checkpoint=recompute)
    metric = replace(case.config, model=model, weights=LossWeights(policy=0.0, alignment=0.0))
    workload = read_workload(metric, case.backbone, case.geometry, Assumptions(classes=CLASSES))
    prepare_tower(case.backbone, model, 0)
    trained = [p for p in case.backbone.tower.parameters() if p.requires_grad]
    assert workload.tower.trained_bytes == sum(p.nbytes for p in trained)
    forward, vision = counted(case.vision)
    assert flops.tower_forward(case.geometry, workload) == pytest.approx(forward, rel=0.1)
    outputs = [o for o in (vision.merged, *vision.deepstack) if o.requires_grad]
    backward = 0
    if outputs:
        backward, _ = counted(lambda: torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs]))
    assert flops.tower_backward(case.geometry, workload) == pytest.approx(backward, rel=0.1)


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
@pytest.mark.parametrize("supervisor", SUPERVISORS)
def test_replay(tmp_path: Path, supervisor: str, method: str) -> None:
    checkpoint = method == "checkpointed"
    case = make_case(tmp_path / "model", supervisor, method="packed" if checkpoint else method)
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
        attention_layer=-1 if s.tap else None,
        checkpoint=checkpoint,
    )
    forward, chunk = counted(lambda: next(chunks))
    backward, _ = counted(lambda: torch.cat([row for rows in chunk.logprobs for row in rows]).sum().backward())
    assert len(chunk.groups) == s.groups
    assert flops.replay_forward(case.geometry, s) == pytest.approx(forward, rel=0.1)
    assert flops.replay_backward(case.geometry, s) == pytest.approx(backward, rel=0.1)


@pytest.mark.parametrize("pooler", ["attention", "mean"])
def test_metric(tmp_path: Path, pooler: str) -> None:
    case = make_case(tmp_path / "model", "as bundled")
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


def test_windows_are_counted_as_they_are_cut(tmp_path: Path) -> None:
    """5 x 5 tokens of 4 patches in windows of 2 x 2: 4 whole ones, 4 halves, 1 of one token; one block sees all."""
    case = make_case(tmp_path / "model", "qwen2_5_vl")
    windows = 4 * 16**2 + 4 * 8**2 + 4**2
    assert case.geometry.tower.attended(100) == 3 * windows + 100**2


def test_traffic_counts_every_weight_once_a_token(case: Case) -> None:
    s = replace(case.sampling, pairs=1, group_size=2, mean_tokens=2.0)
    d = case.geometry.decoder
    weights = 4 * (d.layers * d.facts.layer_weights + d.width * d.vocabulary)
    keys = s.prompt + 2
    assert flops.decoding_traffic(case.geometry, case.workload, s) >= weights + 8 * keys * d.key_heads * d.head_dim


def test_traffic_grows_with_the_experts_that_are_asked_up_to_all(tmp_path: Path) -> None:
    case = make_case(tmp_path / "model", "qwen3_vl_moe")
    d, quiet = case.geometry.decoder, replace(case.sampling, pairs=1, group_size=1, mean_tokens=2.0, prompt=0)

    def weights(branches: int) -> float:
        s = replace(quiet, pairs=branches)
        keys = branches * 2 * (d.key_heads + 2 * d.heads) * d.head_dim * d.layers  # of one token each
        return flops.decoding_traffic(case.geometry, case.workload, s) / 4 - keys

    experts = d.facts.experts * d.facts.expert_weights * d.layers
    one, many = weights(1), weights(64)
    assert one == pytest.approx(d.layers * d.facts.layer_weights + d.width * d.vocabulary)
    assert many - one == pytest.approx(experts * (1 - d.facts.active / d.facts.experts))
