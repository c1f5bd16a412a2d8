"""What the metric and the SAGA run share: pictures, encoder, optimiser, validation, checkpoints, the end of a run."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fieldmark.data.collection import LabelledImages, load_collection, screen_images
from fieldmark.data.fieldguide.world import read_attributes
from fieldmark.data.loader import Augmentation, Batch, ImageLoader
from fieldmark.data.samplers import ClassBalancedBatches
from fieldmark.data.splits import ClassSplit, split_classes
from fieldmark.evaluation.zero_shot import evaluate_encoder
from fieldmark.losses.registry import MetricLoss, build_metric_loss
from fieldmark.models.backbone import Backbone, load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.pooler import build_pooler
from fieldmark.models.precision import check_device
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.training.checkpoint import Restorable, latest_checkpoint, load_checkpoint, save_checkpoint
from fieldmark.training.config import EARLIER, DataConfig, MetricConfig, ModelConfig, SagaConfig
from fieldmark.training.log import TrainingLog
from fieldmark.training.mining import VerdictMemory
from fieldmark.training.optimiser import build_optimiser, check_losses, clip_gradients, learning_rates
from fieldmark.training.run_folder import RunFolder, prepare_run

MAY_DIFFER = ("data.workers", "schedule.checkpoint_every", "tensorboard", "run")


def load_split(config: DataConfig) -> ClassSplit:
    """The collection's training, validation and test classes, every picture known to decode."""
    if not config.path:
        raise ValueError("no pictures given: set data.path (on the command line --data.path FOLDER)")
    collection, bad = screen_images(
        load_collection(Path(config.path)), skip_bad=config.skip_bad, workers=config.workers
    )
    for one in bad:
        print(f"left out: {one}")
    split = split_classes(collection, config.train_fraction, config.validation_fraction, config.split_seed)
    if collection.published is not None and split.differences():
        print(
            f"{config.path} is not the complete {collection.published.benchmark}: {'; '.join(split.differences())}. "
            "Its figures cannot stand beside published ones"
        )
    return split


def load_supervisor(config: ModelConfig) -> Backbone:
    """The multimodal LLM with its language model frozen."""
    path = bundled_path() if config.supervisor == "bundled" else config.supervisor
    backbone = load_backbone(path, dtype=config.dtype, device=config.device, attention=config.attention)
    backbone.freeze_language()
    return backbone


