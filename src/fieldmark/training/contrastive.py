"""`fieldmark train contrastive`: ELVA's stages 1 and 2 (arXiv 2606.20280), a batch of any size in a chunk's memory.

A step: draw queries, each with one positive and perhaps hard negatives; embed all of them in one-word mode, chunk by
chunk, with GradCache around InfoNCE over the whole batch of all processes; replay known summaries, if there are any
(`training.rehearsal`); one AdamW step of the adapter.

Inside a batch, requests of like length share a chunk, which saves padding. Batches are not made of like lengths: each
query keeps negatives of every length and task.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.contrastive_batches import ContrastiveBatches, Example, hold_out
from fieldmark.data.mined_negatives import read_mined
from fieldmark.data.multimodal.item_loader import ItemLoader
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.evaluation.retrieval import top_k
from fieldmark.losses.contrastive import NO_ID
from fieldmark.models.embedding_pictures import count_tokens
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.contrastive_loss import BatchIds, contrastive_loss
from fieldmark.training.distribution import gather_rows, process_group, require_same, sum_gradients, world
from fieldmark.training.embedder_model import load_for_training
from fieldmark.training.grad_cache import backward_in_chunks
from fieldmark.training.loop import Loop, how_measured
from fieldmark.training.optimiser import build_adapter_optimiser
from fieldmark.training.rehearsal import Rehearsal
from fieldmark.training.retrieval_data import load_training_task

VALIDATION_RANKS = (1, 5, 10)


def train_contrastive(config: ContrastiveConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train, and save the embedder to RUN/encoder. Joins the processes of a launcher, if there is one (torchrun).

    Returns what results.json holds. Raises ValueError before the first step for bad input, NonFiniteLoss during it.
    """
    with process_group(config.model.device):
        run = Contrastive(config, resume=resume, overwrite=overwrite)
        with run:
            while run.progress.step < run.total_steps:
                run.after_step(run.step())
        return run.finish()


