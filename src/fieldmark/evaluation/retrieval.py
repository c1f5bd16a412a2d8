"""Exact nearest-neighbour retrieval and its metrics.

Zero-shot protocol (SAGA, arXiv 2606.15134): every image of the unseen classes is a query against all others.
Similarity is the cosine in float32. A query is excluded from its own results *by its index*: an exact
duplicate of it is an ordinary gallery image, ranked first, right or wrong by its label.

Equal float32 scores are ordered by gallery index, lowest first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fieldmark.losses.precision import full_float32

_GROUP = 32
"""Gallery columns per group in the first, coarse pass of the search."""

_MAX_SCORES = 2**27
"""Scores held at a time (512 MB): with a larger gallery fewer queries are taken at a time."""

_TIED_ROWS = 64


@dataclass(frozen=True)
class Neighbours:
    """Nearest gallery images of each query, best first.

    Attributes:
        indices: (n, k) int64 gallery indices.
        scores: (n, k) float32 cosine similarities, descending.
    """

    indices: Tensor
    scores: Tensor


@dataclass(frozen=True)
class RetrievalMetrics:
    """Means over the queries that have a positive, and the values per query they are means of.

    Attributes:
        recall_at_k: for each K the share of queries with a same-class image among their K nearest.
        map_at_r: mean average precision at R (arXiv 2003.08505, section 3.2), R = positives of the query.
        r_precision: mean share of same-class images among the R nearest.
        num_queries: queries counted in these means.
        num_skipped: queries without any positive (class of one image, or class absent from the gallery). They
            are left out of every mean, as pytorch-metric-learning does, but stay in the gallery of the
            others.
        evaluated: (n,) bool, False for skipped queries.
        first_hit: (n,) int64, rank (1 = nearest) of the nearest same-class image; 0 if there is none in the
            ranks searched, which reach max(ks, R of the largest class).
        query_map_at_r, query_r_precision: (n,) float64; NaN for skipped queries.
    """

    recall_at_k: dict[int, float]
    map_at_r: float
    r_precision: float
    num_queries: int
    num_skipped: int
    evaluated: np.ndarray
    first_hit: np.ndarray
    query_map_at_r: np.ndarray
    query_r_precision: np.ndarray

    def per_query(self, metric: str) -> np.ndarray:
        """(num_queries,) float64 values of ``"recall_at_K"``, ``"map_at_r"`` or ``"r_precision"``, skipped
        left out.

        In query order, so two runs on the same images can be compared pair by pair:
        ``bootstrap_interval(b.per_query("recall_at_1") - a.per_query("recall_at_1"), seed=0)``.
        """
        if metric == "map_at_r":
            return self.query_map_at_r[self.evaluated]
        if metric == "r_precision":
            return self.query_r_precision[self.evaluated]
        for k in self.recall_at_k:
            if metric == f"recall_at_{k}":
                return _hits(self.first_hit[self.evaluated], k).astype(np.float64)
        known = [f"recall_at_{k}" for k in self.recall_at_k] + ["map_at_r", "r_precision"]
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(known)}")


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval at confidence `level`."""

    mean: float
    low: float
    high: float
    level: float


def top_k(
    embeddings: Tensor,
    gallery: Tensor | None = None,
    *,
    k: int,
    exclude_self: bool | None = None,
    chunk_size: int = 1024,
) -> Neighbours:
    """Exact k nearest gallery images of each embedding by cosine similarity.

    Args:
        embeddings: (n, D) queries, floating, any device; normalised here.
        gallery: (m, D), or None to search among the queries themselves.
        k: neighbours per query, at most the gallery's size (less one when excluding self).
        exclude_self: leave query i out of its own results, by index. Default: yes without a separate gallery.
            Only possible there: in a separate gallery no index is known to be the query.
        chunk_size: queries scored at a time; memory is about chunk_size * m * 4 bytes, 512 MB at most.

    Raises:
        ValueError: wrong shapes, NaN or zero embeddings, k out of range.
    """
    if exclude_self is None:
        exclude_self = gallery is None
    if exclude_self and gallery is not None:
        raise ValueError("exclude_self needs the queries as their own gallery: pass gallery=None")
    queries = unit_rows(embeddings, "embeddings")
    gallery = queries if gallery is None else unit_rows(gallery, "gallery")
    available = len(gallery) - int(exclude_self)
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}, but {available} gallery images can be returned per query: choose 1..{available}")
    parts = list(_search(queries, gallery, k, exclude_self, chunk_size))
    return Neighbours(torch.cat([part[2] for part in parts]), torch.cat([part[1] for part in parts]))


