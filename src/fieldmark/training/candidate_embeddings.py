"""Candidates of a step, embedded under the policy that is being trained (ELVA, section 3)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.training.elva_config import CandidatesConfig, SummaryConfig


class CandidateEmbedder:
    """Embeds each candidate of a step once, however many queries it stands beside.

    Args:
        capacity: most distinct candidates between two refreshes.

    Attributes:
        remembered: what is known of the policy's candidates since the last refresh, fixed in size: stored with
            checkpoints, so that a resumed run ranks the same numbers.
    """

    def __init__(
        self, model: UniversalEmbedder, config: CandidatesConfig, summaries: SummaryConfig, capacity: int
    ) -> None:
        self._model, self._config, self._summaries = model, config, summaries
        size = capacity if config.refresh_every > 1 else 0
        self.remembered: Mapping[str, Tensor] = {
            "places": torch.full((size,), -1, dtype=torch.int64),
            "embeddings": torch.zeros(size, model.embedding_size),
        }

    def embed(
        self, step: int, places: Sequence[int], requests: Sequence[Request], generator: torch.Generator
    ) -> Tensor:
        """Embeddings (S, n, D) of distinct candidates, float32 on the CPU; S is G per rollout, 1 if shared.

        Args:
            step: optimiser steps done: every ``refresh_every`` steps all is embedded anew.
            places: (n,) the candidates' positions in the pool.
            generator: of the summaries that are sampled.
        """
        if self._config.source == "per_rollout":
            return self._sampled(requests, generator)
        if self._config.refresh_every == 1:
            return self._greedy(requests)[None]
        known = self.remembered["places"]
        if step % self._config.refresh_every == 0:
            known.fill_(-1)
        rows = {place: row for row, place in enumerate(known.tolist()) if place >= 0}
        missing = [i for i, place in enumerate(places) if place not in rows]
        if missing:
            stop = len(rows) + len(missing)
            self.remembered["embeddings"][len(rows) : stop] = self._greedy([requests[i] for i in missing])
            known[len(rows) : stop] = torch.tensor([places[i] for i in missing])
            rows |= {places[i]: len(rows) + n for n, i in enumerate(missing)}
        return self.remembered["embeddings"][[rows[place] for place in places]][None]

    def as_reference(self, requests: Sequence[Request]) -> Tensor:
        """Embeddings (n, D) by the policy before the run: nothing that is learned changes them."""
        with self._model.reference():
            return self._greedy(requests)

    def _greedy(self, requests: Sequence[Request]) -> Tensor:
        return self._model.encode(requests, batch_size=self._config.batch_size).embeddings

    def _sampled(self, requests: Sequence[Request], generator: torch.Generator) -> Tensor:
        count, size = self._summaries.group_size, self._config.batch_size
        own = self._config.temperature
        found = torch.zeros(count, len(requests), self._model.embedding_size)
        # Longest first, as in `encode`: prompts of like length share a batch.
        lengths = [len(self._model.prompt(request).ids) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            groups = self._model.sample_summaries(
                [requests[i] for i in chosen],
                num_samples=count,
                temperature=self._summaries.temperature if own is None else own,
                top_p=self._summaries.top_p,
                generator=generator,
            )
            for i, group in zip(chosen, groups, strict=True):
                found[:, i] = torch.stack([summary.embedding for summary in group])
        return found