class Contrastive(Loop):
    """The parts of a run, and its step."""

    def __init__(self, config: ContrastiveConfig, *, resume: bool = False, overwrite: bool = False) -> None:
        if not config.run:
            raise ValueError("no run folder given: set --run FOLDER")
        began = time.perf_counter()
        here = world()
        if config.batch_size < 2 * here.size:
            raise ValueError(
                f"batch_size is {config.batch_size}, less than two queries for each of {here.size} processes"
            )
        self.config = config
        d, s = config.data, config.schedule
        self.train, self.held_out = hold_out(
            load_training_task(d), config.validation.queries, config.validation.candidates, config.seed
        )
        mined = None if config.mined is None else read_mined(Path(config.mined))
        self.batches = ContrastiveBatches(
            self.train, config.batch_size, config.hard_negatives, config.seed, mined, config.mined_depth
        )
        self.rehearsal = Rehearsal(config.rehearsal, self.train, config.seed) if config.rehearsal.path else None
        self.model = load_for_training(config.model, config.seed)
        if config.model.embedder.slot == "last":  # then no prompt holds [RET]
            self.model.summary_token.row.requires_grad_(False)
        total_steps = s.steps or max(1, round(s.epochs * self.batches.num_queries / config.batch_size))
        trained = self.model.trainable_parameters()
        require_same("configuration", repr(replace(config, run="")))
        require_same("initial weights", self.model.fingerprint())
        tower = {id(p) for p in self.model.backbone.tower_parameters()}
        optimiser, scheduler = build_adapter_optimiser(
            config.optimiser,
            [p for p in trained.values() if id(p) not in tower],
            [p for p in trained.values() if id(p) in tower],
            total_steps,
        )
        self._trained = tuple(trained.values())
        pictures = ItemPictures(self.train.queries, self.train.candidates)
        self.loader = ItemLoader(pictures, self.model.config.image_size, workers=d.workers)
        self._pictures: Iterator[list[Tensor | None]] | None = None
        super().__init__(
            config,
            schedule=s,
            total_steps=total_steps,
            modules={"adapter": trained},
            generators={},
            optimiser=optimiser,
            scheduler=scheduler,
            clip_norm=config.optimiser.clip_norm,
            rate_of="adapter",
            shown=("loss", "accuracy", "val_recall_at_1", "val_recall_at_5"),
            resume=resume,
            overwrite=overwrite,
            began=began,
        )

    def __exit__(self, *exception: object) -> None:
        self.loader.close()
        super().__exit__(*exception)

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its figures."""
        config = self.config
        examples = self._examples(self.progress.batches)
        batch = self.progress.batches
        with self.log.phase("pictures"):
            pictures = self._next_pictures()
            count = len(examples) + len(_candidates(examples))
            requests, summaries = self._requests(examples, pictures[:count], batch)
        ids = self._ids(examples)
        self.progress.batches += 1

        # The longest first: if a chunk does not fit the memory, the first step says so.
        lengths = torch.tensor([_num_tokens(self.model, *one) for one in zip(requests, summaries, strict=True)])
        order = lengths.argsort(descending=True, stable=True)
        chunks = [chunk.tolist() for chunk in order.split(config.chunk_size)]
        place = order.argsort()

        self.model.train()
        self.zero_grad()
        with self.log.phase("embed"), self._dropout():
            figures = backward_in_chunks(
                lambda chunk: self.model.embed_summaries([requests[i] for i in chunk], [summaries[i] for i in chunk]),
                chunks,
                lambda rows: contrastive_loss(rows[place], ids, config.temperature),
                self.model.backbone.device,
                config.keep_graphs,
            )
        rehearsed = {}
        if self.rehearsal is not None:
            with self.log.phase("rehearsal"), self._dropout():
                rehearsed["rehearsal"] = self.rehearsal.backward(self.model, batch, pictures[count:])
        with self.log.phase("update"):
            sum_gradients(self._trained)
            update = self.update({"contrastive": figures.loss, **rehearsed})
        return {
            "loss": figures.loss,
            "accuracy": figures.correct / figures.queries,
            "candidates": figures.candidates,
            "padding": _padding(lengths, chunks),
            **rehearsed,
            **update,
        }

    # ---- a batch

    def _examples(self, batch: int) -> Sequence[Example]:
        """This process's part."""
        return world().share(self.batches.batch(batch))

    def _next_pictures(self) -> list[Tensor | None]:
        """Of the next batch, decoded ahead; a resumed run goes on where it stopped."""
        if self._pictures is None:
            first = self.batches.num_queries
            numbers = (
                [
                    *(e.query for e in examples),
                    *(first + c for c in _candidates(examples)),
                    *(() if self.rehearsal is None else self.rehearsal.places(batch)),
                ]
                for batch, examples in ((b, self._examples(b)) for b in itertools.count(self.progress.batches))
            )
            self._pictures = self.loader.iterate(numbers)
        return next(self._pictures)

    def _requests(
        self, examples: Sequence[Example], pictures: Sequence[Tensor | None], batch: int
    ) -> tuple[list[Request], list[Tensor | None]]:
        """Queries, their positives, then hard negatives; and the summary behind which each is embedded, if any."""
        queries = [
            self.train.queries[e.query].reworded(np.random.default_rng([self.config.seed, 3, batch, e.query]))
            for e in examples
        ]
        asked = [(query.item, query.instruction) for query in queries]
        asked += [(self.train.candidates[c], "") for c in _candidates(examples)]
        requests = [
            Request(item, instruction, picture) for (item, instruction), picture in zip(asked, pictures, strict=True)
        ]
        if self.rehearsal is None:
            return requests, [None] * len(requests)
        first = self.batches.num_queries
        places = [*(e.query for e in examples), *(first + c for c in _candidates(examples))]
        return self.rehearsal.behind_summaries(self.model, requests, places, batch)

    def _ids(self, examples: Sequence[Example]) -> BatchIds:
        known = [torch.tensor(self.batches.positives[e.query]) for e in examples]
        positives = torch.nn.utils.rnn.pad_sequence(known, batch_first=True, padding_value=NO_ID)
        return BatchIds(len(examples), torch.tensor(_candidates(examples)), positives)

    @contextmanager
    def _dropout(self) -> Iterator[None]:
        """Inside, dropout is a function of (seed, batch, process): a resumed run drops the same. torch's own random
        state is as before afterwards."""
        device = self.model.backbone.device
        words = np.random.SeedSequence([self.config.seed, 4, self.progress.batches, world().rank]).generate_state(2)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((int(words[0]) << 31) ^ int(words[1]))
            yield

    # ---- around the steps

    def validate(self) -> dict[str, float]:
        """Recall@K of the held-out queries in their small pool."""
        task = self.held_out
        requests = [Request(q.item, q.instruction) for q in task.queries] + [Request(c) for c in task.candidates]
        rows = self._encode(requests)
        queries, candidates = rows[: len(task.queries)], rows[len(task.queries) :]
        ids = [c.id for c in task.candidates]
        depth = min(max(VALIDATION_RANKS), len(ids))
        ranked = top_k(queries, candidates, k=depth).indices.tolist()
        hits = [[ids[c] in task.relevance[q.id] for c in row] for q, row in zip(task.queries, ranked, strict=True)]
        return {f"recall_at_{k}": sum(any(row[:k]) for row in hits) / len(hits) for k in VALIDATION_RANKS}

    def _encode(self, requests: Sequence[Request]) -> Tensor:
        """Embeddings in order, each process making its share."""
        here = world()
        own = self.model.encode(here.share(requests), batch_size=self.config.chunk_size).embeddings
        gathered = gather_rows(own.to(self.model.backbone.device)).cpu()
        order = [i for rank in range(here.size) for i in range(rank, len(requests), here.size)]
        return gathered[torch.tensor(order).argsort()]

    def save(self, folder: Path) -> None:
        """The embedder with its adapter."""
        self.model.save_pretrained(folder)

    def finish(self) -> dict[str, Any]:
        """The end: keep the chosen weights, write results.json (the last file of a run)."""
        s, p = self.config.schedule, self.progress
        results = {
            "validation": {"recall_at_1": p.best_recall_at_1, "best_step": p.best_step},
            "selection": f"{s.select}, on {len(self.held_out.queries)} held-out training queries among "
            f"{len(self.held_out.candidates)} candidates",
            "steps": p.step,
            "queries_seen": p.batches * self.config.batch_size,
            "training_queries": len(self.train.queries),
            "candidates": len(self.train.candidates),
            **how_measured(self.config.seed, self.seconds),
        }
        if world().first:
            if s.select == "last":
                self.save(self.run.encoder)
            self.run.write_json("results.json", results)
        return results


def _candidates(examples: Sequence[Example]) -> list[int]:
    """Positions of a batch's candidates: the positives in the queries' order, then all hard negatives."""
    return [*(e.positive for e in examples), *(n for e in examples for n in e.negatives)]


def _num_tokens(model: UniversalEmbedder, request: Request, summary: Tensor | None) -> int:
    patches = count_tokens(model.backbone, request, model.config.image_size)
    if summary is None:
        return len(model.prompt(request, "one_word").ids) + patches
    return len(model.prompt(request, "generative").ids) + patches + len(summary)


def _padding(lengths: Tensor, chunks: Sequence[Sequence[int]]) -> float:
    """Share of the tokens computed that are padding."""
    computed = sum(len(chunk) * int(lengths[chunk].max()) for chunk in chunks)
    return 1 - int(lengths.sum()) / computed
