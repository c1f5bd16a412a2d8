"""AdamW (for tower, pooler and metric loss, or for adapters), warm-up and cosine, clipping that stops at NaN."""

import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimiserKind = Literal["adamw", "adamw_8bit", "adamw_8bit_paged"]
_REMEDY = (
    "No weight was changed by this step. Resume from the last checkpoint with a lower learning rate or a "
    "longer "
    "warm-up, compute in float32, or look for a damaged picture in this batch"
)


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient is NaN or infinite. Raised before the optimiser step: no weight has changed."""


@dataclass(frozen=True)
class OptimiserConfig:
    """How the parameters are updated.

    The defaults are those of SAGA (arXiv 2606.15134, Algorithm 1, block E).

    Raises:
        ValueError: a value outside its range.
    """

    tower_lr: float = 2e-5
    """Peak learning rate of the vision tower. Above about 3e-4 small towers lose their embedding space."""
    pooler_lr: float = 1e-4
    """Peak learning rate of the pooler and its projections."""
    proxy_lr_factor: float = 100.0
    """Learning rate of the metric loss's own parameters (proxies) as a multiple of `pooler_lr`."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices. Biases, norms, other vectors and proxies are never decayed."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moment."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""
    warmup_fraction: float = 0.05
    """Part of all optimiser steps in which the learning rate rises linearly to its peak."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; `inf` switches clipping off."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: a half cosine that reaches 0 after the last step, or the peak held."""
    kind: OptimiserKind = "adamw"
    """adamw: moments as wide as the weights. adamw_8bit: moments in 8 bits with a scale for each block (arXiv
    2110.02861), by bitsandbytes; tensors below 4,096 numbers keep float32. adamw_8bit_paged: these move to the host's
    memory when a CUDA device runs out of its own."""

    def __post_init__(self) -> None:
        _check(self, "tower_lr", "pooler_lr", "proxy_lr_factor", "weight_decay")
        if self.kind not in get_args(OptimiserKind):
            raise ValueError(f"kind is {self.kind!r}; choose one of {', '.join(get_args(OptimiserKind))}")


@dataclass(frozen=True)
class AdapterOptimiserConfig:
    """How adapters (LoRA) are updated.

    The defaults are those of ELVA's second stage (arXiv 2606.20280, after LamRA).

    Raises:
        ValueError: a value outside its range.
    """

    lr: float = 1e-4
    """Peak learning rate of the adapter."""
    tower_lr: float = 2e-5
    """Peak learning rate of the vision tower, where it is trained."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all trained parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's first and second moment."""
    eps: float = 1e-8
    """Added to the root of Adam's second moment."""
    warmup_fraction: float = 0.03
    """Part of all optimiser steps in which the learning rate rises linearly to its peak."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; `inf` switches clipping off."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: a half cosine that reaches 0 after the last step, or the peak held."""

    def __post_init__(self) -> None:
        _check(self, "lr", "tower_lr", "weight_decay")


