"""Metrics of retrieval and clustering, and the protocols that use them."""

from fieldmark.evaluation.clustering import NMI, clustering_nmi
from fieldmark.evaluation.retrieval import (
    Interval,
    Neighbours,
    RetrievalMetrics,
    bootstrap_interval,
    retrieval_metrics,
    top_k,
)

__all__ = [
    "NMI",
    "Interval",
    "Neighbours",
    "RetrievalMetrics",
    "bootstrap_interval",
    "clustering_nmi",
    "retrieval_metrics",
    "top_k",
]
