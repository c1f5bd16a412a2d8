"""`fieldmark supervisor check`: loads what `evaluation.supervisor_check` looks at."""

from dataclasses import dataclass, field, replace

import torch

from fieldmark.data.collection import LabelledImages
from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.world import is_fieldguide
from fieldmark.data.loader import ImageLoader
from fieldmark.data.samplers import ClassBalancedBatches
from fieldmark.evaluation.supervisor_check import (
    SupervisorCheckConfig,
    SupervisorReport,
    check_supervisor,
    metric_gradient_norm,
)
from fieldmark.losses.registry import MetricLossConfig, build_metric_loss
from fieldmark.models.backbone import Backbone
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.policy.vocabulary import bundled_vocabularies
from fieldmark.training.config import DataConfig, ModelConfig
from fieldmark.training.session import attributes_of, build_encoder, load_split, load_supervisor


def _open_vocabulary() -> RolloutConfig:
    return RolloutConfig(vocabulary="")


@dataclass(frozen=True)
class SupervisorCheckRun:
    """Which supervisor, on which pictures, asked how."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rollouts: RolloutConfig = field(default_factory=_open_vocabulary)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    metric: MetricLossConfig = field(default_factory=MetricLossConfig)
    check: SupervisorCheckConfig = field(default_factory=SupervisorCheckConfig)


def run_supervisor_check(config: SupervisorCheckRun) -> SupervisorReport:
    """Check a supervisor on the training classes of a collection; test classes are not looked at.

    A Fieldguide collection brings its vocabulary and the true descriptions.

    Raises:
        ValueError: no pictures, no vocabulary, or bad input of another kind.
    """
    data, rollouts = config.data, config.rollouts
    known = bool(data.path) and is_fieldguide(data.path)  # type: ignore[arg-type]
    if not rollouts.vocabulary and known:
        rollouts = replace(rollouts, vocabulary="fieldguide")
    images = load_split(data).train
    if not rollouts.vocabulary:
        raise ValueError(
            "no vocabulary given: set rollouts.vocabulary to one of "
            f"{', '.join(bundled_vocabularies())}, or to a YAML file that describes your kind of objects"
        )
    backbone = load_supervisor(config.model)
    backbone.preprocessing.check_size(data.image_size)
    report = check_supervisor(
        backbone,
        images,
        rollouts,
        config.check,
        data.image_size,
        truth=attributes_of(images) if known else None,
        decisive=tuple(FIELD_MARKS) if known else None,
        replay=config.replay,
    )
    if not config.check.gradients:
        return report
    return replace(report, metric_gradient_norm=_metric_norm(config, backbone, images))


def _metric_norm(config: SupervisorCheckRun, backbone: Backbone, images: LabelledImages) -> float:
    """Norm of the metric loss's gradient at the tower: first batch of a training, pooler untrained."""
    data, seed = config.data, config.check.seed
    encoder = build_encoder(backbone, config.model, data.image_size, seed)
    loss = build_metric_loss(
        config.metric,
        images.num_classes,
        encoder.embedding_size,
        generator=torch.Generator().manual_seed(seed),
    ).to(config.model.device)
    batches = ClassBalancedBatches(images.labels, data.batch_size, data.images_per_class, seed).batch
    with ImageLoader(images, data.image_size, batches, seed=seed, workers=0) as loader:
        batch = loader.load(0)
    device = config.model.device
    return metric_gradient_norm(backbone, loss, encoder.pooler, batch.images.to(device), batch.labels.to(device))
