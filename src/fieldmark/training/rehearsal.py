"""Summaries that an embedder goes on writing while it learns to embed.

Contrastive training asks a model for no word, and a model that is asked for none soon writes none: on the bundled model
a hundred steps were enough. ELVA's third stage samples summaries, so what the model could write has to outlive the
stages before. Known summaries of training queries and candidates, the base's own (`fieldmark data summaries`) or those
of people, are replayed beside each contrastive batch:

    L = L_InfoNCE − λ / |T| · Σ_t log π(y_t)        T: tokens of the step's summaries, the [RET] behind each included

which is the policy gradient of summaries that all have the advantage 1. A share of the batch may be contrasted behind
its known summaries (``contrasted``): a state at [RET] that was only ever trained behind a bare prompt takes a summary
for a disturbance. Not part of ELVA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.multimodal.json_lines import find_positions
from fieldmark.data.retrieval import RetrievalTask
from fieldmark.data.summaries import read_summaries
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.policy.gradient import PolicyGroup, ReplayConfig, backpropagate
from fieldmark.policy.replay import ReplayGroup
from fieldmark.training.distribution import sum_numbers, world


@dataclass(frozen=True)
class RehearsalConfig:
    """Summaries that are rehearsed.

    Raises:
        ValueError: a number out of range.
    """

    path: str | None = None
    """JSONL of known summaries (`fieldmark data summaries`); null rehearses none. Those of queries that are held out,
    and of others that the training data do not have, are left aside."""
    per_step: int = 16
    """Summaries a step, of all processes together."""
    weight: float = 1.0
    """λ, weight of their cross-entropy beside InfoNCE."""
    contrasted: float = 0.0
    """Share of the batch's queries and candidates, of those that have a known summary, whose embedding is read behind
    it, as the third stage will read it, instead of in one word. 0: none."""
    alone: float = 0.0
    """Share of these whose prompt is left empty, so that the embedding has nothing to go by but the summary: where the
    prompt says it all, an embedding learns to pass summaries over."""

    def __post_init__(self) -> None:
        if self.per_step < 1 or not 0 < self.weight < float("inf"):
            raise ValueError(
                f"rehearsal needs per_step of at least 1 and a positive weight, got {self.per_step} and {self.weight}"
            )
        for name in ("contrasted", "alone"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"rehearsal.{name} is a share, from 0 to 1, got {getattr(self, name)}")
        if self.contrasted and self.path is None:
            raise ValueError("rehearsal.contrasted needs summaries: set rehearsal.path (`fieldmark data summaries`)")
        if self.alone and not self.contrasted:
            raise ValueError("rehearsal.alone is a share of what is contrasted behind summaries: set contrasted, too")


class Rehearsal:
    """The known summaries of a task, drawn anew at every step.

    Raises:
        ValueError: a file that cannot be read, or none of whose summaries belongs to the task.
    """

    def __init__(self, config: RehearsalConfig, task: RetrievalTask, seed: int) -> None:
        assert config.path is not None
        self._config, self._task, self._seed = config, task, seed
        known = read_summaries(Path(config.path))
        queries = find_positions(task.queries, (one.id for one in known if one.of == "query"))
        candidates = find_positions(task.candidates, (one.id for one in known if one.of == "candidate"))
        first = len(task.queries)
        self._known = [(queries[one.id], one.summary) for one in known if one.of == "query" and one.id in queries]
        self._known += [
            (first + candidates[one.id], one.summary) for one in known if one.of == "candidate" and one.id in candidates
        ]
        if not self._known:
            raise ValueError(f"{config.path} sums up no query and no candidate of {task.name}: is it of other data?")
        self._of: dict[int, list[str]] = {}
        for place, summary in self._known:
            self._of.setdefault(place, []).append(summary)

    def __len__(self) -> int:
        return len(self._known)

    def places(self, batch: int) -> list[int]:
        """What this process rehearses beside batch number ``batch``: places among queries, then candidates."""
        return [place for place, _ in self._drawn(batch)]

    def behind_summaries(
        self, model: UniversalEmbedder, requests: Sequence[Request], places: Sequence[int], batch: int
    ) -> tuple[list[Request], list[Tensor | None]]:
        """What of a batch's requests is embedded, and behind which summary: token ids, [RET] included; None: in one
        word.

        places: the requests', as of `places`. What is drawn for a place depends on nothing else in the batch.
        """
        summaries: list[Tensor | None] = [None] * len(requests)
        asked = list(requests)
        for i, place in enumerate(places):
            known = self._of.get(place, ())
            rng = np.random.default_rng([self._seed, 7, batch, place])
            if known and rng.random() < self._config.contrasted:
                asked[i] = replace(requests[i], hidden=bool(rng.random() < self._config.alone))
                summaries[i] = self._ids(model, known[rng.integers(len(known))])
        return asked, summaries

    @staticmethod
    def _ids(model: UniversalEmbedder, summary: str) -> Tensor:
        """The summary's tokens, [RET] behind them."""
        ids = model.backbone.tokenizer(summary, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, model.summary_id])

    def backward(self, model: UniversalEmbedder, batch: int, pictures: Sequence[Tensor | None]) -> float:
        """Add this process's part of the gradient; returns the mean −log π of all processes' tokens, in nats.

        pictures: of `places`, decoded.
        """
        drawn = self._drawn(batch)
        rng = np.random.default_rng([self._seed, 6, batch])
        requests = [self._request(place, picture, rng) for (place, _), picture in zip(drawn, pictures, strict=True)]
        ids = [self._ids(model, text) for _, text in drawn]
        seen = model.pictures(requests)
        one = torch.ones(1)
        groups = [
            # Nothing was sampled: the log-probabilities then, which only a clip would read, are not known.
            PolicyGroup(ReplayGroup(model.prompt(request, "generative"), of, (y,)), (torch.zeros(len(y)),), one)
            for request, of, y in zip(requests, seen.of, ids, strict=True)
        ]
        (tokens,) = sum_numbers(float(sum(len(y) for y in ids)))
        how = ReplayConfig(prompts_per_chunk=max(1, len(groups)))
        weight = self._config.weight
        found = backpropagate(model.backbone, seen.vision.detach(), groups, int(tokens), how, weight=weight)
        return sum_numbers(found.loss)[0]

    def _drawn(self, batch: int) -> list[tuple[int, str]]:
        rng = np.random.default_rng([self._seed, 5, batch])
        count = min(self._config.per_step, len(self._known))
        chosen = rng.choice(len(self._known), count, replace=False)
        return [self._known[i] for i in world().share(chosen.tolist())]

    def _request(self, place: int, picture: Tensor | None, rng: np.random.Generator) -> Request:
        first = len(self._task.queries)
        if place >= first:
            return Request(self._task.candidates[place - first], "", picture)
        query = self._task.queries[place].reworded(rng)
        return Request(query.item, query.instruction, picture)
