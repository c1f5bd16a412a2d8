"""Potential Field metric loss (PFML, CVPR 2025, arXiv 2405.18560).

Every point, an embedding of the batch or a learnable proxy of a class, carries a field that attracts points
of its own class and repels all others, and whose pull *fades* with distance:

    psi_att(d) = -delta^-alpha  if d < delta, else -d^-alpha      (flat inside delta: no pull on what is near
    enough)
    psi_rep(d) =  d^-alpha      if d < delta, else  delta^-alpha  (flat outside delta: no push on what is far
    enough) Psi_j(r)   = sum over points of class j of psi_att + sum over points of other classes of psi_rep
    U          = sum_i Psi_{y_i}(z_i) + sum_{j,k} Psi_j(p_{j,k})

so U is the sum of psi over all ordered pairs of two *different* points. A point does not act on itself.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fieldmark.losses.precision import full_float32

MIN_DISTANCE = 1e-4
"""Distances are clamped to at least this: d^-alpha stays finite, and coinciding points exert no force."""

_NEAR_SQUARED = 1e-2
"""Below this squared distance |a|^2 + |b|^2 - 2ab loses too many digits; such pairs are subtracted."""

_MAX_ELEMENTS = 2**24
"""Numbers per temporary matrix (64 MB in float32); rows are taken in chunks of that size."""

Reduction = Literal["mean", "sum"]


def potential_field(
    embeddings: Tensor,
    labels: Tensor,
    proxies: Tensor,
    delta: float = 0.2,
    alpha: float = 3.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Total potential of a batch and the proxies of all classes.

    Args:
        embeddings: (B, D_e); L2-normalised here.
        labels: (B,) integers in [0, C).
        proxies: (C, M, D_e), M per class; L2-normalised here, so that they live on the sphere of the
            embeddings.
        delta: radius (Euclidean, on the unit sphere, so in (0, 2)) inside which attraction and outside which
            repulsion is flat.
        alpha: decay of the field, > 0.
        reduction: ``"sum"`` returns U as published. ``"mean"``, what SAGA uses, returns **U / B**: all of U,
            the proxies' own potential included, divided by the number of embeddings in the batch and by
            nothing else. The two differ by that factor only, in value and in gradient.

    Returns:
        Scalar. float32, or float64 if the embeddings are float64. Constant (flat) pairs dominate the value,
        about delta^-alpha times the number of pairs: watch its change, not its size.

    Computed in float32 whatever autocast says. Memory is linear in the number of points: gradients are formed
    in the forward pass, chunk by chunk, because U is a scalar. No second derivatives.

    Raises:
        ValueError: wrong shapes, labels outside the proxies' classes, delta or alpha out of range.
    """
    _check(embeddings, labels, proxies, delta, alpha, reduction)
    num_classes, per_class, _ = proxies.shape
    dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
    with full_float32(embeddings.device):
        points = torch.cat([embeddings.to(dtype), proxies.flatten(0, 1).to(dtype)])
        points = F.normalize(points, dim=1)
        proxy_labels = torch.arange(num_classes, device=labels.device).repeat_interleave(per_class)
        energy = _TotalPotential.apply(points, torch.cat([labels, proxy_labels]), delta, alpha)
        return energy / len(embeddings) if reduction == "mean" else energy


class PotentialField(nn.Module):
    """`potential_field` with its proxies, a parameter of shape (C, M, D_e) to be trained at 100x the pooler's
    rate.

    Args:
        num_classes, embedding_size: C and D_e.
        proxies_per_class: M; 15 as published, 2 where classes have few images.
        delta, alpha, reduction: see `potential_field`.
        generator: source of the proxies' random directions. Their initial spread, sqrt(2 / C) per coordinate,
            is Proxy-Anchor's; only its ratio to the learning rate matters, since proxies are normalised when
            used.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        proxies_per_class: int = 15,
        delta: float = 0.2,
        alpha: float = 3.0,
        reduction: Reduction = "mean",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if proxies_per_class < 1:
            raise ValueError(f"proxies_per_class is {proxies_per_class}; at least one proxy per class is needed")
        _check_field(delta, alpha, reduction)
        self.delta, self.alpha, self.reduction = delta, alpha, reduction
        proxies = torch.randn(num_classes, proxies_per_class, embedding_size, generator=generator)
        self.proxies = nn.Parameter(proxies * math.sqrt(2 / num_classes))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D_e), labels (B,) -> scalar."""
        return potential_field(embeddings, labels, self.proxies, self.delta, self.alpha, self.reduction)

    def extra_repr(self) -> str:
        return f"proxies={tuple(self.proxies.shape)}, delta={self.delta}, alpha={self.alpha}, {self.reduction}"


