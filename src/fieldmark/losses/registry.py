"""Metric losses by name, open to users.

Every loss is used the same way: ``loss(embeddings (B, D_e), labels (B,)) -> scalar``. Add your own by
decorating it with `register_metric_loss`, or without touching this package by its import path,
``"my_package.losses:my_loss"``. Two shapes are accepted, told apart by their parameters:

* the loss itself, a function with parameters ``embeddings`` and ``labels``;
* a factory (a function or an ``nn.Module`` class) that returns an ``nn.Module`` called with the two.

Both are given only what they name of ``num_classes``, ``embedding_size`` and ``generator``; every other
parameter is an option that the configuration may set.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fieldmark.losses.import_path import import_function
from fieldmark.losses.matryoshka import NestedLoss, check_dimensions
from fieldmark.losses.mining import MINERS, MinerName, with_miner
from fieldmark.losses.potential_field import PotentialField
from fieldmark.losses.precision import full_float32

_Target = TypeVar("_Target", bound=Callable[..., Any])
_REGISTRY: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class MetricLossConfig:
    """Which metric loss, and how its own parameters are trained."""

    name: str = "potential_field"
    """A registered name (`metric_loss_names`), or the import path ``package.module:function`` of your own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword options of that loss, e.g. ``{"proxies_per_class": 2}``; an unknown one is refused."""
    proxy_lr_factor: float = 100.0
    """Learning rate of the loss's own parameters (proxies) as a multiple of the pooler's."""
    dimensions: tuple[int, ...] = ()
    """Nested sizes (Matryoshka), e.g. [32, 128]: the loss becomes its mean over the embedding's first so many numbers,
    normalised again, and over the whole embedding, which need not be named. Each size has its own proxies. Recall@1 is
    reported by size. Empty: the whole embedding only (published)."""

    miner: MinerName = "none"
    """Which pairs of a batch a pair loss (multi_similarity, infonce, supcon) is given. none: all. multi_similarity: the
    hard ones by the miner of that loss's authors. distance_weighted: for each anchor and positive one negative, drawn
    so that near and far ones are equally likely. With ``dimensions`` every size mines for itself."""
    miner_options: dict[str, Any] = field(default_factory=dict)
    """Of multi_similarity: epsilon (0.1). Of distance_weighted: cutoff (0.5), nonzero_loss_cutoff (1.4)."""

    def __post_init__(self) -> None:
        if not self.proxy_lr_factor > 0:
            raise ValueError(f"proxy_lr_factor is {self.proxy_lr_factor}; choose a positive one (published: 100)")
        if self.miner != "none" and self.miner not in MINERS:
            raise ValueError(f"unknown miner {self.miner!r}: choose none, {' or '.join(MINERS)}")
        if self.miner == "none" and self.miner_options:
            raise ValueError(f"miner_options are {self.miner_options}, but miner is none: choose one, or remove them")


class MetricLoss(nn.Module):
    """A metric loss with its inputs checked, computed in float32 whatever autocast says.

    Attributes:
        name: the configured name.
        inner: the module, or the function, that does the arithmetic.
    """

    def __init__(
        self, name: str, inner: Callable[[Tensor, Tensor], Tensor], num_classes: int, embedding_size: int
    ) -> None:
        super().__init__()
        self.name, self.inner = name, inner
        self.num_classes, self.embedding_size = num_classes, embedding_size

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D_e), labels (B,) integers in [0, num_classes) -> scalar, float32 or wider."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_size or len(embeddings) == 0:
            raise ValueError(
                f"embeddings have shape {tuple(embeddings.shape)}; {self.name} was built for (B, {self.embedding_size})"
            )
        if labels.shape != embeddings.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"labels are {tuple(labels.shape)} {labels.dtype}; "
                f"expected {len(embeddings)} integers, one per embedding"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"labels span {low}..{high}, but {self.name} was built for {self.num_classes} classes: "
                "renumber the training classes from 0"
            )
        if embeddings.dtype != torch.float64:
            embeddings = embeddings.float()
        with full_float32(embeddings.device):
            value = self.inner(embeddings, labels.to(embeddings.device))
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"metric loss {self.name!r} returned {found}; return a scalar tensor, e.g. its mean")
        return value


def register_metric_loss(name: str) -> Callable[[_Target], _Target]:
    """Decorator: make a loss function or a factory available as `MetricLossConfig.name`."""

    if not name or ":" in name:
        raise ValueError(f"metric loss name {name!r} must be non-empty, without ':' (that marks import paths)")
    if name in _REGISTRY:
        raise ValueError(f"metric loss {name!r} is registered already: choose another name")

    def register(target: _Target) -> _Target:
        _REGISTRY[name] = target
        return target

    return register


def metric_loss_names() -> tuple[str, ...]:
    """Registered names, sorted."""
    return tuple(sorted(_REGISTRY))


def build_metric_loss(
    config: MetricLossConfig,
    num_classes: int,
    embedding_size: int,
    *,
    generator: torch.Generator | None = None,
) -> MetricLoss:
    """Build the configured loss for C = `num_classes` training classes and embeddings of width D_e.

    Args:
        generator: source of random initial proxies; by default a fresh one with seed 0, so that building
            twice gives the same loss.

    Raises:
        ValueError: unknown name or import path, unknown or missing option, sizes below one, `config.dimensions`
            that the embedding does not have, or a miner in front of a loss that takes no pairs.
        ModuleNotFoundError: the loss comes from pytorch-metric-learning and that is not installed.
    """
    if num_classes < 1 or embedding_size < 1:
        raise ValueError(f"num_classes is {num_classes} and embedding_size {embedding_size}; both must be positive")
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if not config.dimensions:
        return MetricLoss(
            config.name, _build(config, num_classes, embedding_size, generator), num_classes, embedding_size
        )
    sizes = sorted({*check_dimensions(config.dimensions, embedding_size), embedding_size}, reverse=True)
    nested = NestedLoss({size: _build(config, num_classes, size, generator) for size in sizes})
    return MetricLoss(config.name, nested, num_classes, embedding_size)


def _build(
    config: MetricLossConfig, num_classes: int, embedding_size: int, generator: torch.Generator
) -> Callable[[Tensor, Tensor], Tensor]:
    """The configured loss of one size of embedding, as a function or module."""
    target = _find(config.name)
    context = {"num_classes": num_classes, "embedding_size": embedding_size, "generator": generator}
    parameters = inspect.signature(target).parameters
    is_loss_itself = {"embeddings", "labels"} <= parameters.keys()
    supplied = {"embeddings", "labels"} if is_loss_itself else set()
    arguments = _arguments(config.name, parameters, context, config.options, supplied)
    inner = functools.partial(target, **arguments) if is_loss_itself else target(**arguments)
    if not is_loss_itself and not isinstance(inner, nn.Module):
        raise ValueError(
            f"metric loss {config.name!r} built a {type(inner).__name__}: a factory must return an "
            "nn.Module; a loss function itself must name its parameters 'embeddings' and 'labels'"
        )
    if config.miner != "none":
        return with_miner(config.name, inner, config.miner, config.miner_options, generator)
    return inner


def proxy_parameter_groups(loss: nn.Module, config: MetricLossConfig, pooler_lr: float) -> list[dict[str, Any]]:
    """Optimiser group of the loss's own parameters: `proxy_lr_factor` times the pooler's rate, no weight
    decay.

    Proxies are normalised when used: decay would not regularise them, only raise their effective learning
    rate. Empty for a loss without parameters.
    """
    parameters = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    if not parameters:
        return []
    return [{"params": parameters, "lr": pooler_lr * config.proxy_lr_factor, "weight_decay": 0.0}]


def _find(name: str) -> Callable[..., Any]:
    if ":" in name:
        return import_function(name, "metric loss")
    if name not in _REGISTRY:
        nearest = difflib.get_close_matches(name, _REGISTRY, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"unknown metric loss {name!r}.{hint} Choose from {', '.join(metric_loss_names())}, "
            "or name your own as 'package.module:function'"
        )
    return _REGISTRY[name]


def _arguments(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    context: Mapping[str, Any],
    options: Mapping[str, Any],
    supplied: set[str],
) -> dict[str, Any]:
    """What the target names of the context, and the options; refuse what it does not know or still lacks."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {key: value for key, value in parameters.items() if value.kind not in variadic}
    takes_any = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in parameters.values())
    allowed = sorted(named.keys() - context.keys() - supplied)
    for option in options:
        if option in context or option in supplied:
            raise ValueError(f"option {option!r} of metric loss {name!r} is set by the training run: remove it")
        if option not in named and not takes_any:
            nearest = difflib.get_close_matches(option, allowed, n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(
                f"metric loss {name!r} has no option {option!r}.{hint} Its options: {', '.join(allowed) or 'none'}"
            )
    arguments = {key: value for key, value in context.items() if key in named} | dict(options)
    missing = [
        key
        for key, value in named.items()
        if value.default is inspect.Parameter.empty and key not in arguments and key not in supplied
    ]
    if missing:
        raise ValueError(f"metric loss {name!r} needs the option(s) {', '.join(missing)}: set them under options")
    return arguments


register_metric_loss("potential_field")(PotentialField)


def _pytorch_metric_learning() -> Any:
    """Its `losses` module, imported only when one of its losses is chosen."""
    try:
        return importlib.import_module("pytorch_metric_learning.losses")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this metric loss comes from pytorch-metric-learning, which cannot be imported "
            f"({error.name} is missing): pip install pytorch-metric-learning, or choose potential_field"
        ) from error


