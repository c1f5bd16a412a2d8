"""What a run is followed by: Recall@K of held-out training queries, and whether their embeddings hear every grain."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.evaluation.embedding import EncodingConfig, encode_all
from fieldmark.evaluation.grains import drop_grain, grain_sensitivity
from fieldmark.evaluation.ranking import index_relevance, ranking_metrics
from fieldmark.models.universal_embedder import UniversalEmbedder

RANKS = (1, 5, 10)


class HeldOutQueries:
    """Held-out queries in a small pool of their own (`contrastive_batches.hold_out`).

    Grains are measured if they can be: some query has several that stand in its text, and some two share none.

    Raises:
        ValueError: what `index_relevance` refuses.
    """

    def __init__(self, task: RetrievalTask, batch_size: int, workers: int) -> None:
        self._task = task
        self._how = EncodingConfig(batch_size=batch_size, workers=workers)
        self._relevance = index_relevance(
            task.name,
            (query.id for query in task.queries),
            (candidate.id for candidate in task.candidates),
            task.relevance,
            absent="count",  # the training queries' reader has decided about positives that are not in the pool
        )
        self.with_grains = _with_grains(task.queries)
        """Held-out queries whose grains are dropped."""

    @property
    def description(self) -> str:
        """What is measured, in words."""
        return f"{len(self._task.queries)} held-out training queries among {len(self._task.candidates)} candidates"

    def measure(self, model: UniversalEmbedder) -> dict[str, float]:
        """``recall_at_1``, 5 and 10; ``grain_distance`` and ``grain_sensitivity`` (relative), if there are grains."""

        def embed(sources: Sequence[Query] | Sequence[Item]) -> Tensor:
            return encode_all(model, sources, self._how).embeddings

        queries, pool = embed(self._task.queries), embed(self._task.candidates)
        found = ranking_metrics(queries, pool, self._relevance, ks=RANKS)
        figures = {f"recall_at_{k}": value for k, value in found.recall_at_k.items()}
        if self.with_grains:
            # The intervals' generator: only the means are used.
            heard = grain_sensitivity(self.with_grains, embed, np.random.default_rng(0))
            figures |= {"grain_distance": heard.distance, "grain_sensitivity": heard.relative}
        return figures


def _with_grains(queries: Sequence[Query]) -> list[Query]:
    """Queries with several grains, one at least droppable; none if no two of them are unrelated."""
    several = [q for q in queries if len(q.grains) > 1 and any(drop_grain(q, g) is not None for g in q.grains)]
    unrelated = any(set(a.grains).isdisjoint(b.grains) for i, a in enumerate(several) for b in several[:i])
    return several if unrelated else []
