"""`fieldmark evaluate`: a saved encoder on the unseen classes of a collection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fieldmark.data.collection import LabelledImages, load_collection, screen_images
from fieldmark.evaluation.zero_shot import ZeroShotResult, evaluate_encoder
from fieldmark.experiments.saved_runs import encoder_folder, read_part
from fieldmark.losses.registry import MetricLossConfig
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.training.config import DataConfig
from fieldmark.training.run_folder import read_config, versions
from fieldmark.training.session import load_split


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated on what."""

    encoder: str = ""
    """Folder of a run, or of a saved encoder."""
    data: str = ""
    """Labelled collection, or a benchmark's folder or archive. Not given: the run's own."""
    split: Literal["test", "validation", "train", "all"] = "test"
    """Classes: test (unseen), validation, train (without validation), or all of the collection."""
    train_fraction: float | None = None
    """Share of classes that is for training. Not given: as the run had it, else 0.5. A split.json wins."""
    validation_fraction: float | None = None
    """Share of the training classes that is for validation. Not given: as the run had it, else 0.2."""
    split_seed: int | None = None
    """Chooses the validation classes. Not given: as the run had it, else 0."""
    dimensions: tuple[int, ...] | None = None
    """Also measure the embeddings cut to these sizes. Not given: the nested sizes that the run was trained with."""
    batch_size: int = 64
    """Pictures encoded at a time."""
    workers: int = 1
    """Processes that decode ahead; 0 decodes in line."""
    device: str = "cpu"
    """Torch device."""
    skip_bad: bool = False
    """Leave out pictures that cannot be decoded (each is named); otherwise they are an error."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A result, and what it is the result of."""

    encoder: Path
    data: str
    split: str
    num_classes: int
    result: ZeroShotResult

    def as_json(self) -> dict[str, Any]:
        """Figures (shares) with their origin."""
        return {
            "encoder": str(self.encoder),
            "data": self.data,
            "split": self.split,
            "num_classes": self.num_classes,
            **self.result.as_json(),
            "versions": versions(),
        }


def evaluate_saved(config: EvaluationConfig) -> Evaluation:
    """Load, encode, compare.

    The classes of a split are those that the run itself had, unless the configuration says otherwise: an
    encoder is not to be tested by mistake on classes that it was trained on.

    Raises:
        ValueError: no encoder or pictures there, pictures that cannot be decoded, or a split without classes.
    """
    if not config.encoder:
        raise ValueError("no encoder given: set --encoder to the folder of a run or of a saved encoder")
    folder = encoder_folder(Path(config.encoder))
    images, data = _images(config, folder)
    if len(images) == 0:
        raise ValueError(f"the {config.split} split of {data} is empty: choose another --split or --train_fraction")
    encoder = RetrievalEncoder.from_pretrained(folder, device=config.device)
    sizes = _trained_sizes(folder) if config.dimensions is None else config.dimensions
    result = evaluate_encoder(encoder, images, batch_size=config.batch_size, workers=config.workers, dimensions=sizes)
    return Evaluation(folder, data, config.split, images.num_classes, result)


def _trained_sizes(folder: Path) -> tuple[int, ...]:
    """`metric.dimensions` of the run that the encoder belongs to; empty if it belongs to none."""
    run = folder.parent if folder.name == "encoder" else folder
    if not (run / "config.yaml").is_file():
        return ()
    return tuple(read_part(MetricLossConfig, read_config(run), "metric", run).dimensions)


def _images(config: EvaluationConfig, folder: Path) -> tuple[LabelledImages, str]:
    """The pictures, and the path that they came from."""
    run = folder.parent if folder.name == "encoder" else folder
    of_a_run = (run / "config.yaml").is_file()
    data = read_part(DataConfig, read_config(run), "data", run) if of_a_run else DataConfig()
    path = config.data or data.path
    if not path:
        raise ValueError(f"no pictures given, and {folder} belongs to no run that tells which: set --data FOLDER")
    if config.split == "all":
        images, bad = screen_images(load_collection(path), skip_bad=config.skip_bad, workers=config.workers)
        for one in bad:
            print(f"left out: {one}")
        return images, path

    def given(value: Any, default: Any) -> Any:
        return default if value is None else value

    split = load_split(
        DataConfig(
            path=path,
            train_fraction=given(config.train_fraction, data.train_fraction),
            validation_fraction=given(config.validation_fraction, data.validation_fraction),
            split_seed=given(config.split_seed, data.split_seed),
            workers=config.workers,
            skip_bad=config.skip_bad,
        )
    )
    return {"test": split.test, "validation": split.validation, "train": split.train}[config.split], path
