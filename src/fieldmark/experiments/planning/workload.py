"""What one optimiser step works on: counts and sizes, from a run's configuration."""

import math
from dataclasses import dataclass

import torch

from fieldmark.experiments.planning.geometry import Geometry
from fieldmark.experiments.planning.trained_tower import TrainedTower, read_trained_tower
from fieldmark.losses.potential_field import PotentialField
from fieldmark.losses.registry import build_metric_loss
from fieldmark.models.backbone import Backbone
from fieldmark.models.precision import DTYPES
from fieldmark.models.sampling import FIRST_CANDIDATES
from fieldmark.policy.adjudication import Adjudicator
from fieldmark.policy.replay import ReplayMethod
from fieldmark.training.config import MetricConfig, SagaConfig


@dataclass(frozen=True)
class Assumptions:
    """What the configuration does not say; printed with every plan."""

    mixed: float = 0.5
    """Share of the drawn pairs whose rewards differ: decides how many micro-batches a step draws."""
    completion_tokens: int | None = None
    """Mean length of a completion, for arithmetic and time; memory always counts rollouts.max_new_tokens. null: that
    limit for both."""
    classes: int = 100
    """Training classes: decides how many proxies the metric loss has."""

    def __post_init__(self) -> None:
        if not 0 < self.mixed <= 1:
            raise ValueError(f"mixed is {self.mixed}; it is a share of pairs: above 0, at most 1")
        if self.completion_tokens is not None and self.completion_tokens < 1:
            raise ValueError(f"completion_tokens is {self.completion_tokens}; give at least 1, or null")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; a metric loss needs at least 2")


@dataclass(frozen=True)
class Sampling:
    """Rollouts and their replay."""

    rounds: int
    """Micro-batches a step is expected to draw."""
    max_rounds: int
    pairs: int
    """Pairs asked about per micro-batch, all decoded at once."""
    group_size: int
    sampled: bool
    """False where reference answers are replayed instead of samples."""
    prompt: int
    """Tokens of a prompt, both pictures' included."""
    new_tokens: int
    mean_tokens: float
    groups: int
    """Groups replayed per step, all rounds together."""
    chunk: int
    """Prompts replayed at a time."""
    method: ReplayMethod
    checkpoint: bool
    ragged: bool
    """Prompts of different lengths: attention under a mask, for which keys and values are repeated per head."""
    tap: bool
    """One layer's attention probabilities are taken during the replay."""
    sorts: bool
    """Sampling sorts whole vocabularies (top-p 1, or a small vocabulary)."""
    greedy: bool


@dataclass(frozen=True)
class Workload:
    """One optimiser step. Sizes per picture unless said otherwise."""

    batch: int
    images_per_class: int
    image_size: int
    patches: int
    tokens: int
    """Merged patches: what the language model sees."""
    dtype_bytes: int
    """Of weights and activations; leaves, pooler and losses are float32."""
    tower: TrainedTower
    moment_bytes: float
    """Of both of AdamW's moments, for each byte that is trained."""
    pooler: str
    embedding: int
    pooler_parameters: int
    proxies: int
    """Entries of the metric loss's own parameters."""
    potential_field: bool
    cpu: bool
    sampling: Sampling | None
    """None: the metric loss alone."""


