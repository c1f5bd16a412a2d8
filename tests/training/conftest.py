from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
from fieldmark.data.summaries import KnownSummary, summary_lines
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.training.config import (
    DataConfig,
    LossWeights,
    MetricConfig,
    ModelConfig,
    PairConfig,
    SagaConfig,
    ScheduleConfig,
)
from fieldmark.training.contrastive_config import ContrastiveConfig, EmbedderModelConfig, HeldOutConfig
from fieldmark.training.optimiser import AdapterOptimiserConfig, OptimiserConfig
from fieldmark.training.rehearsal import RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Sixteen species of six pictures, ten of them for training."""
    config = FieldguideConfig(species=16, per=6, train_share=0.625, seed=4)
    return write_fieldguide(config, tmp_path_factory.mktemp("world") / "world", workers=1)


@pytest.fixture
def saga_config(world, tmp_path) -> SagaConfig:
    """A run of three steps with the bundled supervisor."""
    return SagaConfig(
        run=str(tmp_path / "run"),
        seed=1,
        data=DataConfig(path=str(world), image_size=96, batch_size=8, images_per_class=2, workers=0),
        model=ModelConfig(embedding_size=32),
        pairs=PairConfig(pairs_per_round=4, contributing_pairs=None),
        rollouts=RolloutConfig(
            vocabulary="fieldguide",
            attributes_per_prompt=2,
            group_size=4,
            temperature=1.5,
            top_p=1.0,
            max_new_tokens=48,
        ),
        weights=LossWeights(policy_relative=1.0),
        optimiser=OptimiserConfig(tower_lr=1e-4, pooler_lr=1e-3),
        schedule=ScheduleConfig(steps=3, validate_every=3, checkpoint_every=1),
    )


@pytest.fixture
def metric_config(saga_config) -> MetricConfig:
    """The same without the supervisor."""
    s = saga_config
    return MetricConfig(
        run=s.run,
        seed=s.seed,
        data=s.data,
        model=replace(s.model, pooler="mean"),
        metric=s.metric,
        optimiser=s.optimiser,
        schedule=s.schedule,
    )


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares") / "mbeir")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def contrastive_config(squares, checkpoint, tmp_path) -> ContrastiveConfig:
    return ContrastiveConfig(
        run=str(tmp_path / "run"),
        seed=1,
        data=RetrievalDataConfig(path=str(squares), workers=0),
        validation=HeldOutConfig(queries=4, candidates=20),
        model=EmbedderModelConfig(
            base=str(checkpoint),
            adapter=AdapterConfig(rank=4, alpha=8, dropout=0.2),
            embedder=EmbedderConfig(image_size=16),
        ),
        batch_size=8,
        chunk_size=5,
        hard_negatives=1,
        optimiser=AdapterOptimiserConfig(lr=3e-3),
        schedule=ScheduleConfig(steps=3, validate_every=3, checkpoint_every=1, select="last"),
    )


@pytest.fixture
def rehearsing(contrastive_config, tmp_path) -> ContrastiveConfig:
    """The same beside known summaries of all queries and candidates."""
    config = contrastive_config
    task = load_training_task(config.data)
    known = [KnownSummary("query", q.id, f"find {q.item.text or 'it'}") for q in task.queries]
    known += [KnownSummary("candidate", c.id, f"{c.text or 'a square'}") for c in task.candidates]
    file = tmp_path / "summaries.jsonl"
    file.write_text(summary_lines(known), encoding="utf-8")
    return replace(config, rehearsal=RehearsalConfig(path=str(file), per_step=5, weight=0.5))