def _check(self: OptimiserConfig | AdapterOptimiserConfig, *at_least_zero: str) -> None:
    for name in at_least_zero:
        value = getattr(self, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; give a finite number of at least 0")
    if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
        raise ValueError(f"betas is {self.betas}; give two numbers in [0, 1)")
    if not self.eps > 0:
        raise ValueError(f"eps is {self.eps}; give a number above 0")
    if not 0 <= self.warmup_fraction < 1:
        raise ValueError(f"warmup_fraction is {self.warmup_fraction}; give a part of the steps in [0, 1)")
    if not self.clip_norm > 0:
        raise ValueError(f"clip_norm is {self.clip_norm}; give a number above 0, or inf for no clipping")
    if self.schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule is {self.schedule!r}; choose 'cosine' or 'constant'")


def learning_rate_factor(config: OptimiserConfig | AdapterOptimiserConfig, step: int, total_steps: int) -> float:
    """Multiple of the peak learning rate with which the optimiser step number `step` (from 0) is taken.

    With W = round(warmup_fraction · total_steps) warm-up steps: (step + 1) / W during the warm-up, so that
    already the first step moves; then ½ (1 + cos(π (step − W) / (total_steps − W))), or 1 if the schedule is
    "constant". Beyond `total_steps` the cosine stays at 0.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def build_optimiser(
    config: OptimiserConfig,
    tower_params: Iterable[nn.Parameter],
    pooler_params: Iterable[nn.Parameter],
    loss_params: Iterable[nn.Parameter],
    total_steps: int,
) -> tuple[Optimizer, LambdaLR]:
    """AdamW with its learning-rate schedule. Call `scheduler.step()` once after every `optimiser.step()`.

    Parameters that need no gradient are left out; a group without parameters does not appear. Every group
    carries a `name`: "tower", "tower_undecayed", "pooler", "pooler_undecayed", "loss". Undecayed are tensors
    of fewer than two dimensions (biases, norms, the pooler's query) and all parameters of the loss: proxies
    are points in the space, and decay would draw them towards the origin.

    Raises:
        ValueError: `total_steps` below 1, no parameter to train, a parameter in two groups, or paged moments
            without a CUDA device.
        ModuleNotFoundError: 8-bit moments are asked for and bitsandbytes is not installed.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a run needs at least one optimiser step")
    tower = [p for p in tower_params if p.requires_grad]
    pooler = [p for p in pooler_params if p.requires_grad]
    loss = [p for p in loss_params if p.requires_grad]
    together = [id(p) for p in (*tower, *pooler, *loss)]
    if not together:
        raise ValueError("no parameter needs a gradient; unfreeze the tower or give the pooler's parameters")
    if len(set(together)) < len(together):
        raise ValueError("a parameter is given twice; tower, pooler and loss must not share parameters")

    groups: list[dict[str, Any]] = []
    for name, params, lr in (("tower", tower, config.tower_lr), ("pooler", pooler, config.pooler_lr)):
        groups.append(_group(name, [p for p in params if p.ndim >= 2], lr, config.weight_decay))
        groups.append(_group(f"{name}_undecayed", [p for p in params if p.ndim < 2], lr, 0.0))
    groups.append(_group("loss", loss, config.pooler_lr * config.proxy_lr_factor, 0.0))
    groups = [group for group in groups if group["params"]]
    adamw = AdamW if config.kind == "adamw" else _eight_bit_adamw(config.kind, groups)
    optimiser = adamw(groups, lr=config.pooler_lr, betas=config.betas, eps=config.eps)
    return optimiser, LambdaLR(optimiser, lambda step: learning_rate_factor(config, step, total_steps))


def build_adapter_optimiser(
    config: AdapterOptimiserConfig,
    adapter_params: Iterable[nn.Parameter],
    tower_params: Iterable[nn.Parameter],
    total_steps: int,
) -> tuple[AdamW, LambdaLR]:
    """AdamW with its learning-rate schedule, in the groups "adapter" and, if it is trained, "tower".

    Raises:
        ValueError: `total_steps` below 1, or no parameter to train.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a run needs at least one optimiser step")
    adapter, tower = ([p for p in params if p.requires_grad] for params in (adapter_params, tower_params))
    groups = [
        _group(name, params, lr, config.weight_decay)
        for name, params, lr in (("adapter", adapter, config.lr), ("tower", tower, config.tower_lr))
        if params
    ]
    if not groups:
        raise ValueError("no parameter needs a gradient: add an adapter to the model")
    optimiser = AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return optimiser, LambdaLR(optimiser, lambda step: learning_rate_factor(config, step, total_steps))


def _eight_bit_adamw(kind: OptimiserKind, groups: list[dict[str, Any]]) -> Any:
    """The optimiser's class, imported only when it is asked for."""
    paged = kind == "adamw_8bit_paged"
    devices = {p.device.type for group in groups for p in group["params"]}
    if paged and devices != {"cuda"}:  # the library would silently not page
        raise ValueError(f"optimiser.kind {kind} needs a CUDA device, not {', '.join(devices)}: choose adamw_8bit")
    try:
        library = importlib.import_module("bitsandbytes")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"optimiser.kind {kind} needs bitsandbytes, which cannot be imported ({error.name} is missing): "
            "pip install 'fieldmark[eight-bit]', or choose adamw"
        ) from error
    return library.optim.PagedAdamW8bit if paged else library.optim.AdamW8bit


def _group(name: str, params: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
    return {"name": name, "params": params, "lr": lr, "weight_decay": weight_decay}


def learning_rates(optimiser: torch.optim.Optimizer) -> dict[str, float]:
    """Current learning rate of every group of `build_optimiser` by its name."""
    return {group["name"]: float(group["lr"]) for group in optimiser.param_groups}


def check_losses(step: int, **losses: Tensor | float) -> None:
    """Stops before the backward pass if a loss is not finite.

    Raises:
        NonFiniteLoss: names the loss, its value, the step and what to do.
    """
    values = {name: value.item() if isinstance(value, Tensor) else value for name, value in losses.items()}
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        named = ", ".join(f"{name} is {value}" for name, value in bad.items())
        raise NonFiniteLoss(f"step {step}: {named}. {_REMEDY}")


def clip_gradients(params: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scales the gradients in place to a global L2 norm of at most `max_norm`; returns the norm before.

    Args:
        params: iterated once; parameters without gradient are passed over.
        max_norm: above 0; `inf` only measures.

    Raises:
        NonFiniteLoss: the norm is NaN or infinite. Gradients, weights and optimiser state are left as they
            are.
    """
    trained = [p for p in params if p.grad is not None]
    if not trained:
        return 0.0
    gradients = [p.grad for p in trained if p.grad is not None]
    norm = get_total_norm(gradients)
    if not bool(torch.isfinite(norm)):
        bad = sum(not bool(torch.isfinite(g).all()) for g in gradients)
        raise NonFiniteLoss(
            f"the norm of the gradient is {float(norm)}: {bad} of {len(gradients)} parameters have a "
            "gradient that is "
            f"not finite. {_REMEDY}"
        )
    clip_grads_with_norm_(trained, max_norm, norm)
    return float(norm)
