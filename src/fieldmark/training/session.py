"""What the metric and the SAGA run share: pictures, encoder, optimiser, validation, checkpoints, the end of a run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldmark.data.collection import LabelledImages, load_collection, screen_images
from fieldmark.data.fieldguide.world import read_attributes
from fieldmark.data.loader import Augmentation, Batch, ImageLoader
from fieldmark.data.samplers import ClassBalancedBatches
from fieldmark.data.seeds import seed_of
from fieldmark.data.splits import ClassSplit, split_classes
from fieldmark.evaluation.zero_shot import evaluate_encoder
from fieldmark.losses.registry import MetricLoss, build_metric_loss
from fieldmark.models.backbone import Backbone, load_backbone
from fieldmark.models.bundled import located
from fieldmark.models.gradient_checkpointing import checkpoint_blocks
from fieldmark.models.pooler import build_pooler
from fieldmark.models.precision import check_device
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.models.tuning import trained_tensors, tune_tower
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.training.checkpoint import Restorable
from fieldmark.training.config import DataConfig, MetricConfig, ModelConfig, SagaConfig
from fieldmark.training.loop import Loop, how_measured
from fieldmark.training.mining import VerdictMemory
from fieldmark.training.optimiser import build_optimiser


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
    path = located(config.supervisor)
    backbone = load_backbone(path, dtype=config.dtype, device=config.device, attention=config.attention)
    backbone.freeze_language()
    return backbone


def prepare_tower(backbone: Backbone, config: ModelConfig, seed: int) -> None:
    """Precision, trained weights and gradient checkpointing of the tower, in place; the same for the same seed.

    Raises:
        ValueError: see `tune_tower` and `checkpoint_blocks`.
    """
    if config.tower_precision == "bfloat16_autocast":
        backbone.tower.float()
    tune_tower(backbone.tower, config.tuning, torch.Generator().manual_seed(seed))
    if config.tower_checkpoint:
        checkpoint_blocks(backbone.tower)


def tower_tokens(encoder: RetrievalEncoder, images: Tensor, config: ModelConfig, seed: int) -> VisionTokens:
    """The tower on a micro-batch of a training: in its precision, and with the adapters' dropout drawn from `seed`."""
    device = torch.device(config.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.tower_precision == "bfloat16_autocast")
    drops = config.tuning.method == "lora" and config.tuning.dropout > 0
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=drops), autocast:
        if drops:
            torch.manual_seed(seed)
        return encoder.tokens(images)


def build_encoder(backbone: Backbone, config: ModelConfig, image_size: int, seed: int) -> RetrievalEncoder:
    """Tower (shared with the backbone) and a fresh pooler, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    pooler = build_pooler(config.pooler, backbone.hidden_size, config.embedding_size, generator)
    return RetrievalEncoder(backbone.tower, pooler.to(config.device), image_size)


class Session(Loop):
    """One run's moving parts. Use as a context manager around the training loop."""

    def __init__(self, config: MetricConfig | SagaConfig, *, resume: bool = False, overwrite: bool = False) -> None:
        if not config.run:
            raise ValueError("no run folder given: set --run FOLDER")
        began = time.perf_counter()
        self.config = config
        check_device(config.model.device)  # before all pictures are decoded
        self.split = load_split(config.data)
        self.backbone = load_supervisor(config.model)
        prepare_tower(self.backbone, config.model, config.seed)
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
        total_steps = s.steps or max(1, round(s.epochs * len(self.split.train) / d.batch_size))
        self.metric_loss: MetricLoss = build_metric_loss(
            config.metric,
            self.split.train.num_classes,
            self.encoder.embedding_size,
            generator=torch.Generator().manual_seed(config.seed),
        ).to(config.model.device)
        optimiser, scheduler = build_optimiser(
            config.optimiser,
            self.encoder.tower.parameters(),
            self.encoder.pooler.parameters(),
            self.metric_loss.parameters(),
            total_steps,
        )
        # One generator for pairs and prompts, one for tokens would do; a single one is easier to restore.
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.verdicts: VerdictMemory | None = None
        if isinstance(config, SagaConfig) and config.pairs.remembers_verdicts:
            self.verdicts = VerdictMemory(self.split.train.num_classes, config.pairs.mining_memory)
        self._batches: Iterator[Batch] | None = None
        super().__init__(
            config,
            schedule=s,
            total_steps=total_steps,
            modules=self._trained(),
            generators={"rollouts": self.generator},
            optimiser=optimiser,
            scheduler=scheduler,
            clip_norm=config.optimiser.clip_norm,
            rate_of="tower",
            shown=("loss", "reward", "mixed", "unparseable", "tokens", "val_recall_at_1"),
            resume=resume,
            overwrite=overwrite,
            began=began,
        )

    def _trained(self) -> dict[str, Restorable]:
        trained: dict[str, Restorable] = {"pooler": self.encoder.pooler, "loss": self.metric_loss}
        if self.config.model.tuning.method == "full":
            trained["tower"] = self.encoder.tower
        elif self.trains_tower:
            trained["tower"] = trained_tensors(self.encoder.tower)
        return trained if self.verdicts is None else {**trained, "verdicts": self.verdicts.tensors}

    def __exit__(self, *exception: object) -> None:
        self.loader.close()
        super().__exit__(*exception)

    def next_batch(self) -> Batch:
        """The next micro-batch, decoded ahead; a resumed run goes on where it stopped."""
        if self._batches is None:
            self._batches = self.loader.iterate(self.progress.batches, None)
        self.progress.batches += 1
        batch = next(self._batches)
        device = self.config.model.device
        return Batch(batch.images.to(device), batch.labels.to(device), batch.indices)

    @property
    def trains_tower(self) -> bool:
        """Whether any weight of the tower is trained."""
        return self.config.model.tuning.method != "frozen"

    def tokens(self, images: Tensor) -> VisionTokens:
        """The tower on the latest micro-batch. What is random in it follows from the run's seed and the batch's number,
        so a resumed run draws the same.
        """
        seed = seed_of(self.config.seed, self.progress.batches)
        return tower_tokens(self.encoder, images, self.config.model, seed)

    def validate(self) -> dict[str, float]:
        """Recall@1 on the validation classes."""
        result = evaluate_encoder(self.encoder, self.split.validation, workers=0, nmi_seeds=())
        return {"recall_at_1": result.recall_at_k[1]}

    def save(self, folder: Path) -> None:
        """The encoder without its supervisor."""
        self.encoder.save_pretrained(folder)

    def finish(self) -> dict[str, Any]:
        """The end: keep the chosen weights, read the test classes once, write results.json (the last file of a run)."""
        if self.config.schedule.select == "last":
            self.save(self.run.encoder)
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
            **how_measured(self.config.seed, self.seconds),
        }
        self.run.write_json("results.json", results)
        return results


def attributes_of(images: LabelledImages) -> list[dict[str, str]]:
    """True attributes of every picture of a Fieldguide collection, in order.

    Raises:
        ValueError: if the collection does not know them.
    """
    known = read_attributes(images.root)
    return [known[one] for one in images.ids]