def build_encoder(backbone: Backbone, config: ModelConfig, image_size: int, seed: int) -> RetrievalEncoder:
    """Tower (shared with the backbone) and a fresh pooler, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    pooler = build_pooler(config.pooler, backbone.hidden_size, config.embedding_size, generator)
    return RetrievalEncoder(backbone.tower, pooler.to(config.device), image_size)


@dataclass
class Progress:
    """What a run must remember besides weights: it is stored in every checkpoint."""

    step: int = 0
    batches: int = 0
    best_recall_at_1: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    """Wall time up to the checkpoint, over all starts."""


class Session:
    """One run's moving parts. Use as a context manager around the training loop."""

    def __init__(self, config: MetricConfig | SagaConfig, *, resume: bool = False, overwrite: bool = False) -> None:
        if not config.run:
            raise ValueError("no run folder given: set --run FOLDER")
        self._began = time.perf_counter()
        self.config = config
        check_device(config.model.device)  # before all pictures are decoded
        self.split = load_split(config.data)
        self.backbone = load_supervisor(config.model)
        self.encoder = build_encoder(self.backbone, config.model, config.data.image_size, config.seed)
        d = config.data
        sampler = ClassBalancedBatches(self.split.train.labels, d.batch_size, d.images_per_class, config.seed)
        self.loader = ImageLoader(
            self.split.train,
            d.image_size,
            sampler.batch,
            augmentation=Augmentation(horizontal_flip=d.horizontal_flip, crop_scale_min=d.crop_scale_min),
            seed=config.seed,
            workers=d.workers,
        )
        s = config.schedule
        self.total_steps = s.steps or max(1, round(s.epochs * len(self.split.train) / d.batch_size))
        self.metric_loss: MetricLoss = build_metric_loss(
            config.metric,
            self.split.train.num_classes,
            self.encoder.embedding_size,
            generator=torch.Generator().manual_seed(config.seed),
        ).to(config.model.device)
        self.optimiser, self.scheduler = build_optimiser(
            config.optimiser,
            self.encoder.tower.parameters(),
            self.encoder.pooler.parameters(),
            self.metric_loss.parameters(),
            self.total_steps,
        )
        # One generator for pairs and prompts, one for tokens would do; a single one is easier to restore.
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.verdicts: VerdictMemory | None = None
        if isinstance(config, SagaConfig) and config.pairs.remembers_verdicts:
            self.verdicts = VerdictMemory(self.split.train.num_classes, config.pairs.mining_memory)
        self.run: RunFolder = prepare_run(
            config.run, config, resume, overwrite=overwrite, may_differ=MAY_DIFFER, earlier=EARLIER
        )
        self.progress = Progress()
        last = latest_checkpoint(self.run.checkpoints) if self.run.resumed else None
        if last is not None:
            extra = load_checkpoint(last, self._modules, self.optimiser, self.scheduler, self._generators).extra
            self.progress = Progress(**extra)
        self._batches: Iterator[Batch] | None = None

    @property
    def _modules(self) -> dict[str, Restorable]:
        trained: dict[str, Restorable] = {
            "tower": self.encoder.tower,
            "pooler": self.encoder.pooler,
            "loss": self.metric_loss,
        }
        return trained if self.verdicts is None else {**trained, "verdicts": self.verdicts.tensors}

    @property
    def _generators(self) -> dict[str, torch.Generator]:
        return {"rollouts": self.generator}

    def __enter__(self) -> "Session":
        self.log = TrainingLog(
            self.run.log,
            resume_from=self.progress.step if self.run.resumed else None,
            total_steps=self.total_steps,
            shown=("loss", "reward", "mixed", "unparseable", "tokens", "val_recall_at_1"),
            tensorboard=self.run.tensorboard if self.config.tensorboard else None,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self.loader.close()
        self.log.close()

    def next_batch(self) -> Batch:
        """The next micro-batch, decoded ahead; a resumed run goes on where it stopped."""
        if self._batches is None:
            self._batches = self.loader.iterate(self.progress.batches, None)
        self.progress.batches += 1
        batch = next(self._batches)
        device = self.config.model.device
        return Batch(batch.images.to(device), batch.labels.to(device), batch.indices)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def update(self, losses: dict[str, float]) -> dict[str, float]:
        """Block E: check, clip, one AdamW step, one step of the schedule. Returns figures for the log.

        Raises:
            NonFiniteLoss: before any weight has changed.
        """
        check_losses(self.progress.step, **losses)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, self.config.optimiser.clip_norm)
        rates = learning_rates(self.optimiser)
        self.optimiser.step()
        self.scheduler.step()
        self.progress.step += 1
        return {"grad_norm": norm, "tower_lr": rates.get("tower", 0.0)}

    def after_step(self, figures: dict[str, Any]) -> None:
        """Log, validate and checkpoint when it is time."""
        s, p = self.config.schedule, self.progress
        last = p.step == self.total_steps
        if p.step % s.validate_every == 0 or last:
            with self.log.phase("validation"):
                recall = self.validate()
            figures = {**figures, "val_recall_at_1": recall}
            if recall > p.best_recall_at_1:
                p.best_recall_at_1, p.best_step = recall, p.step
                if s.select == "best":
                    self.encoder.save_pretrained(self.run.encoder)
        self.log.write(p.step, figures)
        if p.step % s.checkpoint_every == 0 and not last:
            extra = {**vars(p), "seconds": self._seconds}
            save_checkpoint(
                self.run.checkpoints, p.step, self._modules, self.optimiser, self.scheduler, self._generators, extra
            )

    @property
    def _seconds(self) -> float:
        """Wall time of this start, and of earlier ones up to the checkpoint that it went on from."""
        return self.progress.seconds + time.perf_counter() - self._began

    def validate(self) -> float:
        """Recall@1 on the validation classes."""
        result = evaluate_encoder(self.encoder, self.split.validation, workers=0, nmi_seeds=())
        return result.recall_at_k[1]

    def finish(self) -> dict[str, Any]:
        """The end: keep the chosen weights, read the test classes once, write results.json (the last file of a run)."""
        if self.config.schedule.select == "last":
            self.encoder.save_pretrained(self.run.encoder)
        chosen = RetrievalEncoder.from_pretrained(self.run.encoder, device=self.config.model.device)
        test = evaluate_encoder(chosen, self.split.test, workers=0, dimensions=self.config.metric.dimensions)
        results = {
            "test": test.as_json(),
            "validation": {"recall_at_1": self.progress.best_recall_at_1, "best_step": self.progress.best_step},
            "selection": f"{self.config.schedule.select} on {self.split.validation.num_classes} validation classes, "
            "taken from the training classes; the test classes were read once, at the end",
            "data": self.split.as_json(),
            "steps": self.progress.step,
            "pictures_seen": self.progress.batches * self.config.data.batch_size,
            **how_measured(self.config.seed, self._seconds),
        }
        self.run.write_json("results.json", results)
        return results


def how_measured(seed: int, seconds: float) -> dict[str, Any]:
    """What results.json says of every run besides its figures."""
    return {"seed": seed, "seconds": seconds, "threads": torch.get_num_threads()}


def attributes_of(images: LabelledImages) -> list[dict[str, str]]:
    """True attributes of every picture of a Fieldguide collection, in order.

    Raises:
        ValueError: if the collection does not know them.
    """
    known = read_attributes(images.root)
    return [known[one] for one in images.ids]