def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 2, 4, 8),
    chunk_size: int = 1024,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | np.ndarray | Sequence[int] | None = None,
) -> RetrievalMetrics:
    """Recall@K, MAP@R and R-precision of exact cosine retrieval.

    Args:
        embeddings: (n, D) floating, any device. Computed in float32.
        labels: (n,) integers.
        ks: ranks of Recall@K. A K beyond the gallery counts the whole gallery.
        chunk_size: queries scored at a time, see `top_k`. Memory is bounded: no (n, R) array is kept.
        gallery, gallery_labels: (m, D) and (m,), given together; default: all other queries.

    Raises:
        ValueError: wrong shapes, NaN or zero embeddings, a K below 1, or no query with a positive.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together: pass both or neither")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; expected ranks from 1 upwards")
    exclude_self = gallery is None
    queries = unit_rows(embeddings, "embeddings")
    labels = _label_tensor(labels, queries, "labels")
    if gallery is None or gallery_labels is None:
        targets, target_labels = queries, labels
    else:
        targets = unit_rows(gallery, "gallery")
        target_labels = _label_tensor(gallery_labels, targets, "gallery_labels")

    positives = _count_positives(labels, target_labels) - int(exclude_self)
    evaluated = positives > 0
    if not bool(evaluated.any()):
        raise ValueError(
            f"none of the {len(labels)} queries has another image of its class to find: "
            "nothing can be measured. Evaluate on classes with at least two images"
        )
    depth = min(len(targets) - int(exclude_self), max(*ks, int(positives.max())))
    ranks = torch.arange(1, depth + 1, device=queries.device)
    first_hit = torch.zeros_like(labels)
    average_precision = torch.full(labels.shape, torch.nan, dtype=torch.float64, device=labels.device)
    r_precision = average_precision.clone()
    for rows, _, indices in _search(queries, targets, depth, exclude_self, chunk_size):
        relevant = target_labels[indices] == labels[rows, None]
        first_hit[rows] = torch.where(relevant.any(1), relevant.int().argmax(1) + 1, 0)
        count = positives[rows]
        relevant &= ranks <= count[:, None]
        found = relevant.cumsum(1, dtype=torch.int32)
        # Rows without positives divide by zero: NaN, as documented.
        r_precision[rows] = found[:, -1].double() / count
        average_precision[rows] = torch.where(relevant, found.double() / ranks, 0.0).sum(1) / count

    kept = evaluated.cpu().numpy()
    first = first_hit.cpu().numpy()
    query_map, query_r = average_precision.cpu().numpy(), r_precision.cpu().numpy()
    return RetrievalMetrics(
        recall_at_k={k: float(_hits(first[kept], k).mean()) for k in ks},
        map_at_r=float(query_map[kept].mean()),
        r_precision=float(query_r[kept].mean()),
        num_queries=int(kept.sum()),
        num_skipped=int((~kept).sum()),
        evaluated=kept,
        first_hit=first,
        query_map_at_r=query_map,
        query_r_precision=query_r,
    )


def bootstrap_interval(
    values: np.ndarray | Sequence[float],
    seed: int | np.random.Generator,
    level: float = 0.95,
    *,
    groups: np.ndarray | Sequence[int] | None = None,
    resamples: int = 2000,
) -> Interval:
    """Percentile bootstrap interval of the mean of per-query values (or of paired differences).

    Args:
        values: (n,) finite numbers, e.g. ``metrics.per_query("recall_at_1")``.
        groups: (n,) class of each value, to resample whole classes. Queries of one class succeed and fail
            together: resampled one by one they give an interval for *these* classes, resampled by class one
            for unseen classes, which is wider and is what a zero-shot claim is about.
        seed: of the draws; or a generator, which then goes on.
        resamples: number of bootstrap draws.

    Raises:
        ValueError: empty or non-finite values, groups of another length, level outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"values of shape {values.shape} must be a non-empty list of finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; choose a confidence between 0 and 1, such as 0.95")
    if groups is None:
        sums, counts = values, np.ones(len(values))
    else:
        groups = np.asarray(groups)
        if groups.shape != values.shape:
            raise ValueError(f"groups have shape {groups.shape}, values {values.shape}: one group per value is needed")
        _, member = np.unique(groups, return_inverse=True)
        sums, counts = np.bincount(member, weights=values), np.bincount(member).astype(np.float64)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for draw in range(resamples):
        chosen = random.integers(0, len(sums), len(sums))
        means[draw] = sums[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level)


def _hits(first_hit: np.ndarray, k: int) -> np.ndarray:
    return (first_hit >= 1) & (first_hit <= k)


def _count_positives(labels: Tensor, target_labels: Tensor) -> Tensor:
    """(n,) gallery images of each query's class."""
    classes, counts = torch.unique(target_labels, return_counts=True)
    place = torch.searchsorted(classes, labels.contiguous()).clamp_max(len(classes) - 1)
    return torch.where(classes[place] == labels, counts[place], 0)


