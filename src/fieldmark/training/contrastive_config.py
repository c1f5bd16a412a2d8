"""Configuration of contrastive training (ELVA, stages 1 and 2): one dataclass per component, every field documented."""

from dataclasses import dataclass, field

from fieldmark.training.config import ScheduleConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.optimiser import AdapterOptimiserConfig
from fieldmark.training.rehearsal import RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig


@dataclass(frozen=True)
class HeldOutConfig:
    """Training queries that are not trained on, to follow the run. Their Recall@K compares steps, nothing else."""

    queries: int = 256
    """How many; a tenth of all at most."""
    candidates: int = 2048
    """Size of the pool in which they are searched, unless their positives and named negatives are more."""


@dataclass(frozen=True)
class ContrastiveConfig:
    """`fieldmark train contrastive`.

    The defaults are ELVA's second stage, but for the adapter (there rank 128, alpha 256). Its first stage: batch_size
    576, optimiser.lr 4e-5, schedule.epochs 2, hard_negatives 1, rank 64, alpha 128.
    """

    run: str = ""
    """Folder of the run."""
    seed: int = 0
    """Seed of everything random in the run."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    validation: HeldOutConfig = field(default_factory=HeldOutConfig)
    model: EmbedderModelConfig = field(default_factory=EmbedderModelConfig)
    batch_size: int = 960
    """Queries whose candidates are each other's negatives, of all processes together."""
    chunk_size: int = 16
    """Queries or candidates that have a graph at a time (GradCache): bounds memory, changes no gradient."""
    keep_graphs: bool = False
    """Encode each chunk once and keep the graphs of all: a forward pass less, in the memory of the whole batch. Chunks
    then only save padding. Changes no gradient, either."""
    hard_negatives: int = 0
    """Hard negatives that each query brings along at most: those that the data names, and mined ones."""
    mined: str | None = None
    """Folder of `fieldmark data mine`: further hard negatives to draw from."""
    mined_depth: int | None = None
    """Draw from so many of a query's mined hard negatives only, nearest first; null: from all."""
    temperature: float = 0.05
    """τ of InfoNCE."""
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    """Known summaries that are rehearsed, lest the model forgets how to write."""
    optimiser: AdapterOptimiserConfig = field(default_factory=AdapterOptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(epochs=1.0, select="last"))
    tensorboard: bool = False
    """Also write TensorBoard files, if it is installed."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.model.embedder.mode != "one_word":
            raise ValueError("contrastive training reads one word: set model.embedder.mode to one_word")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.mined_depth is not None and self.mined_depth < 1:
            raise ValueError(f"mined_depth must be at least 1, or null, got {self.mined_depth}")
        if self.mined is not None and self.hard_negatives == 0:
            raise ValueError("mined negatives are given, but hard_negatives is 0: none would be used")
