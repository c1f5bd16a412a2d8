"""Why do two pictures match? The cosine of their embeddings, split exactly over pairs of patches.

A pooler (`models.pooler`, arXiv 2606.15134 section 3) ends in z = u / |u|, u = W_o p. Up to the normalisation, which is
one number per picture, everything behind the tokens X is linear in what it takes of each token:

    attention, mean:  p = Σ_i β_i x_i         what patch i gives to u:  v_i = W_o (β_i x_i)    (mean: β_i = 1/N)
    max:              p = Σ_i m_i ⊙ x_i       m_i: 1 in coordinates where x_i is largest, 1/k where k are

u = Σ_i v_i for all three, so with v̂_i = v_i / |u| the embedding is z = Σ_i v̂_i, and

    cos(a, b)     = Σ_ij ⟨v̂_i, v̂_j⟩                                  (N_a, N_b): what patches i and j carry together
    1 − cos(a, b) = ½ |z_a − z_b|² = Σ_i δ_i + Σ_j δ_j                what each patch does to keep the two apart
    δ_i = ½ ⟨v̂_i, z_a − z_b⟩,   δ_j = ½ ⟨v̂_j, z_b − z_a⟩            each half sums to (1 − cos) / 2

Embeddings of one encoder often share a large common part, and then every pair of patches carries a little of the
cosine, according to their weights alone. With the margins r_i = Σ_j C_ij and c_j = Σ_i C_ij of the contributions C,

    C_ij = r_i c_j / cos + S_ij

splits off what two patches carry *together*, beyond what each carries with the other picture as a whole. Rows and
columns of S sum to zero; its largest entries are the correspondences.

If a mean embedding m of a collection is known, the common part can be taken away instead, each patch giving back its
share of m according to its weight:

    d_i = v̂_i − β_i m,    ⟨z_a − m, z_b − m⟩ = Σ_ij ⟨d_i, d_j⟩ = cos − ⟨z_a, m⟩ − ⟨z_b, m⟩ + |m|²

which is how much nearer the two are than pictures of the collection on average. Divided by |z_a − m| |z_b − m| it is
the centred cosine, again from −1 to 1, and C_ij are its parts. With the common part gone, the largest C_ij themselves
are the correspondences: a product of margins means nothing for a sum that may be near zero or below it. The differences
δ depend on z_a − z_b alone and are the same with and without m.

Parts may be negative: patches that pull the embeddings apart in the first sum, together in the second. The weights are
taken as they are: how β itself came about, and what the tower has mixed into a token from its neighbours, is not
explained. Poolers have no layer normalisation; one behind the sum would have to become a part of W_o here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fieldmark.models.pooler import Pooler, PoolerKind
from fieldmark.models.retrieval_encoder import RetrievalEncoder

Picture = Image.Image | np.ndarray | Tensor
_NOTHING_LEFT = 1e-6
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Correspondence:
    """Two patches, (row, column) of each; what they carry of the cosine that is explained, and how much of it is beyond
    their shares (of the centred cosine: all of it)."""

    a: tuple[int, int]
    b: tuple[int, int]
    contribution: float
    specific: float


@dataclass(frozen=True, eq=False)
class MatchExplanation:
    """Two pictures under one encoder; patches row-major, grids (H, W) of merged patches; all float64.

    Attributes:
        cosine: of the two embeddings, as the encoder computes them.
        pooler: attention, mean or max.
        attention_a, attention_b: (H, W), weight of each patch in the embedding, sums to 1. Mean pooling: all alike.
            Max pooling, which weighs numbers instead of patches: the share of a token's numbers taken from the patch.
        contribution: (N_a, N_b), sums to the centred cosine if there is one, else to the cosine.
        difference_a, difference_b: (H, W); both together sum to 1 − cosine.
        centred_cosine: of the two embeddings minus the mean embedding of a collection; None: no mean was given.
    """

    cosine: float
    pooler: PoolerKind
    attention_a: np.ndarray
    attention_b: np.ndarray
    contribution: np.ndarray
    difference_a: np.ndarray
    difference_b: np.ndarray
    centred_cosine: float | None = None

    @property
    def explained_cosine(self) -> float:
        """What the contributions sum to: the centred cosine if there is one, else the cosine."""
        return self.cosine if self.centred_cosine is None else self.centred_cosine

    @property
    def similarity_a(self) -> np.ndarray:
        """(H, W): what each patch of a carries with all of b; sums to the explained cosine."""
        return self.contribution.sum(1).reshape(self.attention_a.shape)

    @property
    def similarity_b(self) -> np.ndarray:
        """(H, W): what each patch of b carries with all of a; sums to the explained cosine."""
        return self.contribution.sum(0).reshape(self.attention_b.shape)

    @property
    def specific(self) -> np.ndarray:
        """S, (N_a, N_b): contributions without the product of their margins; all of them where they sum to 0 and where
        they are centred, for then what is common to all pictures is gone already."""
        total = float(self.contribution.sum())
        if self.centred_cosine is not None or abs(total) < 1e-9:
            return self.contribution
        return self.contribution - np.outer(self.contribution.sum(1), self.contribution.sum(0)) / total

    def strongest(self, count: int, *, each_patch_once: bool = True) -> tuple[Correspondence, ...]:
        """Pairs of patches that carry most beyond their shares, largest ``specific`` first; only positive ones.

        each_patch_once: a patch stands in one pair only, so that one patch does not fill the list.
        """
        if count < 0:
            raise ValueError(f"the number of pairs cannot be negative, got {count}")
        specific, columns = self.specific, self.contribution.shape[1]
        wide_a, wide_b = self.attention_a.shape[1], self.attention_b.shape[1]
        found: list[Correspondence] = []
        seen_a: set[int] = set()
        seen_b: set[int] = set()
        for place in np.argsort(-specific, axis=None, kind="stable").tolist():
            i, j = divmod(place, columns)
            value = float(specific[i, j])
            if len(found) == count or value <= 0:
                break
            if each_patch_once and (i in seen_a or j in seen_b):
                continue
            seen_a.add(i)
            seen_b.add(j)
            places = divmod(i, wide_a), divmod(j, wide_b)
            found.append(Correspondence(*places, contribution=float(self.contribution[i, j]), specific=value))
        return tuple(found)

    def as_json(self, *, correspondences: int = 12, full: bool = True) -> dict[str, Any]:
        """Plain values. full: with the (N_a, N_b) contributions, which are many numbers on fine grids."""

        def plain(values: np.ndarray) -> list[Any]:
            return np.round(values, 9).tolist()

        content: dict[str, Any] = {
            "cosine": self.cosine,
            "centred_cosine": self.centred_cosine,
            "pooler": self.pooler,
            "grid_a": list(self.attention_a.shape),
            "grid_b": list(self.attention_b.shape),
            "attention_a": plain(self.attention_a),
            "attention_b": plain(self.attention_b),
            "similarity_a": plain(self.similarity_a),
            "similarity_b": plain(self.similarity_b),
            "difference_a": plain(self.difference_a),
            "difference_b": plain(self.difference_b),
            "correspondences": [
                {
                    "a": list(one.a),
                    "b": list(one.b),
                    "contribution": round(one.contribution, 9),
                    "specific": round(one.specific, 9),
                }
                for one in self.strongest(correspondences)
            ],
        }
        return content | {"contribution": plain(self.contribution)} if full else content


@torch.no_grad()
def explain_pair(
    encoder: RetrievalEncoder,
    a: Picture,
    b: Picture,
    *,
    dimensions: int | None = None,
    centre: Tensor | None = None,
) -> MatchExplanation:
    """Explain the match of two pictures.

    Args:
        a, b: PIL pictures, which are resized as `RetrievalEncoder.encode` does; or uint8 (H, W, 3) arrays or tensors,
            used as they are (H and W multiples of the encoder's patches; the two sizes may differ).
        dimensions: explain the cosine of embeddings cut to their first numbers, as `encode` cuts them.
        centre: (D_e,), the mean of a collection's embeddings as `encode` gives them, itself not normalised: explain the
            centred cosine. With dimensions, the mean of embeddings that were cut and normalised in the same way: the
            first numbers of the mean of whole ones are something else.

    Raises:
        ValueError: pictures of another kind or size, dimensions that the encoder does not have, an embedding of length
            zero, a centre of another size or one that is no mean of embeddings, or an embedding that equals it.
    """
    return explain_pairs(encoder, [a, b], [(0, 1)], dimensions=dimensions, centre=centre)[0]


@torch.no_grad()
def explain_pairs(
    encoder: RetrievalEncoder,
    pictures: Sequence[Picture],
    pairs: Sequence[tuple[int, int]],
    *,
    dimensions: int | None = None,
    centre: Tensor | None = None,
) -> list[MatchExplanation]:
    """`explain_pair` for several pairs of positions in ``pictures``; the tower runs once over all pictures."""
    size = encoder.embedding_size if dimensions is None else dimensions
    if not 1 <= size <= encoder.embedding_size:
        raise ValueError(f"dimensions is {size}: choose a size from 1 to {encoder.embedding_size}")
    if bad := [i for pair in pairs for i in pair if not 0 <= i < len(pictures)]:
        raise ValueError(f"pictures {bad} asked for, but there are {len(pictures)}")
    mean = None if centre is None else _checked_centre(centre, size)
    training = encoder.training
    encoder.eval()
    try:
        vision = encoder.tokens([picture_pixels(one, encoder.image_size) for one in pictures])
        embeddings = nn.functional.normalize(encoder.pool(vision).embedding[:, :size], dim=-1).double().cpu()
        shares = [token_shares(encoder.pooler, tokens, size) for tokens in vision.split()]
    finally:
        encoder.train(training)
    grids = vision.grids
    return [
        _explanation(
            shares[i], shares[j], grids[i], grids[j], float(embeddings[i] @ embeddings[j]), encoder.pooler.kind, mean
        )
        for i, j in pairs
    ]


@dataclass(frozen=True, eq=False)
class TokenShares:
    """Of one picture. weight: (N,) float64, sums to 1. parts: v̂, (N, D_e) float64, sums to the embedding."""

    weight: Tensor
    parts: Tensor


def token_shares(pooler: Pooler, tokens: Tensor, size: int) -> TokenShares:
    """What each of (N, D) tokens gives to the embedding, cut to its first ``size`` numbers and normalised again.

    Raises:
        ValueError: an embedding of length zero.
    """
    tokens = tokens.float()
    if pooler.kind == "max":
        winners = (tokens == tokens.amax(0)).double()
        taken = winners / winners.sum(0)
        weight, weighted = taken.mean(1), taken * tokens.double()
    else:
        attention = pooler(tokens[None]).attention
        if attention is None:
            weight = torch.full((len(tokens),), 1 / len(tokens), dtype=torch.float64, device=tokens.device)
        else:
            weight = attention[0].double()
            weight = weight / weight.sum()  # float32 leaves 1e-7
        weighted = weight[:, None] * tokens.double()
    parts = weighted if pooler.projection is None else weighted @ pooler.projection.weight.double().T
    parts = parts[:, :size]
    length = float(parts.sum(0).norm())
    if length < 1e-12:
        raise ValueError("the embedding of one of the pictures has length 0: there is no cosine to explain")
    return TokenShares(weight.cpu(), parts.cpu() / length)


def centred_shares(shares: TokenShares, centre: Tensor) -> TokenShares:
    """The same tokens without the centre, each without its share of it: parts sum to the embedding minus the centre.

    Args:
        centre: (D_e,) float64.

    Raises:
        ValueError: nothing is left of the embedding.
    """
    parts = shares.parts - shares.weight[:, None] * centre
    if float(parts.sum(0).norm()) < _NOTHING_LEFT:
        raise ValueError(
            "the embedding of one of the pictures is the centre itself: there is no centred cosine to explain. Is the "
            "centre the mean of one picture alone?"
        )
    return TokenShares(shares.weight, parts)


def _checked_centre(centre: Tensor, size: int) -> Tensor:
    """float64 on the processor."""
    if centre.shape != (size,):
        raise ValueError(
            f"the centre has the shape {tuple(centre.shape)}, the embeddings that are explained have {size} numbers: "
            "give the mean of embeddings of this size, cut and normalised as they are"
        )
    centre = centre.detach().double().cpu()
    length = float(centre.norm())
    if not length <= 1 + _UNIT_TOLERANCE:  # also true for NaN
        raise ValueError(
            f"the centre has the length {length:.4g}, but no mean of embeddings of length 1 is longer than 1: give "
            "their mean, not their sum"
        )
    return centre


def _explanation(
    a: TokenShares,
    b: TokenShares,
    grid_a: tuple[int, int],
    grid_b: tuple[int, int],
    cosine: float,
    kind: PoolerKind,
    centre: Tensor | None,
) -> MatchExplanation:
    embedding_a, embedding_b = a.parts.sum(0), b.parts.sum(0)
    # float32 embeddings against float64 parts
    assert abs(float(embedding_a @ embedding_b) - cosine) < 1e-4, (float(embedding_a @ embedding_b), cosine)
    apart = (embedding_a - embedding_b) / 2
    if centre is None:
        contribution = a.parts @ b.parts.T
    else:
        left, right = centred_shares(a, centre).parts, centred_shares(b, centre).parts
        contribution = left @ right.T / (left.sum(0).norm() * right.sum(0).norm())
    return MatchExplanation(
        cosine=cosine,
        pooler=kind,
        attention_a=a.weight.reshape(grid_a).numpy(),
        attention_b=b.weight.reshape(grid_b).numpy(),
        contribution=contribution.numpy(),
        difference_a=(a.parts @ apart).reshape(grid_a).numpy(),
        difference_b=-(b.parts @ apart).reshape(grid_b).numpy(),
        centred_cosine=None if centre is None else float(contribution.sum()),
    )


def picture_pixels(picture: Picture, side: int) -> Tensor:
    """uint8 (H, W, 3), as `RetrievalEncoder.encode` makes them of the same pictures."""
    if isinstance(picture, Image.Image):
        picture = np.array(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.ascontiguousarray(picture)) if isinstance(picture, np.ndarray) else picture
