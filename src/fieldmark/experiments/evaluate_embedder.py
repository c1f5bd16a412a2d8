"""`fieldmark evaluate mbeir|mrbench|video` and `fieldmark data mrbench`: loads what `evaluation` looks at."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fieldmark.data.multimodal.video_tasks import INSTRUCTION, read_video_task
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.grain_listing import AskingConfig, model_asker
from fieldmark.evaluation.mbeir import MbeirConfig, MbeirTable, evaluate_mbeir
from fieldmark.evaluation.mrbench import MrbenchConfig, MrbenchResult, evaluate_mrbench
from fieldmark.evaluation.video import VideoResult, evaluate_video
from fieldmark.experiments.mrbench_building import MrbenchBuildConfig, TaskBuilding, build_mrbench
from fieldmark.models.embedding_prompts import Mode
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.training.config import ModelConfig
from fieldmark.training.embedder_model import asked_config, embedder_folder
from fieldmark.training.session import load_supervisor


@dataclass(frozen=True)
class EmbedderSource:
    """Which embedder is evaluated."""

    path: str = ""
    """Folder of a run, a saved embedder, a peft adapter or a whole model; or a hub id, or "bundled"."""
    base: str | None = None
    """The model that an adapter belongs to. Not given: the one that its files name."""
    mode: Mode | None = None
    """one_word or generative. Not given: as it was saved."""
    max_new_tokens: int | None = None
    """Most tokens of a summary. Not given: as it was saved."""
    image_size: int | None = None
    """Side in pixels to which pictures are resized. Not given: as it was saved."""
    dtype: str = "float32"
    """Weights and activations; "auto" takes bfloat16 where the processor has instructions for it."""
    device: str = "cpu"
    """Torch device."""

    def load(self) -> UniversalEmbedder:
        """Load it, in evaluation mode.

        Raises:
            ValueError: no path, or nothing there that could embed.
        """
        if not self.path:
            raise ValueError("no embedder given: set --embedder to the folder of a run or of a saved embedder")
        folder = embedder_folder(self.path)
        config = asked_config(folder, mode=self.mode, max_new_tokens=self.max_new_tokens, image_size=self.image_size)
        return load_embedder(folder, self.base, config=config, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class MbeirEvaluation:
    """M-BEIR's table for one embedder."""

    embedder: EmbedderSource = field(default_factory=EmbedderSource)
    data: MbeirConfig = field(default_factory=MbeirConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True)
class MrbenchEvaluation:
    """The multi-grain benchmark for one embedder."""

    embedder: EmbedderSource = field(default_factory=EmbedderSource)
    data: MrbenchConfig = field(default_factory=MrbenchConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True)
class VideoData:
    """Captions and videos."""

    annotations: str = ""
    """MSR-VTT's JSON or 1k-A CSV, or MSVD's text, or a file of one's own in one of these formats."""
    videos: str = ""
    """Folder of video files, or of folders of frames, named by video id."""
    ids: str | None = None
    """File with the ids to take, one a line (MSVD's test split)."""
    split: str | None = None
    """Take only this split of a JSON that names splits."""
    missing: Literal["error", "skip"] = "error"
    """Videos that are not there: an error, or left out with their captions."""
    instruction: str = INSTRUCTION
    """What each caption comes with."""


@dataclass(frozen=True)
class VideoEvaluation:
    """Text → video retrieval for one embedder."""

    embedder: EmbedderSource = field(default_factory=EmbedderSource)
    data: VideoData = field(default_factory=VideoData)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True)
class MrbenchBuilding:
    """A multi-grain benchmark from a collection."""

    build: MrbenchBuildConfig = field(default_factory=MrbenchBuildConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    asking: AskingConfig = field(default_factory=AskingConfig)


def run_mbeir(config: MbeirEvaluation) -> MbeirTable:
    """Load and evaluate; says on the way what it embeds."""
    if not config.data.root:
        raise ValueError("no data given: set --root to a folder in M-BEIR's layout")
    generator = np.random.default_rng(config.seed)
    return evaluate_mbeir(config.embedder.load(), config.data, config.encoding, generator, say=print)


def run_mrbench(config: MrbenchEvaluation) -> MrbenchResult:
    """Load and evaluate; says on the way what it embeds."""
    if not config.data.benchmark or not config.data.root:
        raise ValueError("set --benchmark to the JSONL of `fieldmark data mrbench`, and --root to its collection")
    generator = np.random.default_rng(config.seed)
    return evaluate_mrbench(config.embedder.load(), config.data, config.encoding, generator, say=print)


def run_video(config: VideoEvaluation) -> VideoResult:
    """Load and evaluate; says on the way what it embeds."""
    data = config.data
    if not data.annotations or not data.videos:
        raise ValueError("set --annotations to the file of captions, and --videos to the folder of videos")
    task = read_video_task(
        data.annotations,
        data.videos,
        ids=data.ids,
        split=data.split,
        missing=data.missing,
        instruction=data.instruction,
    )
    generator = np.random.default_rng(config.seed)
    return evaluate_video(config.embedder.load(), task, config.encoding, generator, say=print)


def run_mrbench_building(config: MrbenchBuilding, out: Path, *, force: bool = False) -> list[TaskBuilding]:
    """Build the benchmark; a model is loaded only if it is to be asked."""
    if config.build.grains == "annotation":
        return build_mrbench(config.build, out, force=force, say=print)
    ask = model_asker(load_supervisor(config.model), config.asking)
    name = Path(config.model.supervisor).name
    size = config.asking.batch_size
    return build_mrbench(config.build, out, ask=ask, by=name, batch_size=size, force=force, say=print)
