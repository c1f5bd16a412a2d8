"""Which pictures make a batch, and which pairs of it are judged.

`ClassBalancedBatches` is a pure function of (seed, step): its state is the step number, so that a resumed run
draws the same batches. `sample_pairs` draws from the generator that it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch


class ClassBalancedBatches:
    """Batches of ``batch_size / images_per_class`` different classes with `images_per_class` pictures each.

    In each epoch the pictures of every class are shuffled and cut into groups of `images_per_class`; a batch takes
    one group of each of the classes that have most groups left (ties by lot), which gives the largest number of
    batches; then the batches are shuffled. No picture comes twice in an epoch, except in classes that have fewer
    than `images_per_class` pictures: they repeat some to fill their only group. What does not fill a group or a
    batch is left out of this epoch; which pictures these are differs from epoch to epoch. Classes with a single
    picture have no positive and are never drawn (`left_out`).

    Args:
        labels: int (n,), the class of each picture.
        batch_size: B, a multiple of `images_per_class`.
        images_per_class: m, at least 2.
        seed: of the whole sequence of batches.

    Raises:
        ValueError: B is no multiple of m, or fewer than B / m classes have two pictures.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray | torch.Tensor, batch_size: int, images_per_class: int, seed: int
    ) -> None:
        known = _as_labels(labels)
        if images_per_class < 2:
            raise ValueError(f"images_per_class must be at least 2 (a positive is needed), got {images_per_class}")
        if batch_size < images_per_class or batch_size % images_per_class:
            raise ValueError(f"batch_size must be a multiple of images_per_class={images_per_class}, got {batch_size}")
        by_class = [np.flatnonzero(known == c) for c in np.unique(known)]
        self.left_out: tuple[int, ...] = tuple(int(known[own[0]]) for own in by_class if len(own) < 2)
        """Classes with a single picture."""
        self._by_class = [own for own in by_class if len(own) >= 2]
        self._classes_per_batch = batch_size // images_per_class
        if not self._by_class:
            raise ValueError("no class has two pictures: there is nothing that a picture could be pulled towards")
        if len(self._by_class) < self._classes_per_batch:
            raise ValueError(
                f"a batch of {batch_size} with {images_per_class} of each class needs {self._classes_per_batch} "
                f"classes with two pictures, but there are {len(self._by_class)}: lower batch_size to at most "
                f"{len(self._by_class) * images_per_class}, or raise images_per_class"
            )
        self._images_per_class = images_per_class
        self._seed = seed
        self._groups = np.array([max(1, len(own) // images_per_class) for own in self._by_class])
        self.batches_per_epoch: int = self._count_batches()
        """Batches until the pictures are shuffled anew."""
        self._epoch: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> np.ndarray:
        """Indices of the pictures of batch `step` ≥ 0: int64 (B,), class by class."""
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        epoch, within = divmod(step, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:  # kept only to save time
            self._epoch = (epoch, self._draw_epoch(epoch))
        return self._epoch[1][within].copy()

    def _count_batches(self) -> int:
        """The largest T with Σ min(groups, T) ≥ T · P: T batches of P different classes can be filled."""
        low, high = 1, int(self._groups.sum()) // self._classes_per_batch
        while low < high:
            middle = (low + high + 1) // 2
            if int(np.minimum(self._groups, middle).sum()) >= middle * self._classes_per_batch:
                low = middle
            else:
                high = middle - 1
        return low

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """int64 (batches per epoch, B)."""
        rng = np.random.default_rng([self._seed, epoch])
        m = self._images_per_class
        groups = [np.resize(rng.permutation(own), (count, m)) for own, count in zip(self._by_class, self._groups)]
        left = self._groups.copy()
        batches = []
        for _ in range(self.batches_per_epoch):
            # A random number below 1 decides between classes with equally many groups.
            chosen = np.argsort(-(left + rng.random(len(left))), kind="stable")[: self._classes_per_batch]
            batches.append(np.concatenate([groups[c][left[c] - 1] for c in chosen]))
            left[chosen] -= 1
        return np.stack([batches[i] for i in rng.permutation(len(batches))]).astype(np.int64)


@dataclass(frozen=True)
class Pair:
    """Two different positions, and whether their classes are the same."""

    a: int
    b: int
    same: bool


def sample_pairs(
    labels: Sequence[int] | np.ndarray | torch.Tensor,
    num_pairs: int,
    generator: torch.Generator,
    different: Literal["random", "hard"] = "random",
    embeddings: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> list[Pair]:
    """Half same-class, half different-class pairs; of an odd number the extra one is different.

    No pair comes twice, in neither order, and no picture is paired with itself. Different and same pairs alternate,
    so that every beginning of the list is balanced too; which of the two pictures is `a` is decided by lot.

    Same pairs: a class by lot among those that have pairs left, then one of its pairs. Different pairs: "random"
    draws uniformly from all of them; "hard" goes through the pictures in random order and takes for each the
    different-class picture with the largest cosine that is not paired with it yet.

    With `weights`, both kinds are drawn from all their pairs, one after the other, each time with probability
    proportional to the weight of a pair among those left.

    Args:
        labels: int (n,).
        num_pairs: how many in all.
        generator: a CPU generator, the only source of chance.
        different: "random" or "hard".
        embeddings: (n, d), for "hard"; need not be normalised.
        weights: (n, n), symmetric, positive and finite: how often a pair is drawn, relative to others of its kind.
            Not together with "hard".

    Raises:
        ValueError: no class has two pictures, there is a single class, fewer different pairs exist than are wanted,
            `embeddings` are missing, of another length, or not finite, or `weights` are not what they must be.
    """
    known = _as_labels(labels)
    if num_pairs < 1:
        raise ValueError(f"num_pairs must be at least 1, got {num_pairs}")
    if different not in ("random", "hard"):
        raise ValueError(f'different must be "random" or "hard", got {different!r}')
    num_same, num_different = num_pairs // 2, num_pairs - num_pairs // 2
    sizes = np.unique(known, return_counts=True)[1]
    all_same = int((sizes * (sizes - 1) // 2).sum())
    all_different = len(known) * (len(known) - 1) // 2 - all_same
    if num_same and not all_same:
        raise ValueError("no class has two pictures, so there is no same-class pair: give more pictures per class")
    if not all_different:
        raise ValueError("all pictures are of one class, so there is no different-class pair: give more classes")
    for wanted, there, kind in ((num_same, all_same, "same"), (num_different, all_different, "different")):
        if wanted > there:
            raise ValueError(
                f"{num_pairs} pairs need {wanted} {kind}-class ones, but these {len(known)} pictures have only "
                f"{there}: lower num_pairs or raise batch_size"
            )
    if weights is not None and different == "hard":
        raise ValueError('different="hard" takes the nearest pairs, so weights would have no effect: use "random"')
    if weights is not None:
        chances = _as_weights(weights, len(known))
        others = _weighted_pairs(known, num_different, chances, generator, same=False)
        sames = _weighted_pairs(known, num_same, chances, generator, same=True)
    elif different == "hard":
        if embeddings is None:
            raise ValueError('different="hard" needs embeddings')
        others = _hard_pairs(known, num_different, _as_embeddings(embeddings, len(known)), generator)
    else:
        others = _random_different_pairs(known, num_different, all_different, generator)
    if weights is None:
        sames = _same_pairs(known, num_same, generator)
    swap = torch.rand(num_pairs, generator=generator).tolist()
    ordered = [(others if i % 2 == 0 else sames)[i // 2] for i in range(num_pairs)]
    return [
        Pair(b, a, same=i % 2 == 1) if s < 0.5 else Pair(a, b, same=i % 2 == 1)
        for i, ((a, b), s) in enumerate(zip(ordered, swap, strict=True))
    ]


def _same_pairs(labels: np.ndarray, count: int, generator: torch.Generator) -> list[tuple[int, int]]:
    classes = [own for own in (np.flatnonzero(labels == c) for c in np.unique(labels)) if len(own) > 1]
    left = [len(own) * (len(own) - 1) // 2 for own in classes]
    open_classes = list(range(len(classes)))
    used: set[tuple[int, int]] = set()
    pairs: list[tuple[int, int]] = []
    for _ in range(count):
        c = open_classes[_below(len(open_classes), generator)]
        own = classes[c]
        if left[c] * 4 > len(own) * (len(own) - 1) // 2:  # most pairs are free: try until one is
            pair = _two_of(own, generator)
            while pair in used:
                pair = _two_of(own, generator)
        else:
            free = [(int(a), int(b)) for i, a in enumerate(own) for b in own[i + 1 :] if (a, b) not in used]
            pair = free[_below(len(free), generator)]
        used.add(pair)
        pairs.append(pair)
        left[c] -= 1
        if not left[c]:
            open_classes.remove(c)
    return pairs


def _two_of(own: np.ndarray, generator: torch.Generator) -> tuple[int, int]:
    i = _below(len(own), generator)
    j = _below(len(own) - 1, generator)
    a, b = int(own[i]), int(own[j + (j >= i)])
    return (a, b) if a < b else (b, a)


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


def _random_different_pairs(
    labels: np.ndarray, count: int, available: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    n = len(labels)
    if available <= 4 * count:  # few: list them all
        a, b = np.nonzero(np.triu(labels[:, None] != labels[None, :]))
        chosen = torch.randperm(len(a), generator=generator)[:count].numpy()
        return [(int(x), int(y)) for x, y in zip(a[chosen], b[chosen], strict=True)]
    # Uniform without listing n² pairs: the first by its number of partners, the second uniformly among these.
    order = np.argsort(labels, kind="stable")
    start = np.searchsorted(labels[order], labels, side="left")
    size = np.searchsorted(labels[order], labels, side="right") - start
    weights = np.cumsum(n - size)
    found: dict[tuple[int, int], None] = {}
    while len(found) < count:
        first = int(np.searchsorted(weights, _below(int(weights[-1]), generator), side="right"))
        second = _below(n - int(size[first]), generator)
        second = int(order[second + (int(size[first]) if second >= start[first] else 0)])
        found[(first, second) if first < second else (second, first)] = None
    return list(found)


def _hard_pairs(
    labels: np.ndarray, count: int, embeddings: torch.Tensor, generator: torch.Generator
) -> list[tuple[int, int]]:
    known = torch.from_numpy(labels)
    partners: dict[int, list[int]] = {}
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        for anchor in torch.randperm(len(labels), generator=generator).tolist():
            cosine = embeddings @ embeddings[anchor]
            cosine[known == known[anchor]] = -torch.inf
            cosine[partners.get(anchor, [])] = -torch.inf
            nearest = int(cosine.argmax())
            if cosine[nearest] == -torch.inf:
                continue  # this picture is paired with every other class's pictures already
            partners.setdefault(anchor, []).append(nearest)
            partners.setdefault(nearest, []).append(anchor)
            pairs.append((anchor, nearest))
            if len(pairs) == count:
                break
    return pairs


def _weighted_pairs(
    labels: np.ndarray, count: int, weights: torch.Tensor, generator: torch.Generator, *, same: bool
) -> list[tuple[int, int]]:
    """`count` different pairs without replacement, by weight: the largest log-weights plus Gumbel noise.

    That the order of such keys is a draw without replacement: Vieira 2014; Kool et al., arXiv 1903.06059, section 2.
    """
    alike = labels[:, None] == labels[None, :]
    a, b = (torch.from_numpy(index) for index in np.nonzero(np.triu(alike == same, k=1)))
    # Exponential noise instead of a uniform one: its logarithm is finite for every number that can be drawn but 0.
    noise = torch.empty(len(a), dtype=torch.float64).exponential_(generator=generator).clamp_min(1e-300)
    keys = weights[a, b].log() - noise.log()
    best = keys.argsort(descending=True, stable=True)[:count]
    return list(zip(a[best].tolist(), b[best].tolist(), strict=True))


def _as_weights(weights: torch.Tensor, count: int) -> torch.Tensor:
    """float64 (n, n) on the CPU."""
    if weights.shape != (count, count):
        raise ValueError(f"weights must be ({count}, {count}), one per pair of labels; got {tuple(weights.shape)}")
    known = weights.detach().to("cpu", torch.float64)
    if not bool((torch.isfinite(known) & (known > 0)).all()) or not torch.equal(known, known.T):
        raise ValueError("weights must be positive, finite and symmetric: the weight of a pair has no order")
    return known


def _as_labels(labels: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    known = np.asarray(labels)
    if known.ndim != 1 or known.size == 0 or known.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers (n,) with n ≥ 1, got {known.dtype} {known.shape}")
    return known.astype(np.int64)


def _as_embeddings(embeddings: torch.Tensor, count: int) -> torch.Tensor:
    """float32 (n, d) on the CPU, rows of length 1."""
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise ValueError(f"embeddings must be ({count}, d), one row per label; got {tuple(embeddings.shape)}")
    rows = embeddings.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("embeddings hold NaN or infinite values: the encoder has diverged")
    return torch.nn.functional.normalize(rows, dim=1)
