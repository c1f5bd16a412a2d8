"""bfloat16 where it may be, float32 where sums and comparisons are made: leaves, pooler, losses, metrics, updates."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tests.experiments.planned_step import REWARD, saga_step, write_supervisor

from fieldmark.evaluation.retrieval import retrieval_metrics
from fieldmark.policy import gradient
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.update import ReplayConfig, TeacherMap
from fieldmark.training import saga as saga_module
from fieldmark.training.config import DataConfig, LossWeights, ModelConfig, PairConfig, SagaConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    layers = {"num_hidden_layers": 2}, {"depth": 2, "deepstack_visual_indexes": [0]}
    return write_supervisor(tmp_path_factory.mktemp("model"), *layers)


def config(**model):
    return SagaConfig(
        data=DataConfig(image_size=48, batch_size=8, images_per_class=2),
        model=ModelConfig(embedding_size=16, **model),
        pairs=PairConfig(pairs_per_round=2, contributing_pairs=None),
        rollouts=RolloutConfig(
            vocabulary="fieldguide", group_size=4, temperature=1.0, top_p=1.0, max_new_tokens=6, reward=f"{REWARD}:coin"
        ),
        replay=ReplayConfig(prompts_per_chunk=2),
        weights=LossWeights(),
    )


def watch(monkeypatch, module, name, seen):
    """Note the dtypes of tensors that a function is given and gives."""
    real = getattr(module, name)

    def noted(*args, **kwargs):
        result = real(*args, **kwargs)
        seen[name] = {
            t.dtype for t in (*args, *kwargs.values(), result) if torch.is_tensor(t) and t.is_floating_point()
        }
        return result

    monkeypatch.setattr(module, name, noted)


@pytest.mark.parametrize(
    ("model", "tower", "language"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16, torch.bfloat16),
        ({"dtype": "bfloat16", "tower_precision": "bfloat16_autocast"}, torch.float32, torch.bfloat16),
    ],
    ids=["bfloat16 weights", "float32 tower under autocast"],
)
def test_leaves_losses_and_metrics_are_float32(folder, monkeypatch, model, tower, language):
    seen = {}
    watch(monkeypatch, gradient, "grpo_loss", seen)
    watch(monkeypatch, saga_module, "attention_alignment", seen)
    session, saga = saga_step(config(**model), folder, lambda name: nullcontext())
    rounds = []
    real = saga._collect
    monkeypatch.setattr(saga, "_collect", lambda: rounds.append(real()) or rounds[-1])
    saga.step()
    (r,) = rounds[0][0]
    assert r.groups, "no group contributed: the step tells nothing"
    assert session.backbone.head.weight.dtype is language
    assert {p.dtype for p in session.encoder.tower.parameters()} == {tower}
    assert {p.grad.dtype for p in session.encoder.tower.parameters()} == {tower}
    assert r.vision.merged.dtype is torch.bfloat16  # the products were made in it, autocast or not
    assert {t.dtype for t in (r.leaves.merged, *r.leaves.deepstack, *r.leaves.gradients())} == {torch.float32}
    assert r.pooled.embedding.dtype is r.pooled.attention.dtype is r.metric_loss.dtype is torch.float32
    assert {p.dtype for p in (*session.encoder.pooler.parameters(), *session.metric_loss.parameters())} == {
        torch.float32
    }
    patches = r.leaves.counts[0]
    saga._align(rounds[0][0], [(TeacherMap(0, torch.full((patches,), 1 / patches)),)])  # random models describe nothing
    assert seen == {"grpo_loss": {torch.float32}, "attention_alignment": {torch.float32}}
    moments = [v for state in session.optimiser.state.values() for v in state.values() if v.dim() > 0]
    assert {m.dtype for m in moments} == {torch.float32, tower}
    embeddings = session.encoder.encode(session.next_batch().images)
    assert embeddings.dtype is torch.float32
    labels = torch.arange(8) % 4
    rounded = [retrieval_metrics(e, labels) for e in (embeddings.bfloat16(), embeddings.bfloat16().float())]
    assert rounded[0].recall_at_k == rounded[1].recall_at_k  # computed in float32 whatever it is given
    assert rounded[0].map_at_r == rounded[1].map_at_r


def test_autocast_keeps_updates_that_bfloat16_weights_lose(folder):
    """What the float32 weights are for: a step of 1e-5 of a weight."""
    changed = {}
    for precision in ("dtype", "bfloat16_autocast"):
        c = config(dtype="bfloat16", tower_precision=precision)
        c = replace(c, optimiser=replace(c.optimiser, tower_lr=1e-6, weight_decay=0.0))
        session, _ = saga_step(c, folder, lambda name: nullcontext())
        batch = session.next_batch()
        session.metric_loss(session.encoder.pool(session.tokens(batch.images)).embedding, batch.labels).backward()
        matrices = [p for p in session.encoder.tower.parameters() if p.dim() >= 2 and p.grad is not None]
        before = [p.detach().clone() for p in matrices]
        session.optimiser.step()
        moved = [int(((p != old) & (p.grad != 0)).sum()) for p, old in zip(matrices, before, strict=True)]
        changed[precision] = sum(moved) / sum(int((p.grad != 0).sum()) for p in matrices)
    assert changed["dtype"] < 0.1 and changed["bfloat16_autocast"] > 0.9


def test_autocast_is_close_to_float32_and_evaluation_is_not_autocast(folder):
    session, _ = saga_step(config(tower_precision="bfloat16_autocast"), folder, lambda name: nullcontext())
    plain, _ = saga_step(config(), folder, lambda name: nullcontext())
    images = session.next_batch().images
    with torch.no_grad():
        ours, exact = session.tokens(images).merged.float(), plain.tokens(images).merged
    assert 0 < float((ours - exact).norm() / exact.norm()) < 0.03
    assert torch.equal(session.encoder.encode(images), plain.encoder.encode(images))


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="dtype, bfloat16_autocast"):
        ModelConfig(tower_precision="float32")
