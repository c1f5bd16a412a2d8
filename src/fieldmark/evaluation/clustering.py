"""Clustering quality of embeddings: normalised mutual information of k-means with the classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class NMI:
    """Normalised mutual information over k-means seeds.

    Attributes:
        mean: over the seeds, in [0, 1].
        std: sample standard deviation over the seeds (n - 1); 0.0 for a single seed.
        values: one per seed, in the order of the seeds.
    """

    mean: float
    std: float
    values: tuple[float, ...]


def clustering_nmi(
    embeddings: Tensor, labels: Tensor | np.ndarray | Sequence[int], seeds: Sequence[int] = (0, 1, 2)
) -> NMI:
    """NMI between the classes and k-means clusters, k = number of classes.

    scikit-learn's k-means (k-means++ start, one per seed) on L2-normalised float32 embeddings on the CPU;
    mutual information over the arithmetic mean of both entropies. K-means depends on its start, hence mean
    and std.

    Args:
        embeddings: (n, D) floating.
        labels: (n,) integers.
        seeds: of the k-means starts.

    Raises:
        ValueError: wrong shapes, NaN embeddings, no seed, fewer than two classes.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("NMI needs scikit-learn: pip install scikit-learn") from error

    classes = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if embeddings.ndim != 2 or classes.shape != embeddings.shape[:1] or classes.dtype.kind not in "iu":
        raise ValueError(
            f"embeddings are {tuple(embeddings.shape)} and labels {classes.shape} {classes.dtype}; "
            "expected (n, D) floats and (n,) integers"
        )
    num_clusters = len(np.unique(classes))
    if num_clusters < 2:
        raise ValueError(f"labels hold {num_clusters} class(es); NMI compares at least two")
    if not seeds:
        raise ValueError("seeds is empty; give at least one k-means seed")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("embeddings contain NaN or infinity: the encoder has diverged")
    points = F.normalize(embeddings.detach().float(), dim=1).cpu().numpy()
    values = []
    for seed in seeds:
        assigned = KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(points)
        values.append(float(normalized_mutual_info_score(classes, assigned, average_method="arithmetic")))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return NMI(float(np.mean(values)), std, tuple(values))
