"""Pure functions of embeddings and labels: metric losses and attention alignment."""

from fieldmark.losses.alignment import attention_alignment
from fieldmark.losses.potential_field import PotentialField, potential_field
from fieldmark.losses.registry import (
    MetricLoss,
    MetricLossConfig,
    build_metric_loss,
    metric_loss_names,
    proxy_parameter_groups,
    register_metric_loss,
)

__all__ = [
    "MetricLoss",
    "MetricLossConfig",
    "PotentialField",
    "attention_alignment",
    "build_metric_loss",
    "metric_loss_names",
    "potential_field",
    "proxy_parameter_groups",
    "register_metric_loss",
]
