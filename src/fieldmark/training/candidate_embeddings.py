"""Candidates of a step, embedded under the policy that is being trained (ELVA, section 3)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.training.elva_config import CandidatesConfig, SummaryConfig

_REFERENCE_BATCHES = 8
"""So many steps' candidates are remembered as the reference embeds them: it never changes, memory is what bounds it."""


class RememberedRows:
    """Embeddings of candidates that need not be made again, at most ``capacity`` of width ``width``.

    Attributes:
        tensors: all that is known, fixed in size: stored with checkpoints, so that a resumed run ranks the same
            numbers.
    """

    def __init__(self, capacity: int, width: int) -> None:
        self.tensors: Mapping[str, Tensor] = {
            "places": torch.full((capacity,), -1, dtype=torch.int64),
            "embeddings": torch.zeros(capacity, width),
        }

    def forget(self) -> None:
        """Everything."""
        self.tensors["places"].fill_(-1)

    def rows(self, places: Sequence[int], embed: Callable[[list[int]], Tensor]) -> Tensor:
        """Embeddings (n, D) of distinct candidates.

        Args:
            places: (n,) their positions in the pool, no more than the capacity. Where the unknown ones do not fit,
                everything else is forgotten.
            embed: indices into ``places`` to the embeddings of those that are not known.
        """
        known = self.tensors["places"]
        row_of = {place: row for row, place in enumerate(known.tolist()) if place >= 0}
        missing = [i for i, place in enumerate(places) if place not in row_of]
        if len(row_of) + len(missing) > len(known):
            self.forget()
            row_of, missing = {}, list(range(len(places)))
        if missing:
            stop = len(row_of) + len(missing)
            self.tensors["embeddings"][len(row_of) : stop] = embed(missing)
            known[len(row_of) : stop] = torch.tensor([places[i] for i in missing])
            row_of |= {places[i]: len(row_of) + n for n, i in enumerate(missing)}
        return self.tensors["embeddings"][[row_of[place] for place in places]]


class CandidateEmbedder:
    """Embeds each candidate of a step once, however many queries it stands beside.

    Args:
        most_candidates: distinct ones of one step, at most.
        with_reference: whether `as_reference` will be asked.

    Attributes:
        remembered: what is known of the policy's candidates since the last refresh, and of the reference's, by name:
            stored with checkpoints.
    """

    def __init__(
        self,
        model: UniversalEmbedder,
        config: CandidatesConfig,
        summaries: SummaryConfig,
        most_candidates: int,
        with_reference: bool,
    ) -> None:
        self._model, self._config, self._summaries = model, config, summaries
        window = config.refresh_every if config.refresh_every > 1 else 0
        self._policy = RememberedRows(window * most_candidates, model.embedding_size)
        self.remembered: dict[str, Mapping[str, Tensor]] = {"candidates": self._policy.tensors}
        if with_reference:
            self._reference = RememberedRows(_REFERENCE_BATCHES * most_candidates, model.embedding_size)
            self.remembered["references"] = self._reference.tensors

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
        if step % self._config.refresh_every == 0:
            self._policy.forget()
        return self._policy.rows(places, lambda missing: self._greedy([requests[i] for i in missing]))[None]

    def as_reference(self, places: Sequence[int], requests: Sequence[Request]) -> Tensor:
        """Embeddings (n, D) of distinct candidates by the policy before the run: nothing learned changes them.

        Only if built ``with_reference``. Args as for `embed`.
        """

        def embed(missing: list[int]) -> Tensor:
            with self._model.reference():
                return self._greedy([requests[i] for i in missing])

        return self._reference.rows(places, embed)

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