def read_workload(
    config: SagaConfig | MetricConfig, backbone: Backbone, geometry: Geometry, assumed: Assumptions
) -> Workload:
    """Counts of one step. backbone: meta weights will do; its tokenizer measures the prompt.

    Raises:
        ValueError: pictures that cannot be cut into patches, a prompt beyond the context, unknown names, attention that
            is not fused.
    """
    d, m, tower = config.data, config.model, geometry.tower
    if m.attention != "sdpa":
        raise ValueError(f"a plan is made for fused attention: set model.attention to sdpa, not {m.attention}")
    unit = tower.patch_size * tower.merge
    if d.image_size % unit or d.image_size < unit:
        raise ValueError(
            f"data.image_size is {d.image_size}; this tower needs a multiple of {unit} "
            f"(patch {tower.patch_size} x merge {tower.merge})"
        )
    patches = (d.image_size // tower.patch_size) ** 2
    tokens = patches // tower.merge**2
    width = geometry.decoder.width
    has_projection = m.embedding_size is not None or m.pooler == "attention"
    embedding = width if m.embedding_size is None else m.embedding_size
    pooler_parameters = width * embedding * has_projection + (width * width + width) * (m.pooler == "attention")
    loss = build_metric_loss(config.metric, assumed.classes, embedding, generator=torch.Generator())
    dtype_bytes = _dtype_bytes(m.dtype, m.device)
    trained = read_trained_tower(backbone.tower, tower.facts, m, dtype_bytes)
    return Workload(
        batch=d.batch_size,
        images_per_class=d.images_per_class,
        image_size=d.image_size,
        patches=patches,
        tokens=tokens,
        dtype_bytes=dtype_bytes,
        tower=trained,
        # 8-bit moments: two bytes and two scales for every 256 numbers; what is small enough to stay float32 is ignored
        moment_bytes=2.0 if config.optimiser.kind == "adamw" else 2 * (1 + 4 / 256) / _width(trained),
        pooler=m.pooler,
        embedding=embedding,
        pooler_parameters=pooler_parameters,
        proxies=sum(p.numel() for p in loss.parameters()),
        potential_field=isinstance(loss.inner, PotentialField),
        cpu=m.device == "cpu",
        sampling=None if isinstance(config, MetricConfig) else _sampling(config, backbone, geometry, tokens, assumed),
    )


def _width(trained: TrainedTower) -> float:
    """Bytes of a trained number: of the tower's, where it has any."""
    return trained.trained_bytes / trained.parameters if trained.parameters else 4.0


def _dtype_bytes(name: str, device: str) -> int:
    if name == "auto":  # the machine that plans is not the machine that trains
        return 4 if device == "cpu" else 2
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {['auto', *sorted(DTYPES)]}")
    return torch.empty(0, dtype=DTYPES[name], device="meta").element_size()


def _sampling(
    config: SagaConfig, backbone: Backbone, geometry: Geometry, tokens: int, assumed: Assumptions
) -> Sampling | None:
    w, p, r = config.weights, config.pairs, config.rollouts
    if not w.need_rollouts:
        return None
    if config.replay.checkpoint and config.replay.method != "packed":
        raise ValueError(f'replay.checkpoint needs replay.method "packed", not {config.replay.method!r}')
    if config.replay.checkpoint and w.alignment > 0:
        raise ValueError("replay.checkpoint and weights.alignment exclude each other: set one of them to 0")
    text = Adjudicator(backbone, r).longest_prompt_tokens
    prompt = text - 2 + 2 * tokens
    if prompt + r.max_new_tokens > geometry.decoder.context:
        raise ValueError(
            f"a prompt of {prompt} tokens and {r.max_new_tokens} new ones exceed the supervisor's context of "
            f"{geometry.decoder.context}: lower rollouts.max_new_tokens or data.image_size, or shorten the vocabulary"
        )
    sampled = config.supervision not in ("oracle", "wrong")
    every_one = p.contributing_pairs is None
    wanted = p.pairs_per_round if p.contributing_pairs is None else p.contributing_pairs
    share = assumed.mixed if sampled else 1.0
    max_rounds = 1 if every_one or not sampled else p.max_rounds
    rounds = min(max_rounds, math.ceil(wanted / (p.pairs_per_round * share)))
    groups = min(wanted, math.ceil(rounds * p.pairs_per_round * share)) if sampled else p.pairs_per_round
    mean = r.max_new_tokens if assumed.completion_tokens is None else assumed.completion_tokens
    return Sampling(
        rounds=rounds,
        max_rounds=max_rounds,
        pairs=p.pairs_per_round,
        group_size=r.group_size if sampled else 1,
        sampled=sampled,
        prompt=prompt,
        new_tokens=r.max_new_tokens,
        mean_tokens=min(mean, r.max_new_tokens),
        groups=groups,
        chunk=min(config.replay.prompts_per_chunk, wanted if sampled else p.pairs_per_round),
        method=config.replay.method,
        checkpoint=config.replay.checkpoint,
        ragged=r.attributes_per_prompt is not None,
        tap=w.alignment > 0,
        sorts=r.top_p == 1 or geometry.decoder.vocabulary // 3 <= FIRST_CANDIDATES,
        greedy=r.temperature == 0,
    )
