"""Near-duplicates within an index: pictures whose embeddings nearly coincide, by comparing all with all."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fieldmark.models.precision import check_device
from fieldmark.search.queries import check_where

if TYPE_CHECKING:
    from fieldmark.search.index import Index, Row

THRESHOLD = 0.98
"""Cosine similarity from which two pictures are called near-duplicates. What it means depends on the encoder."""
_BLOCK = 2048


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows that are linked by similarities at or above the threshold, directly or over others of the group.

    rows: the one with the most pixels first (then most bytes, then by path), the others by similarity to it.
    scores: cosine similarity of each to the first; it may lie below the threshold where a chain links them.
    """

    rows: tuple["Row", ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Duplicates:
    """Groups, the largest first; how many rows were compared, and the seconds that it took."""

    groups: tuple[DuplicateGroup, ...]
    num_rows: int
    threshold: float
    seconds: float

    @property
    def num_superfluous(self) -> int:
        """Rows beyond the first of each group."""
        return sum(len(group.rows) - 1 for group in self.groups)


def near_duplicates(
    index: "Index",
    threshold: float = THRESHOLD,
    *,
    where: str | None = None,
    device: str = "cpu",
    progress: Callable[[float], object] | None = None,
) -> Duplicates:
    """Groups of near-duplicates among the rows that meet a condition, exactly: n² / 2 comparisons.

    All embeddings are held in memory (100,000 × 512 numbers are 0.2 GB).

    Args:
        threshold: above 0, at most 1.
        device: where the similarities are computed.
        progress: called with the share that is done.

    Raises:
        ValueError: a threshold out of range, or a condition that is not allowed.
    """
    started = time.perf_counter()
    check_device(device)
    where = check_where(index, where)
    ids, vectors = _read(index, where)
    groups = []
    for members in linked(vectors, threshold, device=device, progress=progress):
        rows = index.rows([ids[member] for member in members])
        of = {ids[member]: vectors[member] for member in members}
        found = list(rows.values())  # a row that has gone in the meantime is missing
        if len(found) < 2:
            continue
        first = min(found, key=lambda row: (-row.width * row.height, -row.size, row.path))
        scores = {row.id: min(1.0, float(of[row.id] @ of[first.id])) for row in found} | {first.id: 1.0}
        found.sort(key=lambda row: (row.id != first.id, -scores[row.id], row.path))
        groups.append(DuplicateGroup(tuple(found), tuple(scores[row.id] for row in found)))
    groups.sort(key=lambda group: (-len(group.rows), group.rows[0].path))
    return Duplicates(tuple(groups), len(ids), threshold, time.perf_counter() - started)


def linked(
    vectors: np.ndarray,
    threshold: float,
    *,
    device: str = "cpu",
    block: int = _BLOCK,
    progress: Callable[[float], object] | None = None,
) -> list[list[int]]:
    """Positions of vectors that are linked by cosine similarities of at least `threshold`; groups of two or more.

    Args:
        vectors: float32 (n, D), unit length.

    Memory beyond the vectors does not grow with n.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is {threshold}: choose a cosine similarity above 0, at most 1")
    # Equal float32 vectors have a product that rounding puts a little below 1.
    lowest = min(threshold, 1 - 1e-6)
    parent = list(range(len(vectors)))
    starts = range(0, len(vectors), block)
    for turn, start in enumerate(starts):
        here = torch.from_numpy(vectors[start : start + block]).to(device)
        for other in starts[turn:]:
            similar = here @ torch.from_numpy(vectors[other : other + block]).to(device).T >= lowest
            if other == start:
                similar.fill_diagonal_(False)
            pairs = similar.nonzero().cpu().numpy()
            if len(pairs):
                _link(parent, pairs[:, 0] + start, pairs[:, 1] + other)
        if progress is not None:
            rest = 1 - (turn + 1) / len(starts)
            progress(1 - rest * rest)
    members: dict[int, list[int]] = {}
    for one in range(len(vectors)):
        members.setdefault(_root(parent, one), []).append(one)
    return [group for group in members.values() if len(group) > 1]


def _link(parent: list[int], left: np.ndarray, right: np.ndarray) -> None:
    """Join what pairs join. Pairs may be millions where a block is full of copies: scipy sees them first."""
    nodes, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    edges = coo_array((np.ones(len(left), bool), (places[: len(left)], places[len(left) :])), shape=(len(nodes),) * 2)
    _, labels = connected_components(edges, directed=False)
    first: dict[int, int] = {}
    for node, label in zip(nodes.tolist(), labels.tolist(), strict=True):
        mine, its = _root(parent, node), _root(parent, first.setdefault(label, node))
        parent[max(mine, its)] = min(mine, its)


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _read(index: "Index", where: str | None) -> tuple[list[str], np.ndarray]:
    """Ids and embeddings of the rows that meet a condition."""
    vectors = np.empty((len(index), index.embedding_size), np.float32)
    ids: list[str] = []
    for batch in index.scan(("id", "embedding"), where):
        start = len(ids)
        ids += batch.column("id").to_pylist()
        if len(ids) > len(vectors):  # rows were added since
            vectors = np.concatenate([vectors, np.empty((len(ids), vectors.shape[1]), np.float32)])
        flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
        vectors[start : len(ids)] = flat.reshape(-1, vectors.shape[1])
    return ids, vectors[: len(ids)]
