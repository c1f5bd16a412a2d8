"""Configuration of ELVA's third stage: one dataclass per component, every field documented."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.policy.gradient import KLEstimator, ReplayConfig
from fieldmark.policy.grpo import Baseline, Scale
from fieldmark.policy.ranking_rewards import RankingRewardConfig
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive_config import HeldOutConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.optimiser import AdapterOptimiserConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig

CandidateSource = Literal["shared", "per_rollout"]
CandidateLearning = Literal["none", "positives"]
RewardSupervision = Literal["reward", "permuted"]


@dataclass(frozen=True)
class NegativesConfig:
    """What each query's positive is ranked against."""

    mined: str | None = None
    """Folder of `fieldmark data mine`: hard and random negatives, and which queries are trained on (those it has). null
    draws all negatives at random from the pool, anew each epoch; `hard` must be 0 then."""
    hard: int = 50
    """Hard negatives of each query, nearest first (published: 50)."""
    random: int = 50
    """Random negatives of each query (published: 50)."""
    positives: int = 1
    """Positives of each query at most, drawn anew each epoch."""


@dataclass(frozen=True)
class SummaryConfig:
    """How queries are summarised."""

    group_size: int = 8
    """G, summaries of each query."""
    temperature: float = 1.0
    """Of sampling. Not published; at 1 with top_p 1, what is sampled from is what the replay differentiates."""
    top_p: float = 1.0
    """Nucleus of sampling; 1 samples the full distribution."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2 for a group baseline, got {self.group_size}")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"need temperature > 0 and 0 < top_p <= 1, got {self.temperature} and {self.top_p}")


@dataclass(frozen=True)
class CandidatesConfig:
    """How positives and negatives are embedded under the policy that is being trained."""

    source: CandidateSource = "shared"
    """shared: once a step, summarised greedily, for all rollouts alike. per_rollout: every rollout ranks summaries of
    the candidates that were sampled for it (published), at up to G times the cost, with their noise in the reward."""
    refresh_every: int = 1
    """shared only: candidates that were embedded up to so many steps ago, less one, are not embedded again."""
    temperature: float | None = None
    """per_rollout only: of the candidates' summaries; null takes the queries', 0 is greedy."""
    batch_size: int = 32
    """Candidates summarised at a time."""
    learn: CandidateLearning = "none"
    """none: only summaries of queries carry the policy gradient. positives: those of each query's positive do, too; G
    are sampled, and each earns what the query's summaries rank with it in the positive's place. Not part of ELVA."""

    def __post_init__(self) -> None:
        if self.source not in get_args(CandidateSource):
            raise ValueError(f"source must be one of {', '.join(get_args(CandidateSource))}, got {self.source!r}")
        if self.learn not in get_args(CandidateLearning):
            raise ValueError(f"learn must be one of {', '.join(get_args(CandidateLearning))}, got {self.learn!r}")
        if self.refresh_every < 1 or self.batch_size < 1:
            raise ValueError(
                f"refresh_every and batch_size must be at least 1, got {self.refresh_every} and {self.batch_size}"
            )
        if self.source == "per_rollout" and self.refresh_every > 1:
            raise ValueError("candidates sampled per rollout are sampled each step: set refresh_every to 1")
        if self.source == "shared" and self.temperature is not None:
            raise ValueError("shared candidates are summarised greedily: set temperature to null")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")


@dataclass(frozen=True)
class PolicyConfig:
    """How rewards become a gradient."""

    kl_weight: float = 0.2
    """β, weight of the divergence from the policy before this run (published: 0.2). 0 switches it off."""
    kl: KLEstimator = "k3"
    """k3: from the sampled tokens' log-probabilities; exact: over the whole vocabulary."""
    clip: float | None = None
    """Clip of the importance ratio to the sampling policy; null takes log π itself. With one update per step the ratio
    is 1 but for the arithmetic of sampler and replay."""
    baseline: Baseline = "group_mean"
    """Advantage baseline: group_mean or leave_one_out."""
    scale: Scale = "std"
    """Advantage scale: std or none."""

    def __post_init__(self) -> None:
        if not 0 <= self.kl_weight < float("inf"):
            raise ValueError(f"kl_weight must be a finite number of at least 0, got {self.kl_weight}")
        if self.kl not in get_args(KLEstimator):
            raise ValueError(f"kl must be one of {', '.join(get_args(KLEstimator))}, got {self.kl!r}")
        if self.clip is not None and not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1, got {self.clip}")


@dataclass(frozen=True)
class ElvaConfig:
    """`fieldmark train elva`. The defaults are ELVA's third stage (arXiv 2606.20280)."""

    run: str = ""
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random in the run."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    validation: HeldOutConfig = field(default_factory=HeldOutConfig)
    model: EmbedderModelConfig = field(
        default_factory=lambda: EmbedderModelConfig(embedder=EmbedderConfig(mode="generative"))
    )
    queries_per_step: int = 8
    """Queries of each optimiser step. Not published."""
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    summaries: SummaryConfig = field(default_factory=SummaryConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    reward: RankingRewardConfig = field(default_factory=RankingRewardConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    supervision: RewardSupervision = "reward"
    """reward: the method. permuted: rewards permuted within each group (control)."""
    optimiser: AdapterOptimiserConfig = field(default_factory=lambda: AdapterOptimiserConfig(lr=1e-6))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(epochs=1.0, select="last"))
    tensorboard: bool = False
    """Also write TensorBoard files, if it is installed."""

    def __post_init__(self) -> None:
        if self.queries_per_step < 1:
            raise ValueError(f"queries_per_step must be at least 1, got {self.queries_per_step}")
        if self.candidates.learn == "positives" and self.negatives.positives != 1:
            raise ValueError(
                "candidates.learn is positives: each query needs exactly one, set negatives.positives to 1 "
                f"(got {self.negatives.positives})"
            )
        if self.supervision not in get_args(RewardSupervision):
            raise ValueError(
                f"supervision must be one of {', '.join(get_args(RewardSupervision))}, got {self.supervision!r}"
            )