class _TotalPotential(torch.autograd.Function):
    """Sum of psi over ordered pairs of different points, with its gradient found on the way.

    With s = d^2 and w = d psi / d s the gradient at point a is 4 * sum_b w_ab (a - b): 2 from the square, 2
    because the pair appears in both orders. No square root is differentiated, so coinciding points give 0 and
    not NaN.
    """

    @staticmethod
    def forward(ctx: Any, points: Tensor, labels: Tensor, delta: float, alpha: float) -> Tensor:
        total = points.new_zeros(())
        gradient = torch.zeros_like(points) if ctx.needs_input_grad[0] else None
        squared_norms = points.square().sum(1)
        rows_per_chunk = max(1, _MAX_ELEMENTS // len(points))
        flat = delta**-alpha
        for start in range(0, len(points), rows_per_chunk):
            rows = points[start : start + rows_per_chunk]
            own = torch.arange(len(rows), device=points.device)
            squared = squared_norms[start : start + len(rows), None] + squared_norms - 2 * rows @ points.T
            squared[own, start + own] = 4.0  # a point does not act on itself; kept out of the near pairs
            near_rows, near_columns = torch.nonzero(squared < _NEAR_SQUARED, as_tuple=True)
            _subtract_near(squared, rows, points, near_rows, near_columns)
            inside = squared < delta**2
            same = labels[start : start + len(rows), None] == labels
            decays = same != inside  # attraction outside delta, repulsion inside it
            sign = 1.0 - 2.0 * same.to(points.dtype)
            squared = squared.clamp_min(MIN_DISTANCE**2)
            # Outside `decays` psi is constant. Both branches are finite, so `where` leaks no NaN.
            potential = sign * torch.where(decays, squared.pow(-alpha / 2), flat)
            potential[own, start + own] = 0.0
            total = total + potential.sum()
            if gradient is None:
                continue
            decays = decays & (squared > MIN_DISTANCE**2)
            decays[own, start + own] = False
            weight = torch.where(decays, -2.0 * alpha * sign * squared.pow(-alpha / 2 - 1), 0.0)
            near_weight = weight[near_rows, near_columns]
            weight[near_rows, near_columns] = 0.0
            chunk_gradient = weight.sum(1, keepdim=True) * rows - weight @ points
            for part in _parts(near_rows, points.shape[1]):
                i, j = near_rows[part], near_columns[part]
                chunk_gradient.index_add_(0, i, near_weight[part, None] * (rows[i] - points[j]))
            gradient[start : start + len(rows)] = chunk_gradient
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None, None


def _subtract_near(squared: Tensor, rows: Tensor, points: Tensor, near_rows: Tensor, near_columns: Tensor) -> None:
    """Overwrite the squared distances of close pairs with |a - b|^2, taken without cancellation."""
    for part in _parts(near_rows, points.shape[1]):
        i, j = near_rows[part], near_columns[part]
        squared[i, j] = (rows[i] - points[j]).square().sum(1)


def _parts(pairs: Tensor, width: int) -> list[slice]:
    """Slices of a list of pairs whose difference vectors of this width fit the memory budget."""
    step = max(1, _MAX_ELEMENTS // width)
    return [slice(start, start + step) for start in range(0, len(pairs), step)]


def _check(embeddings: Tensor, labels: Tensor, proxies: Tensor, delta: float, alpha: float, reduction: str) -> None:
    _check_field(delta, alpha, reduction)
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; expected (B, D_e) with B >= 1")
    if proxies.ndim != 3 or proxies.shape[2] != embeddings.shape[1]:
        raise ValueError(f"proxies have shape {tuple(proxies.shape)}; expected (num_classes, M, {embeddings.shape[1]})")
    if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels are {tuple(labels.shape)} {labels.dtype}; expected {len(embeddings)} integers, one per embedding"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(proxies):
        raise ValueError(
            f"labels span {low}..{high}, but there are proxies for {len(proxies)} classes: renumber labels from 0"
        )


def _check_field(delta: float, alpha: float, reduction: str) -> None:
    if not MIN_DISTANCE < delta < 2:
        raise ValueError(f"delta is {delta}; it is a distance on the unit sphere: choose {MIN_DISTANCE} < delta < 2")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; the field must decay: choose alpha > 0")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' (U / B) or 'sum' (U as published)")
