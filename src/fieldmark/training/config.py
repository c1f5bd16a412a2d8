"""Configuration of a training run: one dataclass per component, every field documented."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fieldmark.losses.registry import MetricLossConfig
from fieldmark.models.pooler import PoolerKind
from fieldmark.models.tuning import TuningConfig
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.training.optimiser import OptimiserConfig

Mining = Literal["none", "verdict", "embedding", "both"]
TowerPrecision = Literal["dtype", "bfloat16_autocast"]
Supervision = Literal["verdict", "permuted", "oracle", "wrong"]
EARLIER: dict[str, Any] = {
    "model.attention": "sdpa",
    "model.tuning.method": "full",
    "model.tuning.rank": 16,  # this and the next three: not read by "full"
    "model.tuning.alpha": 32.0,
    "model.tuning.dropout": 0.0,
    "model.tuning.blocks": 4,
    "model.tower_precision": "dtype",
    "model.tower_checkpoint": False,
    "metric.miner": "none",
    "metric.miner_options": {},
    "optimiser.kind": "adamw",
    "mined_depth": None,
    "rehearsal.path": None,
    "rehearsal.per_step": 16,  # this and the next: not read without a path
    "rehearsal.weight": 1.0,
}
"""Fields that earlier versions had not, by dotted name, and the value that stands for what those versions did: so that
runs which they began can be resumed."""


@dataclass(frozen=True)
class DataConfig:
    """Pictures, splits and what the step sees of them."""

    path: str = ""
    """Labelled collection: class folders, imagefolder or parquet; or a benchmark's folder or archive (CUB, Cars,
    Aircraft, iNat)."""
    image_size: int = 224
    """Pictures are resized to this side (the whole picture, no crop)."""
    train_fraction: float = 0.5
    """Share of the classes that is for training; a benchmark, and a collection with a split.json, bring
    their own split."""
    validation_fraction: float = 0.2
    """Share of the *training* classes held out to choose the best step; the test classes choose nothing."""
    split_seed: int = 0
    """Chooses the validation classes."""
    batch_size: int = 64
    """B, images per micro-batch."""
    images_per_class: int = 4
    """Images of each class in a micro-batch."""
    horizontal_flip: bool = True
    """Mirror each picture with probability one half."""
    crop_scale_min: float = 0.7
    """Random crops keep at least this share of the picture's area; 1 never crops."""
    workers: int = 1
    """Processes that decode ahead of the step; 0 decodes in line."""
    skip_bad: bool = False
    """Leave out pictures that cannot be decoded (each is named); otherwise they are an error."""


@dataclass(frozen=True)
class ModelConfig:
    """The multimodal LLM whose tower is trained."""

    supervisor: str = "bundled"
    """"bundled" (the tiny Fieldguide model), a local checkpoint folder or a hub id."""
    dtype: str = "float32"
    """Weights and activations; "auto" takes bfloat16 where the processor has instructions for it."""
    device: str = "cpu"
    """Torch device."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """How attention is computed, in tower and language model: sdpa (fused, fast), or eager (plain products and a
    softmax: slow, with every score in memory; to find out whether a kernel is at fault). Others cannot take the masks
    of shared prompts."""
    pooler: PoolerKind = "attention"
    """attention (SAGA), mean (the baselines) or max."""
    embedding_size: int | None = 4096
    """D_e; null leaves mean and max pooling without a projection."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """Which of the tower's weights are trained: all, LoRA, its last blocks, none."""
    tower_precision: TowerPrecision = "dtype"
    """dtype: the tower is kept and computed in ``dtype``. bfloat16_autocast: its weights, gradients and updates are
    float32, its matrix products bfloat16; the frozen language model stays in ``dtype``. With bfloat16 weights, steps
    smaller than 1/512 to 1/256 of a weight are lost to rounding."""
    tower_checkpoint: bool = False
    """Compute the tower's blocks again in the backward pass instead of keeping their activations: less memory, one
    more forward pass of the tower, the same gradient."""

    def __post_init__(self) -> None:
        if self.tower_precision not in get_args(TowerPrecision):
            raise ValueError(
                f"tower_precision must be one of {', '.join(get_args(TowerPrecision))}, got {self.tower_precision!r}"
            )


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and what happens on the way."""

    steps: int = 0
    """Optimiser steps; 0 means ``epochs`` passes over the training pictures."""
    epochs: float = 3.0
    """Passes over the training pictures, when ``steps`` is 0."""
    validate_every: int = 100
    """Steps between validations."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    select: Literal["best", "last"] = "best"
    """Which weights are kept: the best Recall@1 on the validation classes, or the last."""


