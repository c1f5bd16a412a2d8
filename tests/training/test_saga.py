"""SAGA end to end on the bundled supervisor: gradients against the full graph, exact resume, controls, errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.crashes import crash_in_step_three_and_resume

from fieldmark.models.bundled import bundled_path
from fieldmark.policy.grpo import grpo_loss
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.policy.update import backpropagate_policy, count_tokens
from fieldmark.training.config import LossWeights, PairConfig, ScheduleConfig
from fieldmark.training.metric import train_metric
from fieldmark.training.saga import Saga, train_saga
from fieldmark.training.session import Session


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "encoder" / "model.safetensors")


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture
def saga(saga_config):
    session = Session(saga_config)
    with session:
        yield Saga(session, saga_config)


def tower_gradient(backbone):
    return {n: p.grad.clone() for n, p in backbone.tower.named_parameters() if p.grad is not None}


def test_tower_gradient_of_a_step_equals_the_full_graph(saga):
    """Leaves, one backward per micro-batch and the shared-prefix replay against one plain graph of everything."""
    saga.config = replace(saga.config, weights=LossWeights(metric=0.7, policy=1.3, alignment=0.0))
    backbone, encoder = saga.session.backbone, saga.session.encoder
    saga.session.zero_grad()
    rounds, _ = saga._collect()
    (0.7 * rounds[0].metric_loss).backward()
    saga._policy(rounds)
    rounds[0].vision.backward(rounds[0].leaves)
    fast = tower_gradient(backbone)
    assert rounds[0].groups, "the fixture draws no contributing group: raise its temperature"

    saga.session.zero_grad()
    groups = rounds[0].groups
    vision = encoder.tokens(rounds[0].batch.images)
    loss = 0.7 * saga.session.metric_loss(encoder.pool(vision).embedding, rounds[0].batch.labels)
    tasks = [
        ReplayGroup(backbone.chat_prompt(g.prompt.text, 2), g.pair, tuple(r.ids for r in g.rollouts)) for g in groups
    ]
    total = 0.0
    for chunk in replay(backbone, vision, tasks, method="unpacked", prompts_per_chunk=len(tasks)):
        for g, rows in zip(groups, chunk.logprobs, strict=True):
            for advantage, row in zip(g.advantages.tolist(), rows, strict=True):
                total = total - advantage * row.sum()
    loss = loss + 1.3 * total / sum(g.num_tokens for g in groups)
    loss.backward()
    slow = tower_gradient(backbone)
    assert fast.keys() == slow.keys() and len(fast) > 50
    for name in fast:
        scale = slow[name].abs().max()
        assert torch.allclose(fast[name], slow[name], atol=2e-4 * float(scale) + 1e-7), name


def test_policy_gradient_does_not_depend_on_the_chunking(saga):
    rounds, _ = saga._collect()
    groups, config = rounds[0].groups, saga.config.rollouts
    total = count_tokens(groups, config)
    found = []
    for per_chunk in (1, 4):
        leaves = rounds[0].vision.as_leaves()
        backpropagate_policy(
            saga.session.backbone,
            leaves,
            groups,
            total,
            config,
            replace(saga.config.replay, prompts_per_chunk=per_chunk),
        )
        found.append(leaves.merged.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_replay_agrees_with_the_sampler(saga):
    rounds, _ = saga._collect()
    leaves = rounds[0].vision.as_leaves()
    config = saga.config.rollouts
    update = backpropagate_policy(saga.session.backbone, leaves, rounds[0].groups, 100, config, saga.config.replay)
    assert update.replay_gap < 1e-4


def test_alignment_gives_gradient_to_the_pooler_only(saga):
    saga.session.zero_grad()
    rounds, _ = saga._collect()
    _, _, teachers = saga._policy(rounds)
    saga.session.zero_grad()
    before = [g.clone() for g in rounds[0].leaves.gradients()]
    assert saga._align(rounds, teachers) > 0
    assert all(p.grad is None for p in saga.session.encoder.tower.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, rounds[0].leaves.gradients(), strict=True))
    assert saga.session.encoder.pooler.query.grad.abs().sum() > 0


def test_relative_weight_sets_the_norm_of_the_policy_gradient(saga):
    saga.config = replace(saga.config, weights=LossWeights(policy_relative=0.5, alignment=0.0))
    saga.session.zero_grad()
    rounds, _ = saga._collect()
    rounds[0].metric_loss.backward()
    metric = torch.cat([g.flatten() for g in rounds[0].leaves.gradients()]).clone()
    saga._policy(rounds)
    saga._balance(rounds, [metric])
    total = torch.cat([g.flatten() for g in rounds[0].leaves.gradients()])
    assert float((total - metric).norm() / metric.norm()) == pytest.approx(0.5, rel=1e-3)


def test_frozen_language_model_is_unchanged_and_the_tower_is_not(saga_config):
    session = Session(saga_config)
    before = {n: p.clone() for n, p in session.backbone.model.named_parameters()}
    saga = Saga(session, saga_config)
    with session:
        session.after_step(saga.step())
    tower = {f"model.visual.{n}" for n, _ in session.backbone.tower.model.named_parameters()}
    changed = {n for n, p in session.backbone.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and changed <= tower
    assert all(p.grad is None for n, p in session.backbone.model.named_parameters() if n not in tower)


def test_same_seed_same_run_and_resume_after_a_crash_is_exact(saga_config, tmp_path, monkeypatch):
    train_saga(saga_config)
    broken = replace(saga_config, run=str(tmp_path / "broken"))
    crash_in_step_three_and_resume(broken, monkeypatch)
    assert same(weights(saga_config.run), weights(broken.run))
    logs = [
        [json.loads(line) for line in (Path(r) / "log.jsonl").read_text().splitlines()]
        for r in (saga_config.run, broken.run)
    ]
    for log in logs:
        for line in log:
            line.pop("seconds", None)
    assert logs[0] == logs[1]


@pytest.mark.parametrize("supervision", ["permuted", "oracle", "wrong"])
def test_controls_run(saga_config, supervision):
    config = replace(
        saga_config, supervision=supervision, schedule=ScheduleConfig(steps=1, validate_every=1, checkpoint_every=1)
    )
    results = train_saga(config)
    assert 0 <= results["test"]["recall_at_1"] <= 1
    assert "test classes were read once" in results["selection"]


def test_oracle_loss_is_the_cross_entropy_of_the_true_answer(saga_config):
    config = replace(saga_config, supervision="oracle")
    session = Session(config)
    saga = Saga(session, config)
    with session:
        rounds, _ = saga._collect()
    groups = rounds[0].groups
    assert len(groups) == 4 and all(len(g.rollouts) == 1 and float(g.advantages[0]) == 1 for g in groups)
    for g in groups:
        truth = [saga.truth[int(rounds[0].batch.indices[i])] for i in g.pair]
        for item in (0, 1):
            for name, span in g.rollouts[0].verdict.descriptions[item].items():
                assert span.text == truth[item][name]
        assert g.rollouts[0].verdict.answer is g.same
    row = torch.tensor([[-1.0, -2.0, -3.0]])
    assert float(grpo_loss(row, torch.ones(1, 3, dtype=torch.bool), torch.ones(1), 3)) == pytest.approx(2.0)


def test_metric_run_writes_its_record(metric_config):
    results = train_metric(metric_config)
    run = Path(metric_config.run)
    assert json.loads((run / "results.json").read_text())["test"] == json.loads(json.dumps(results["test"]))
    assert results["pictures_seen"] == 3 * 8
    assert len((run / "log.jsonl").read_text().splitlines()) == 3
    assert (run / "config.yaml").exists()


# ---- bad input, before the first step -----------------------------------------------------------------------------


def test_a_prompt_beyond_the_context_is_refused(saga_config):
    config = replace(saga_config, rollouts=replace(saga_config.rollouts, max_new_tokens=5000))
    with pytest.raises(ValueError, match="max_new_tokens"):
        train_saga(config)


def test_generic_prompt_cannot_be_aligned(saga_config):
    rollouts = replace(saga_config.rollouts, style="generic", attributes_per_prompt=None)
    with pytest.raises(ValueError, match=r"weights\.alignment"):
        train_saga(replace(saga_config, rollouts=rollouts))


def test_unknown_layer_is_refused(saga_config):
    with pytest.raises(ValueError, match="layers 0 to 4"):
        train_saga(replace(saga_config, alignment_layer=7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment_layer": 99}, "layers 0 to 4"),
        ({"pairs": PairConfig(pairs_per_round=12)}, r"6 of them of one class.* only 4 such pairs.* at most 8"),
    ],
)
def test_a_refused_start_leaves_no_run_behind(saga_config, changes, message):
    with pytest.raises(ValueError, match=message):
        train_saga(replace(saga_config, **changes))
    assert not any(Path(saga_config.run).iterdir())


def test_a_refused_resumption_keeps_the_run(saga_config):
    bad = replace(saga_config, alignment_layer=99)
    Session(bad)  # begun, and killed before its first step
    with pytest.raises(ValueError, match="layers 0 to 4"):
        train_saga(bad, resume=True)
    assert (Path(saga_config.run) / "config.yaml").is_file()


def test_a_device_that_is_not_there_is_refused_before_a_picture_is_decoded(saga_config):
    config = replace(saga_config, data=replace(saga_config.data, path="nowhere"))
    for device, message in (("cuda:99", r"sees \d+ GPUs"), ("gpu", "no torch device")):
        with pytest.raises(ValueError, match=message):
            train_saga(replace(config, model=replace(config.model, device=device)))


def test_missing_pictures_and_run_folder_are_named(saga_config):
    with pytest.raises(ValueError, match=r"data\.path"):
        train_saga(replace(saga_config, data=replace(saga_config.data, path="")))
    with pytest.raises(ValueError, match="--run"):
        train_saga(replace(saga_config, run=""))


def test_a_run_of_another_configuration_is_not_overwritten(metric_config):
    train_metric(metric_config)
    with pytest.raises(ValueError, match="seed"):
        train_metric(replace(metric_config, seed=2), resume=True)
    assert (Path(metric_config.run) / "results.json").exists()


def test_quota_and_dynamic_sampling_draw_further_micro_batches(saga_config):
    config = replace(
        saga_config,
        pairs=PairConfig(
            pairs_per_round=4, contributing_pairs=4, quota={"same": 2, "random": 2, "hard": 0}, max_rounds=6
        ),
    )
    session = Session(config)
    saga = Saga(session, config)
    with session:
        rounds, result = saga._collect()
    kept = [g for r in rounds for g in r.groups]
    assert result.rounds == len(rounds) == session.progress.batches
    assert sum(g.same for g in kept) <= 2 and sum(not g.same for g in kept) <= 2
    assert result.complete or result.rounds == 6


def test_bundled_model_is_small_enough():
    assert sum(p.stat().st_size for p in bundled_path().iterdir() if p.is_file()) < 12 * 2**20
