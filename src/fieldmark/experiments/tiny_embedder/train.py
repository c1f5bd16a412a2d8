"""`make tiny-embedder`: the bundled embedder in four resumable steps, and its export to the package.

    copying     texts to sum up, without pictures: the circuit that copies values forms here, in minutes
    summaries   the same with pictures
    stage1      `train contrastive` on sentences: paraphrases against contradictions
    stage2      `train contrastive` on a Fieldguide collection, all four directions

Both contrastive stages rehearse summaries, or the model would forget how to write them (docs/log.md). Each step is a
LoRA adapter on what came before. No combination of marks that a test species can have is drawn, nor a
combination of grains that a test query can ask for (`grain_split`).
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.fieldguide.retrieval import NLI_FILE, FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.data.summaries import summary_lines
from fieldmark.experiments.tiny_embedder.summaries import as_example, draw_copy, draw_described, known_summaries
from fieldmark.experiments.tiny_model.fitting import fit, kept_pool
from fieldmark.experiments.tiny_model.language import answer_loss, pool_tokens
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedder_files import EMBEDDER_FILE
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive import train_contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig, HeldOutConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.optimiser import AdapterOptimiserConfig
from fieldmark.training.rehearsal import RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task
from fieldmark.training.run_folder import write_text

POOL_SEED = 4
EMBEDDER = EmbedderConfig(
    slot="summary_token",
    max_new_tokens=40,
    image_size=96,
    one_word_prompt="{text}\n{instruction}",
    generative_prompt="{text}\n{instruction}\nSum up: ",
)
"""How the bundled embedder is asked. Short: its tokenizer spells what it does not know in bytes."""


@dataclass(frozen=True)
class TinyEmbedderConfig:
    """Recipe of the bundled embedder."""

    seed: int = 0
    """Of adapters, pictures and texts."""
    rank: int = 16
    """Of each step's adapter; its alpha is twice that."""
    copying_steps: int = 150
    """Steps on texts alone."""
    copying_batch: int = 64
    """Texts a step."""
    copying_lr: float = 3e-3
    """Peak learning rate on texts alone."""
    summary_steps: int = 250
    """Steps on pictures, alone and with a text."""
    summary_batch: int = 32
    """Examples a step, a quarter of them texts alone."""
    summary_lr: float = 2e-3
    """Peak learning rate with pictures."""
    genera: int = 400
    """Genera of 4 species with 4 pictures each, whose pictures are summed up."""
    stage1_steps: int = 150
    """Steps of stage 1."""
    stage1_batch: int = 96
    """Triplets a step."""
    stage2_steps: int = 600
    """Steps of stage 2."""
    stage2_batch: int = 64
    """Queries a step."""
    rehearsed: int = 20
    """Summaries that are rehearsed at each step of both stages."""
    contrastive_lr: float = 1e-3
    """Peak learning rate of both contrastive stages."""
    species: int = 400
    """Species of the collection of stage 2, all but a few for training."""
    pictures: int = 12
    """Pictures of each, and a few of near misses beside them."""
    queries: int = 4000
    """Training queries of each direction in stage 2, at most."""
    max_grains: int = 4
    """Stage 2's text queries have 1 to this many grains."""
    drafts: int = 1
    """Known summaries of each query and candidate of stage 2, in as many draws."""
    contrasted: float = 0.0
    """Share of stage 2's batches that is embedded behind known summaries (`RehearsalConfig`)."""
    alone: float = 0.0
    """Share of these that is embedded behind the summary alone."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    base: str = "bundled"
    """The model that learns to embed."""


def train_tiny_embedder(config: TinyEmbedderConfig, run: Path, export: Path | None = None) -> Path:
    """Train all four steps in ``run`` (resuming what is there); returns the embedder's folder, copied to ``export``.

    Raises:
        ValueError: ``run`` holds a run of another recipe.
    """
    run.mkdir(parents=True, exist_ok=True)
    recorded, resolved = run / "config.json", json.loads(json.dumps(asdict(config)))
    if recorded.exists() and json.loads(recorded.read_text()) != resolved:
        raise ValueError(f"{run} holds a run of another recipe: choose another folder or delete it")
    write_text(recorded, json.dumps(resolved, indent=1) + "\n")
    base = _teach_summaries(config, run)
    collection = _collection(config, run)
    for stage in ("stage1", "stage2"):
        settings = _contrastive(config, stage, base, collection, run)
        base = run / stage / "encoder"
        if not (run / stage / "results.json").is_file():
            train_contrastive(settings, resume=True)
    if export is not None:
        embedder = load_embedder(base, config=EMBEDDER)
        embedder.base = config.base
        embedder.fold_adapter()
        embedder.save_pretrained(export)
        return export
    return base


def _teach_summaries(config: TinyEmbedderConfig, run: Path) -> Path:
    """Both supervised steps; the folder of the embedder that they end in."""
    folder: str | Path = config.base
    for number, step in enumerate(("copying", "summaries")):
        done = run / step / "encoder"
        if not (done / EMBEDDER_FILE).is_file():
            embedder = load_embedder(folder, config=replace(EMBEDDER, mode="generative"))
            if number:
                embedder.fold_adapter()
            adapter = AdapterConfig(rank=config.rank, alpha=2 * config.rank, dropout=0.0)
            embedder.add_adapter(adapter, torch.Generator().manual_seed(config.seed + number))
            embedder.train()
            _fit_summaries(config, step, embedder, run)
            embedder.eval()
            embedder.save_pretrained(done)
        folder = done
    return Path(folder)


def _fit_summaries(config: TinyEmbedderConfig, step: str, embedder: UniversalEmbedder, run: Path) -> None:
    backbone = embedder.backbone
    pool = kept_pool(run / "pool.npz", config.genera, 0.35, 1.0, POOL_SEED + 10 * config.seed)
    tokens = pool_tokens(backbone, pool.images)

    def loss(number: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 21 + (step == "summaries"), number])
        size = config.copying_batch if step == "copying" else config.summary_batch
        prompts, examples = [], []
        for place in range(size):
            if step == "copying" or place < size // 4:
                request, summary = draw_copy(rng)
                examples.append(as_example(embedder, summary))
            else:
                picture = int(rng.integers(len(pool.images)))
                request, summary = draw_described(pool, picture, rng)
                examples.append(as_example(embedder, summary, picture))
            prompts.append(embedder.prompt(request, "generative"))
        return answer_loss(backbone, tokens, prompts, examples)

    steps, lr = (
        (config.copying_steps, config.copying_lr) if step == "copying" else (config.summary_steps, config.summary_lr)
    )
    trained = embedder.trainable_parameters()
    fit(run / step, {"adapter": trained}, steps, lr, loss, torch.Generator(), config.checkpoint_every)


def _collection(config: TinyEmbedderConfig, run: Path) -> Path:
    """What the contrastive stages read, drawn once."""
    folder = run / "collection"
    if not folder.is_dir():
        world = FieldguideConfig(
            species=config.species,
            per=config.pictures,
            nuisance=0.35,
            habitat=0.0,
            seed=config.seed + 900,
            train_share=0.9,
        )
        sizes = FieldguideRetrieval(
            train_queries=config.queries,
            val_queries=50,
            test_queries=50,
            max_grains=config.max_grains,
            variants=2,
            validation_share=0.05,
        )
        write_fieldguide_retrieval(world, sizes, folder)
    return folder


def _contrastive(config: TinyEmbedderConfig, stage: str, base: Path, collection: Path, run: Path) -> ContrastiveConfig:
    first = stage == "stage1"
    data = RetrievalDataConfig(path=str(collection / NLI_FILE if first else collection), workers=0)
    known = run / f"{stage}-summaries.jsonl"
    if not known.exists():
        rng = np.random.default_rng([config.seed, 23, first])
        task, drafts = load_training_task(data), 1 if first else config.drafts
        drawn = dict.fromkeys(one for _ in range(drafts) for one in known_summaries(task, rng))
        write_text(known, summary_lines(drawn))
    rehearsal = RehearsalConfig(path=str(known), per_step=config.rehearsed)
    if not first:
        rehearsal = replace(rehearsal, contrasted=config.contrasted, alone=config.alone)
    steps, batch = (config.stage1_steps, config.stage1_batch) if first else (config.stage2_steps, config.stage2_batch)
    return ContrastiveConfig(
        run=str(run / stage),
        seed=config.seed,
        data=data,
        validation=HeldOutConfig(queries=200, candidates=400),
        model=EmbedderModelConfig(
            base=str(base),
            adapter=AdapterConfig(rank=config.rank, alpha=2 * config.rank, dropout=0.0),
            embedder=EMBEDDER,
        ),
        batch_size=batch,
        # A chunk of its own for each half would cost another forward pass.
        chunk_size=3 * batch,
        hard_negatives=1 if first else 0,
        rehearsal=rehearsal,
        optimiser=AdapterOptimiserConfig(lr=config.contrastive_lr),
        schedule=ScheduleConfig(
            steps=steps, validate_every=50, checkpoint_every=config.checkpoint_every, select="last"
        ),
    )
