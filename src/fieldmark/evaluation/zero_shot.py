"""The zero-shot retrieval protocol: every image of unseen classes is a query, all the others are the gallery."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.collection import LabelledImages
from fieldmark.data.loader import load_all
from fieldmark.evaluation.clustering import NMI, clustering_nmi
from fieldmark.evaluation.retrieval import RetrievalMetrics, bootstrap_interval, retrieval_metrics
from fieldmark.losses.matryoshka import check_dimensions, truncate
from fieldmark.models.retrieval_encoder import RetrievalEncoder


@dataclass(frozen=True)
class ZeroShotResult:
    """Retrieval metrics and NMI of one encoder on one collection, with what they were computed from.

    embeddings: (n, D_e) float32. labels: (n,).
    """

    metrics: RetrievalMetrics
    nmi: NMI | None
    embeddings: Tensor
    labels: np.ndarray
    by_dimensions: dict[int, RetrievalMetrics] = field(default_factory=dict)
    """Size → metrics of the embeddings cut to their first so many numbers and normalised again."""

    @property
    def recall_at_k(self) -> dict[int, float]:
        """K → Recall@K, a share."""
        return self.metrics.recall_at_k

    def as_json(self) -> dict[str, Any]:
        """Figures as shares; the 95 % interval of Recall@1 resamples whole classes, for it is about unseen classes."""
        m = self.metrics
        interval = bootstrap_interval(m.per_query("recall_at_1"), seed=0, groups=self.labels[m.evaluated])
        result: dict[str, Any] = {f"recall_at_{k}": value for k, value in m.recall_at_k.items()}
        result |= {
            "map_at_r": m.map_at_r,
            "r_precision": m.r_precision,
            "recall_at_1_interval": [interval.low, interval.high],
            "num_queries": m.num_queries,
            "num_skipped": m.num_skipped,
        }
        if self.by_dimensions:
            result["by_dimensions"] = {
                str(size): {f"recall_at_{k}": value for k, value in cut.recall_at_k.items()}
                | {"map_at_r": cut.map_at_r}
                for size, cut in self.by_dimensions.items()
            }
        if self.nmi is not None:
            result |= {"nmi": self.nmi.mean, "nmi_std": self.nmi.std}
        return result


def encode_collection(
    encoder: RetrievalEncoder, images: LabelledImages, *, batch_size: int = 64, workers: int = 0
) -> Tensor:
    """Embeddings (n, D_e) of a collection, in order."""
    parts = [
        encoder.encode(batch.images, batch_size)
        for batch in load_all(images, encoder.image_size, workers=workers, batch_size=batch_size)
    ]
    return torch.cat(parts)


def evaluate_encoder(
    encoder: RetrievalEncoder,
    images: LabelledImages,
    *,
    batch_size: int = 64,
    workers: int = 0,
    nmi_seeds: Sequence[int] = (0, 1, 2),
    dimensions: Sequence[int] = (),
) -> ZeroShotResult:
    """Recall@1/2/4/8, MAP@R, R-precision and NMI; self-matches are excluded by index.

    Args:
        nmi_seeds: seeds of k-means; empty skips NMI.
        dimensions: sizes at which retrieval is measured too (first numbers, normalised again), for encoders trained
            with nested sizes.

    Raises:
        ValueError: a size that the embedding does not have; before a picture is encoded.
    """
    sizes = check_dimensions(dimensions, encoder.embedding_size)
    embeddings = encode_collection(encoder, images, batch_size=batch_size, workers=workers)
    metrics = retrieval_metrics(embeddings, images.labels)
    nmi = clustering_nmi(embeddings, images.labels, seeds=nmi_seeds) if nmi_seeds else None
    cut = {size: retrieval_metrics(truncate(embeddings, size), images.labels) for size in sizes}
    return ZeroShotResult(metrics, nmi, embeddings, images.labels, cut)
