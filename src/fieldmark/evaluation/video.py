"""Text → video retrieval: Recall@1, 5 and 10, and the median rank (MdR), zero-shot as on MSR-VTT and MSVD."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldmark.data.retrieval import RetrievalTask
from fieldmark.evaluation.embedding import Encoder, EncodingConfig, encode_all
from fieldmark.evaluation.ranking import RankingMetrics, index_relevance, ranking_metrics
from fieldmark.evaluation.retrieval import Interval

_KS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class VideoResult:
    """Every caption is a query, every video a candidate."""

    name: str
    metrics: RankingMetrics
    intervals: dict[int, Interval]
    """Recall@K by K. Videos are resampled: captions of one video succeed and fail together."""
    num_videos: int

    def as_json(self) -> dict[str, Any]:
        """Shares, and ranks from 1."""
        return {
            "task": self.name,
            **{f"recall_at_{k}": value for k, value in self.metrics.recall_at_k.items()},
            **{f"recall_at_{k}_interval": [one.low, one.high] for k, one in self.intervals.items()},
            "median_rank": self.metrics.median_rank,
            "mean_reciprocal_rank": self.metrics.mrr,
            "num_queries": self.metrics.num_queries,
            "num_videos": self.num_videos,
        }

    def as_text(self) -> str:
        """The published columns, in percent."""
        heads = [*(f"R@{k}" for k in _KS), "MdR"]
        cells = [*(f"{100 * self.metrics.recall_at_k[k]:.1f}" for k in _KS), f"{self.metrics.median_rank:g}"]
        one = self.intervals[1]
        return "\n".join(
            (
                f"{self.name}: {self.metrics.num_queries} captions, {self.num_videos} videos",
                "".join(f"{head:>8}" for head in heads),
                "".join(f"{cell:>8}" for cell in cells),
                f"R@1: 95 % interval {100 * one.low:.1f} to {100 * one.high:.1f}",
            )
        )


def evaluate_video(
    encoder: Encoder,
    task: RetrievalTask,
    encoding: EncodingConfig,
    generator: np.random.Generator,
    say: Callable[[str], None] = lambda _: None,
) -> VideoResult:
    """Embed captions and videos and rank.

    Args:
        task: of `fieldmark.data.multimodal.video_tasks.read_video_task`.
        generator: of the bootstrap.
        say: told what is being done.

    Raises:
        ValueError: relevance that does not fit the videos.
        BadImage: a video cannot be read.
    """
    say(f"embedding {len(task.candidates)} videos, {encoding.frames} frames each")
    videos = encode_all(encoder, task.candidates, encoding).embeddings
    say(f"embedding {len(task.queries)} captions")
    captions = encode_all(encoder, task.queries, encoding).embeddings
    ids = ((one.id for one in task.queries), (one.id for one in task.candidates))
    relevance = index_relevance(task.name, *ids, task.relevance)
    metrics = ranking_metrics(captions, videos, relevance, ks=_KS, normalised=True)
    own = relevance.candidates[relevance.starts[:-1]]
    intervals = {k: metrics.interval(f"recall_at_{k}", generator, groups=own) for k in _KS}
    return VideoResult(task.name, metrics, intervals, len(task.candidates))