def unit_rows(embeddings: Tensor, name: str, *, normalised: bool = False) -> Tensor:
    """(n, D) float32, L2-normalised.

    Args:
        normalised: they are so already, as an embedder's output is: checked, but not copied.

    Raises:
        ValueError: wrong shape or type, rows that are zero or not finite, or not normalised though it is said.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0 or not embeddings.is_floating_point():
        raise ValueError(f"{name} are {tuple(embeddings.shape)} {embeddings.dtype}; expected (n, D) floats with n >= 1")
    embeddings = embeddings.detach().float()
    norms = embeddings.norm(dim=1)
    bad = ~torch.isfinite(norms) | (norms == 0)
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        raise ValueError(
            f"{len(rows)} of {len(embeddings)} {name} are zero or not finite (first: rows {rows[:5]}): they "
            "have no direction to compare. The encoder has diverged or the images are broken"
        )
    if not normalised:
        return F.normalize(embeddings, dim=1)
    if bool(((norms - 1).abs() > 1e-3).any()):
        raise ValueError(f"{name} are said to have length 1, but lengths are {norms.min():.4g} to {norms.max():.4g}")
    return embeddings


def _label_tensor(labels: Tensor | np.ndarray | Sequence[int], embeddings: Tensor, name: str) -> Tensor:
    tensor = labels if isinstance(labels, Tensor) else torch.tensor(np.asarray(labels))
    if tensor.shape != embeddings.shape[:1] or tensor.is_floating_point():
        raise ValueError(
            f"{name} are {tuple(tensor.shape)} {tensor.dtype}; expected {len(embeddings)} integers, one per embedding"
        )
    return tensor.to(embeddings.device, torch.int64)


def _search(
    queries: Tensor, gallery: Tensor, k: int, exclude_self: bool, chunk_size: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (rows of the queries, scores (r, k), indices (r, k)) chunk by chunk."""
    for rows, scores in score_blocks(queries, gallery, k, chunk_size):
        if exclude_self:
            own = torch.arange(len(scores), device=scores.device)
            scores[own, rows.start + own] = -torch.inf
        yield rows, *best_scores(scores, k)


@torch.no_grad()
def score_blocks(queries: Tensor, gallery: Tensor, k: int, chunk_size: int = 1024) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows of the queries, their scores against the whole gallery) chunk by chunk, for ``best_scores``.

    Args:
        queries, gallery: (n, D) and (m, D) of ``unit_rows``.
        k: how many scores of a row will be asked for; together with m it limits the chunks' size.

    Yields:
        scores: (r, at least m) float32; columns beyond m are -inf. The same memory is filled again for the next chunk:
            it may be written to.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; choose at least 1")
    columns = -(-len(gallery) // _GROUP) * _GROUP
    chunk_size = min(chunk_size, len(queries), max(1, _MAX_SCORES // (columns + 10 * k)))
    block = torch.empty(chunk_size, columns, device=queries.device)
    for start in range(0, len(queries), chunk_size):
        rows = slice(start, min(start + chunk_size, len(queries)))
        scores = block[: rows.stop - start]
        with full_float32(queries.device):
            torch.mm(queries[rows], gallery.T, out=scores[:, : len(gallery)])
        scores[:, len(gallery) :] = -torch.inf
        yield rows, scores


def best_scores(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row and their columns, in descending order, ties to the lower column."""
    wanted = min(k + 1, scores.shape[1])  # one more, to see whether the last place is contested
    values, columns = _largest(scores, wanted)
    contested = (values[:, k - 1 : k] == values[:, k:]).any(1)
    values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
    for rows in torch.nonzero(contested).flatten().split(_TIED_ROWS):
        threshold = values[rows, -1:]
        above = scores[rows] > threshold
        level = scores[rows] == threshold
        places = k - above.sum(1, keepdim=True)
        chosen = above | (level & (level.cumsum(1, dtype=torch.int32) <= places))
        columns[rows] = chosen.nonzero()[:, 1].view(len(rows), k)
        values[rows] = scores[rows[:, None], columns[rows]]
    tied = contested | (values[:, 1:] == values[:, :-1]).any(1)
    rows = tied.nonzero().flatten()
    if len(rows):
        ordered = columns[rows].sort(1).values
        level = scores[rows[:, None], ordered]
        level, order = level.sort(dim=1, descending=True, stable=True)
        values[rows], columns[rows] = level, ordered.gather(1, order)
    return values, columns


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` of each row, several times faster for a wide row and a small count.

    Columns are grouped, and only the `count` groups with the largest maxima are looked into. Every other
    group's maximum, hence every score left out, is at most the smallest of these maxima: the values are
    exact.
    """
    groups = scores.shape[1] // _GROUP
    if groups * _GROUP != scores.shape[1] or groups < 4 * count:
        return scores.topk(count, dim=1)
    # Group g holds the columns g, g + groups, ...: the maximum then runs along contiguous memory.
    best = scores.view(len(scores), _GROUP, groups).amax(1).topk(count, dim=1, sorted=False).indices
    members = best[:, :, None] + groups * torch.arange(_GROUP, device=scores.device)
    members = members.flatten(1)
    values, place = scores.gather(1, members).topk(count, dim=1)
    return values, members.gather(1, place)
