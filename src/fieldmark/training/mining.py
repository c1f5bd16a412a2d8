"""After-verdict mining: which pairs of a micro-batch deserve to be shown more often.

Two sources, both a *difficulty* in [0, 1] for every pair of a micro-batch's pictures: what the supervisor got wrong
about these two classes (`VerdictMemory`), and what the embedding confuses (`embedding_difficulty`). They become
weights of `data.samplers.sample_pairs`: weight = 1 + strength · difficulty.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldmark.policy.rollouts import RolloutGroup

MAX_CLASSES = 8000
"""Above it the table of class pairs (two float32 per pair) would take more than 512 MB in memory and checkpoint."""


class VerdictMemory:
    """How often verdicts on pairs of classes were wrong, older ones counting less.

    Two pictures hardly ever meet twice, so what is remembered is about classes. With w wrong out of n (both faded by
    `memory` whenever the cell is written), the difficulty of

        a pair (a, b) of different classes:  (w_ab + m) / (n_ab + 1),  m = mean of the rates of a and of b
        class a with others:                 (w_a  + r) / (n_a  + 1),  r = rate of all different-class pairs
        two pictures of class a:             (w_aa + s) / (n_aa + 1),  s = rate of all same-class pairs

    and r, s start at one half: each level is worth one observation to the next. So a class never seen counts as its
    kind on average, a pair of classes never seen as its two classes.

    Args:
        num_classes: k.
        memory: what earlier observations of a cell count at each new one, in (0, 1].

    Raises:
        ValueError: more than `MAX_CLASSES` classes.
    """

    def __init__(self, num_classes: int, memory: float) -> None:
        if num_classes > MAX_CLASSES:
            raise ValueError(
                f"pairs.mining by verdict keeps a table of all pairs of {num_classes} classes, of at most "
                f"{MAX_CLASSES}: set pairs.mining to embedding or none"
            )
        self.memory = memory
        k = num_classes
        self.tensors: dict[str, Tensor] = {
            "pair_wrong": torch.zeros(k, k),
            "pair_seen": torch.zeros(k, k),
            "class_wrong": torch.zeros(k),
            "class_seen": torch.zeros(k),
            "kind_wrong": torch.zeros(2),
            "kind_seen": torch.zeros(2),
        }
        """Everything that is remembered, for the checkpoint; kind 0 is different classes, 1 the same class."""

    def update(self, groups: Iterable[RolloutGroup], labels: Tensor) -> None:
        """Remember the verdicts of groups, contributing or not.

        Args:
            groups: their pairs count positions in `labels`.
            labels: int64 (n,), classes of the micro-batch.
        """
        for group in groups:
            a, b = (int(labels[i]) for i in group.pair)
            wrong = 1.0 - sum(group.correct) / len(group.correct)
            for cell in {(a, b), (b, a)}:
                self._write("pair", cell, wrong)
            self._write("kind", int(group.same), wrong)
            if not group.same:
                self._write("class", a, wrong)
                self._write("class", b, wrong)

    def _write(self, table: str, cell: int | tuple[int, int], wrong: float) -> None:
        for name, value in ((f"{table}_wrong", wrong), (f"{table}_seen", 1.0)):
            tensor = self.tensors[name]
            tensor[cell] = self.memory * tensor[cell] + value

    def difficulty(self, labels: Tensor) -> Tensor:
        """float64 (n, n), symmetric, in [0, 1]: the estimated share of wrong verdicts on each pair of pictures."""
        t = {name: tensor.double() for name, tensor in self.tensors.items()}
        labels = labels.cpu()
        kind = (t["kind_wrong"] + 0.5) / (t["kind_seen"] + 1)
        of_class = ((t["class_wrong"] + kind[0]) / (t["class_seen"] + 1))[labels]
        same = labels[:, None] == labels[None, :]
        prior = torch.where(same, kind[1], (of_class[:, None] + of_class[None, :]) / 2)
        cells = (labels[:, None], labels[None, :])
        return (t["pair_wrong"][cells] + prior) / (t["pair_seen"][cells] + 1)


def embedding_difficulty(embeddings: Tensor, labels: Tensor) -> Tensor:
    """float64 (n, n), symmetric, in [0, 1]: how much the embedding confuses each pair, among the pairs of its kind.

    The share of pairs of the same kind that are less confused: different-class pairs by rising cosine, same-class pairs
    by falling cosine. Ranks, because cosines of one run crowd near 1 and those of another do not. The diagonal is 0.

    Args:
        embeddings: (n, d), need not be normalised.
        labels: int64 (n,).

    Raises:
        ValueError: embeddings that are not finite.
    """
    rows = embeddings.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("embeddings hold NaN or infinite values: the encoder has diverged")
    rows, labels = F.normalize(rows, dim=1), labels.cpu()
    cosine = rows @ rows.T
    alike = labels[:, None] == labels[None, :]
    upper = torch.triu(torch.ones_like(alike), diagonal=1)
    result = torch.zeros(cosine.shape, dtype=torch.float64)
    for kind, confusion in ((~alike, cosine), (alike, -cosine)):
        a, b = (kind & upper).nonzero(as_tuple=True)
        if len(a) == 0:
            continue
        ranks = torch.empty(len(a), dtype=torch.float64)
        ranks[confusion[a, b].argsort(stable=True)] = torch.arange(len(a), dtype=torch.float64)
        result[a, b] = result[b, a] = ranks / max(1, len(a) - 1)
    return result


def pair_weights(labels: Tensor, strength: float, memory: VerdictMemory | None, embeddings: Tensor | None) -> Tensor:
    """Weights (n, n) for `sample_pairs`: 1 + strength · mean difficulty over the sources given (one at least)."""
    sources = [] if memory is None else [memory.difficulty(labels)]
    sources += [] if embeddings is None else [embedding_difficulty(embeddings, labels)]
    assert sources, "mining needs a source"
    return 1 + strength * torch.stack(sources).mean(0)