@dataclass(frozen=True)
class MetricConfig:
    """`fieldmark train metric`: the metric loss alone."""

    run: str = ""
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random in the run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    metric: MetricLossConfig = field(default_factory=MetricLossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tensorboard: bool = False
    """Also write TensorBoard files, if it is installed."""


@dataclass(frozen=True)
class PairConfig:
    """Which pairs the supervisor is shown."""

    pairs_per_round: int = 16
    """Candidate pairs drawn from each micro-batch: half same class, half different."""
    different: Literal["random", "hard"] = "random"
    """Pairs of different classes: at random, or the nearest by the current embedding."""
    contributing_pairs: int | None = 8
    """K: groups with differing rewards per optimiser step, drawn from further micro-batches until complete. null takes
    one micro-batch and every contributing group in it."""
    quota: dict[str, int] | None = None
    """Contributing groups by pair type (same, random, hard); sums to K. null takes them as they come."""
    max_rounds: int = 8
    """Micro-batches per optimiser step at most."""
    mining: Mining = "none"
    """After-verdict mining: which pairs of a micro-batch are drawn more often. none (published); verdict: pairs of
    classes whose earlier verdicts were wrong (unreadable counts as wrong); embedding: pairs that the current embedding
    confuses (alike though of different classes, unlike though of one); both: the mean of the two. What the verdicts
    taught is stored in every checkpoint. The rewards are then those of harder pairs than the data's."""
    mining_strength: float = 4.0
    """A pair that is certainly confused is drawn 1 + mining_strength times as often as one that never is; 0 draws as
    without mining, all pairs of a kind alike."""
    mining_memory: float = 0.9
    """Each further verdict on a pair of classes makes the earlier ones count so many times as much; 1 never forgets."""

    def __post_init__(self) -> None:
        if self.mining not in get_args(Mining):
            raise ValueError(f"mining must be one of {', '.join(get_args(Mining))}, got {self.mining!r}")
        if not 0 <= self.mining_strength < float("inf"):
            raise ValueError(f"mining_strength must be a finite number of at least 0, got {self.mining_strength}")
        if not 0 < self.mining_memory <= 1:
            raise ValueError(f"mining_memory must be above 0 and at most 1, got {self.mining_memory}")
        if self.mining != "none" and self.different == "hard":
            raise ValueError(
                "different='hard' always takes the nearest pairs: set different='random' to mine by chance"
            )

    @property
    def remembers_verdicts(self) -> bool:
        """Whether earlier verdicts decide which pairs are drawn."""
        return self.mining in ("verdict", "both")


@dataclass(frozen=True)
class LossWeights:
    """λ of L = λ_dml L_DML + λ_lm L_GRPO + λ_kl L_KL."""

    metric: float = 1.0
    """λ_dml."""
    policy: float = 1.0
    """λ_lm; 0 switches rollouts' gradient off (with ``alignment`` > 0 rollouts are still made for the teacher)."""
    alignment: float = 1.0
    """λ_kl; gradient to the pooler only."""
    policy_relative: float | None = None
    """If given, replaces λ_lm: each step the policy gradient is scaled so that its norm at the vision tokens is this
    multiple of the metric loss's. For models whose normalisations do not make the losses comparable."""

    @property
    def need_rollouts(self) -> bool:
        """Whether the supervisor is asked at all."""
        return self.policy != 0 or self.alignment != 0 or self.policy_relative is not None


@dataclass(frozen=True)
class SagaConfig:
    """`fieldmark train saga`."""

    run: str = ""
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random in the run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    metric: MetricLossConfig = field(default_factory=MetricLossConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    alignment_layer: int | None = None
    """Decoder layer ℓ of the attention teacher, from 0; null takes the layer at 26/36 of the depth (published: 26 of
    36)."""
    weights: LossWeights = field(default_factory=LossWeights)
    supervision: Supervision = "verdict"
    """verdict: the method. permuted: rewards permuted within each group (control). oracle: the true descriptions in
    place of rollouts (ceiling). wrong: descriptions of other pictures (control of the oracle). The last two need a
    collection whose attributes are known."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tensorboard: bool = False
    """Also write TensorBoard files, if it is installed."""

    def __post_init__(self) -> None:
        trains_policy = self.weights.policy > 0 or self.weights.policy_relative is not None
        if self.model.tuning.method == "frozen" and trains_policy:
            raise ValueError(
                "the policy's gradient trains the tower, and model.tuning.method is 'frozen': set weights.policy to 0 "
                "and weights.policy_relative to null (the alignment still teaches the pooler), or tune the tower"
            )