@register_metric_loss("proxy_anchor")
def _proxy_anchor(
    num_classes: int,
    embedding_size: int,
    generator: torch.Generator,
    margin: float = 0.1,
    alpha: float = 32.0,
) -> nn.Module:
    """Proxy-Anchor (CVPR 2020, arXiv 2003.13911): one learnable proxy per class."""
    initialise = functools.partial(nn.init.kaiming_normal_, mode="fan_out", generator=generator)
    return _pytorch_metric_learning().ProxyAnchorLoss(
        num_classes, embedding_size, margin=margin, alpha=alpha, weight_init_func=initialise
    )


@register_metric_loss("multi_similarity")
def _multi_similarity(alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> nn.Module:
    """Multi-Similarity without its miner (CVPR 2019, arXiv 1904.06627)."""
    return _pytorch_metric_learning().MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)


@register_metric_loss("infonce")
def _infonce(temperature: float = 0.07) -> nn.Module:
    """InfoNCE / NT-Xent: every same-class pair is a positive, against the anchor's other-class images."""
    return _pytorch_metric_learning().NTXentLoss(temperature=temperature)


@register_metric_loss("supcon")
def _supcon(temperature: float = 0.1) -> nn.Module:
    """Supervised contrastive loss, positives averaged outside the logarithm (arXiv 2004.11362, eq. 2)."""
    return _pytorch_metric_learning().SupConLoss(temperature=temperature)
