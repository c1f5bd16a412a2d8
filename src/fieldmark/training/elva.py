"""`fieldmark train elva`: ELVA's third stage, reinforcement learning by rankings (arXiv 2606.20280, section 3).

    1. draw queries, each with its positive and its negatives
    2. sample G summaries of each query; the state at each one's [RET] is an embedding of the query
    3. embed positives and negatives under the same policy
    4. reward each summary by how its embedding ranks the candidates; advantages within the group
    5. replay the summaries with gradient: GRPO, and KL to the policy before the run
    6. one AdamW step

Trained are the adapter and the row of [RET]; the vision tower is frozen. The reference policy is the same model without
its adapter: what `model.base` was, whichever scheme it was trained in, is folded into the weights before a new adapter
is added. Nothing drops out, so that what is replayed is what was sampled.

Where this differs from the publication: by default candidates are embedded once a step and greedily
(``candidates.source``). Only summaries of queries carry the policy gradient, unless ``candidates.learn`` adds those of
the positives, which steps 2, 4 and 5 then treat alike.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.contrastive_batches import hold_out
from fieldmark.data.mined_negatives import read_mined
from fieldmark.data.multimodal.item_loader import ItemLoader
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.data.ranking_batches import RankingBatches, RankingExample
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import Pictures, Summary
from fieldmark.policy.gradient import Backpropagated, Reference, backpropagate
from fieldmark.policy.query_groups import Candidates, QueryGroup, RankingScorer, similarity_to_positive
from fieldmark.policy.reward_preferences import reward_preferences
from fieldmark.policy.rollouts import mean_logprob_gap
from fieldmark.training.candidate_embeddings import CandidateEmbedder
from fieldmark.training.elva_config import ElvaConfig
from fieldmark.training.embedder_model import load_for_training
from fieldmark.training.held_out import HeldOutQueries
from fieldmark.training.loop import Loop, how_measured
from fieldmark.training.optimiser import build_adapter_optimiser
from fieldmark.training.retrieval_data import load_training_task


@dataclass(frozen=True, eq=False)
class QueryBatch:
    """What a step sees, pictures decoded.

    candidates: distinct, with their positions in the pool. learning: each query's positive, if its summaries are to
    carry the policy gradient, too.
    """

    examples: tuple[RankingExample, ...]
    queries: tuple[Request, ...]
    places: tuple[int, ...]
    candidates: tuple[Request, ...]
    learning: tuple[Request, ...] = ()

    @property
    def summarised(self) -> tuple[Request, ...]:
        """Whose summaries are sampled: the queries, then what else learns."""
        return (*self.queries, *self.learning)


def train_elva(config: ElvaConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train, and save the embedder to RUN/encoder.

    Returns what results.json holds. Raises ValueError before the first step for bad input, NonFiniteLoss during it.
    """
    elva = Elva(config, resume=resume, overwrite=overwrite)
    with elva:
        while elva.progress.step < elva.total_steps:
            elva.after_step(elva.step())
    return elva.finish()


