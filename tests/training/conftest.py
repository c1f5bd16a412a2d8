from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
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
from fieldmark.training.optimiser import OptimiserConfig


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