class Elva(Loop):
    """The parts of a run, and its step."""

    def __init__(self, config: ElvaConfig, *, resume: bool = False, overwrite: bool = False) -> None:
        if not config.run:
            raise ValueError("no run folder given: set --run FOLDER")
        began = time.perf_counter()
        if config.model.embedder.mode != "generative":
            raise ValueError("the third stage learns from summaries: set model.embedder.mode to generative")
        if config.model.train_tower:
            raise ValueError("the third stage gives the vision tower no gradient: set model.train_tower to false")
        if config.model.train_words:
            raise ValueError(
                "the reference policy shares the words with the trained one: set model.train_words to false"
            )
        self.config = config
        n, s, v = config.negatives, config.schedule, config.validation
        mined = None if n.mined is None else read_mined(Path(n.mined))
        self.train, held_out = hold_out(load_training_task(config.data), v.queries, v.candidates, config.seed)
        self.batches = RankingBatches(
            self.train,
            config.queries_per_step,
            config.seed,
            positives=n.positives,
            hard=n.hard,
            random=n.random,
            mined=mined,
        )
        self.scorer = RankingScorer(config.reward, config.policy.baseline, config.policy.scale)
        self.model = load_for_training(config.model, config.seed).eval()
        self.held_out = HeldOutQueries(held_out, config.candidates.batch_size, config.data.workers)
        self.candidates = CandidateEmbedder(
            self.model,
            config.candidates,
            config.summaries,
            self.batches.most_candidates,
            config.reward.needs_similarity_to_positive,
        )
        self.reference = None
        if config.policy.kl_weight:
            self.reference = Reference(self.model.reference, config.policy.kl_weight, config.policy.kl)
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        total_steps = s.steps or max(1, round(s.epochs * self.batches.num_queries / config.queries_per_step))
        trained = self.model.trainable_parameters()
        optimiser, scheduler = build_adapter_optimiser(config.optimiser, trained.values(), (), total_steps)
        pictures = ItemPictures(self.train.queries, self.train.candidates)
        self.loader = ItemLoader(pictures, self.model.config.image_size, workers=config.data.workers)
        self._pictures: Iterator[list[Tensor | None]] | None = None
        super().__init__(
            config,
            schedule=s,
            total_steps=total_steps,
            modules={"adapter": trained, **self.candidates.remembered},
            generators={"summaries": self.generator},
            optimiser=optimiser,
            scheduler=scheduler,
            clip_norm=config.optimiser.clip_norm,
            rate_of="adapter",
            shown=("reward", "signal", "kl", "tokens", "forced", "val_recall_at_1", "val_recall_at_5"),
            resume=resume,
            overwrite=overwrite,
            began=began,
        )
        if self.batches.num_short:
            print(f"{self.batches.num_short} of {self.batches.num_queries} queries have fewer negatives than asked for")

    def __exit__(self, *exception: object) -> None:
        self.loader.close()
        super().__exit__(*exception)

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its figures."""
        log = self.log
        self.zero_grad()

        # 1. Queries, each with its positive and negatives.
        with log.phase("pictures"):
            batch = self.next_batch()

        # 2. G summaries of each query; the state at [RET] is an embedding.
        with log.phase("summaries"):
            pictures = self.model.pictures(batch.summarised)
            summaries = self.summarise(batch, pictures)

        # 3. Positives and negatives under the same policy.
        with log.phase("candidates"):
            candidates = self.embed_candidates(batch)

        # 4. What each summary's ranking is worth, relative to the others of its query.
        with log.phase("rewards"):
            groups = self.score(batch, pictures, summaries, candidates)

        # 5. Replay with gradient: the policy loss, and the divergence from the reference.
        with log.phase("replay"):
            found = self.backpropagate(pictures, groups)

        # 6. One step of AdamW.
        with log.phase("update"):
            update = self.update({"policy": found.loss, "divergence": found.divergence})
        queries, learning = groups[: len(batch.queries)], groups[len(batch.queries) :]
        figures = {**_describe(queries), **reward_preferences(queries)}
        if learning:
            other = {**_describe(learning), **reward_preferences(learning)}
            figures |= {f"positive_{name}": value for name, value in other.items()}
        return {**figures, **_describe_update(found, self.config), **update}

    # ---- 1

    def next_batch(self) -> QueryBatch:
        """The next queries and their candidates, decoded ahead; a resumed run goes on where it stopped."""
        if self._pictures is None:
            first = len(self.train.queries)
            drawn = map(self.batches.batch, itertools.count(self.progress.batches))
            numbers = ([*(e.query for e in one), *(first + place for place in _places(one))] for one in drawn)
            self._pictures = self.loader.iterate(numbers)
        examples = tuple(self.batches.batch(self.progress.batches))
        decoded = next(self._pictures)
        rng = np.random.default_rng([self.config.seed, 3, self.progress.batches])
        self.progress.batches += 1
        queries = [self.train.queries[e.query].reworded(rng) for e in examples]
        places = _places(examples)
        candidates = {
            place: Request(self.train.candidates[place], "", picture)
            for place, picture in zip(places, decoded[len(queries) :], strict=True)
        }
        learns = self.config.candidates.learn == "positives"
        return QueryBatch(
            examples,
            tuple(Request(q.item, q.instruction, p) for q, p in zip(queries, decoded[: len(queries)], strict=True)),
            tuple(places),
            tuple(candidates.values()),
            tuple(candidates[example.positives[0]] for example in examples if learns),
        )

    # ---- 2

    def summarise(self, batch: QueryBatch, pictures: Pictures) -> list[list[Summary]]:
        """G summaries of each query, and of what else learns, each with its embedding."""
        s = self.config.summaries
        return self.model.sample_summaries(
            batch.summarised,
            num_samples=s.group_size,
            temperature=s.temperature,
            top_p=s.top_p,
            generator=self.generator,
            pictures=pictures,
        )

    # ---- 3

    def embed_candidates(self, batch: QueryBatch) -> list[Candidates]:
        """Positives and negatives of each query."""
        rows = self.candidates.embed(self.progress.step, batch.places, batch.candidates, self.generator)
        row_of = {place: row for row, place in enumerate(batch.places)}
        needed = self.config.reward.needs_similarity_to_positive
        before = self.candidates.as_reference(batch.places, batch.candidates) if needed else None
        found = []
        for example in batch.examples:
            positives, negatives = ([row_of[p] for p in places] for places in (example.positives, example.negatives))
            alike = None if before is None else similarity_to_positive(before[positives], before[negatives])
            found.append(Candidates(rows[:, positives], rows[:, negatives], alike))
        return found

    # ---- 4

    def score(
        self,
        batch: QueryBatch,
        pictures: Pictures,
        summaries: Sequence[Sequence[Summary]],
        candidates: Sequence[Candidates],
    ) -> list[QueryGroup]:
        """Rewards and advantages of the queries' summaries, then of their positives' if these learn.

        Permuted within the group in the control.
        """
        prompts = [self.model.prompt(request) for request in batch.summarised]
        written = list(zip(prompts, pictures.of, summaries, strict=True))
        queries = [self.train.queries[example.query] for example in batch.examples]
        groups = [
            self.scorer.score_query(query, *of_query, ranked)
            for query, of_query, ranked in zip(queries, written[: len(queries)], candidates, strict=True)
        ]
        for number, (request, of_positive) in enumerate(zip(batch.learning, written[len(queries) :], strict=True)):
            asked, ranked = summaries[number], candidates[number]
            groups.append(self.scorer.score_positive(queries[number], request.item, *of_positive, asked, ranked))
        if self.config.supervision == "permuted":
            groups = [group.permuted(self.generator) for group in groups]
        return groups

    # ---- 5

    def backpropagate(self, pictures: Pictures, groups: Sequence[QueryGroup]) -> Backpropagated:
        """Gradients of the policy loss and the divergence, of the groups whose rewards differ; others add nothing."""
        contributing = [group for group in groups if group.contributes]
        return backpropagate(
            self.model.backbone,
            pictures.vision.detach(),
            [group.for_policy() for group in contributing],
            sum(group.num_tokens for group in contributing),
            self.config.replay,
            clip=self.config.policy.clip,
            reference=self.reference,
        )

    # ---- around the steps

    def validate(self) -> dict[str, float]:
        """Recall@K and grain sensitivity of the held-out queries."""
        return self.held_out.measure(self.model)

    def save(self, folder: Path) -> None:
        """The embedder with its adapter."""
        self.model.save_pretrained(folder)

    def finish(self) -> dict[str, Any]:
        """The end: keep the chosen weights, write results.json (the last file of a run)."""
        s, p = self.config.schedule, self.progress
        if s.select == "last":
            self.save(self.run.encoder)
        results = {
            "validation": {"recall_at_1": p.best_recall_at_1, "best_step": p.best_step},
            "selection": f"{s.select}, on {self.held_out.description}",
            "steps": p.step,
            "queries_seen": p.batches * self.config.queries_per_step,
            "training_queries": self.batches.num_queries,
            "candidates": len(self.train.candidates),
            **how_measured(self.config.seed, self.seconds),
        }
        self.run.write_json("results.json", results)
        return results


def _places(examples: Sequence[RankingExample]) -> list[int]:
    """Distinct candidates of a batch, positives first."""
    together = [p for e in examples for p in e.positives] + [n for e in examples for n in e.negatives]
    return list(dict.fromkeys(together))


def _describe(groups: Sequence[QueryGroup]) -> dict[str, Any]:
    """Figures of the summaries and their rewards.

    signal: share of groups whose rewards differ. reward_std: mean standard deviation within groups. entropy: mean of
    −log π of the sampled tokens, in nats. tokens: mean length. forced: share of summaries that did not end in [RET].
    """
    rewards = torch.stack([group.rewards for group in groups])
    summaries = [summary for group in groups for summary in group.summaries]
    completions = [summary.completion for summary in summaries]
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std(dim=1).mean()),
        "margin_reward": float(torch.stack([group.ranking.margin for group in groups]).mean()),
        "ranking_reward": float(torch.stack([group.ranking.ranking for group in groups]).mean()),
        "rank": float(torch.stack([group.ranking.rank for group in groups]).double().mean()),
        "signal": sum(group.contributes for group in groups) / len(groups),
        "no_spread": sum(not group.contributes for group in groups),
        "entropy": -float(torch.cat([c.logprobs for c in completions]).mean()),
        "tokens": sum(c.ids.numel() for c in completions) / len(completions),
        "forced": sum(summary.forced for summary in summaries) / len(summaries),
        "distinct": len({(id(group), s.text) for group in groups for s in group.summaries}) / len(summaries),
        "logprob_gap": mean_logprob_gap(completions),
    }


def _describe_update(found: Backpropagated, config: ElvaConfig) -> dict[str, float]:
    figures = {"policy_loss": found.loss, "replay_gap": found.replay_gap}
    if config.policy.kl_weight:
        figures["kl"] = found.divergence
    if config.policy.clip is not None:
        figures["clipped"] = found.clipped
    return figures
