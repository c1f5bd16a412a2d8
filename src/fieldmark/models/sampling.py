"""Sampling completions: one prefill per prompt, G branches that share its keys and values.

Decoding is bound by how many keys and values must be read. `generate` copies the prompt's cache for each of
the G branches; here the branches of a prompt are the G *queries* of one row, and a mask lets each of them see
the prompt and its own branch. The prompt's cache exists, and is read, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from fieldmark.models.backbone import Backbone, PromptTokens
from fieldmark.models.vision_tokens import VisionTokens

# Owners of a cached key other than a branch (>= 0): all branches of the prompt, none, and a dummy query.
EVERYONE, NOBODY, DUMMY = -1, -2, -3
FIRST_CANDIDATES = 128
SORTED_VOCABULARY = 8192
"""Up to this size a full distribution is sorted before it is drawn from, which it need not be: seeds keep drawing what
they drew for the committed evidence, and the sort costs little."""


@dataclass(frozen=True)
class Completion:
    """One sampled answer of T tokens.

    ids: int64 (T,), with the stop token when finish_reason is "stop".
    logprobs: float32 (T,), log-probability of each token under the full softmax at temperature 1.
    sampling_logprobs: float32 (T,), under the distribution it was drawn from (temperature, top-p,
    renormalised; zeros for greedy decoding).
    tracked: float32 (T, n_tracked), log-probabilities at temperature 1 of the ids that were to be tracked.
    closing_hidden: (D,), the decoder's state at the closing token, which stands behind the answer, or in the place of
    its stop token; None if no closing token was asked for.
    """

    ids: Tensor
    logprobs: Tensor
    sampling_logprobs: Tensor
    tracked: Tensor
    finish_reason: Literal["stop", "length"]
    closing_hidden: Tensor | None = None


@torch.no_grad()
def sample(
    backbone: Backbone,
    vision: VisionTokens,
    prompts: Sequence[PromptTokens],
    images: Sequence[tuple[int, ...]],
    *,
    num_samples: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    generator: torch.Generator,
    tracked_ids: Sequence[int] = (),
    stop_ids: Sequence[int] | None = None,
    closing_id: int | None = None,
) -> list[list[Completion]]:
    """Draw `num_samples` completions for each prompt: a list per prompt.

    images: per prompt, the pictures of `vision` that fill its placeholders.
    temperature: 0 is greedy (all samples alike). top_p in (0, 1]: the smallest set of tokens with that mass.
    generator: on the CPU; consumes num prompts x num_samples x max_new_tokens uniforms whatever is drawn, so
    that a branch's tokens do not depend on when others finish.
    stop_ids: default the model's; pass () to always run to max_new_tokens. All tensors return on the CPU.
    closing_id: fed to the model once per completion: in the place of its stop token, or after its last token if it ran
    out of room. Its state is `Completion.closing_hidden`. It is no part of `ids` unless it was itself drawn.
    """
    if not prompts:
        return []
    if num_samples < 1 or max_new_tokens < 1:
        raise ValueError(f"num_samples and max_new_tokens must be positive, got {num_samples} and {max_new_tokens}")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"need temperature >= 0 and 0 < top_p <= 1, got {temperature} and {top_p}")
    device, count, branches = backbone.device, len(prompts), num_samples
    stops = torch.tensor(list(backbone.stop_ids if stop_ids is None else stop_ids), dtype=torch.int64, device=device)
    tracked = torch.tensor(list(tracked_ids), dtype=torch.int64, device=device)
    uniforms = torch.rand(count * branches, max_new_tokens, generator=generator, dtype=torch.float64).to(device)

    batch = backbone.embed(prompts, vision.detach(), images, reserve=max_new_tokens + (closing_id is not None))
    cache = Cache(layers=[_GrowingLayer(max_new_tokens * branches) for _ in range(backbone.num_layers)])
    hidden = backbone.decode_prompts(batch, cache)[:, -1:].expand(-1, branches, -1)

    ids = torch.zeros(count * branches, max_new_tokens, dtype=torch.int64, device=device)
    logprobs = torch.zeros(count * branches, max_new_tokens, device=device)
    sampling_logprobs = torch.zeros_like(logprobs)
    tracked_logprobs = torch.zeros(*logprobs.shape, len(tracked), device=device)
    lengths = torch.zeros(count * branches, dtype=torch.int64, device=device)
    stopped = torch.zeros(count * branches, dtype=torch.bool, device=device)
    closing_hidden = hidden.new_zeros(count * branches, hidden.shape[-1])

    slots = _Slots(cache, batch.attention_mask, branches)
    following = torch.zeros(count * branches, dtype=torch.int64, device=device)
    # With a closing token there is one more turn: who ran out of room by then is closed in it.
    for step in range(max_new_tokens + (closing_id is not None)):
        live = slots.branch_of >= 0
        rows = slots.rows[live]
        if step < max_new_tokens:
            logits = backbone.logits(hidden[live])
            token, sampling = _draw(logits, uniforms[rows, step], temperature, top_p)
            normaliser = logits.logsumexp(-1)
            ids[rows, step] = token
            logprobs[rows, step] = logits.gather(-1, token[:, None])[:, 0] - normaliser
            sampling_logprobs[rows, step] = sampling
            tracked_logprobs[rows, step] = logits[:, tracked] - normaliser[:, None]
            lengths[rows] = step + 1
            ended = torch.isin(token, stops)
            stopped[rows] = ended
            following[rows] = token
        else:
            ended = torch.ones_like(rows, dtype=torch.bool)
        if closing_id is None:
            if step + 1 == max_new_tokens or bool(ended.all()):
                break
            if bool(ended.any()):
                slots.retire(ended, hidden)
        else:
            following[rows[ended]] = closing_id

        positions = (batch.next_position[slots.prompt_of] + step)[:, None].expand_as(slots.branch_of)
        hidden = backbone.decode(
            backbone.token_embeddings(following[slots.rows]),
            backbone.text_positions(positions),
            slots.visible_keys()[:, None],
            cache=cache,
        )
        if closing_id is not None and bool(ended.any()):
            closing_hidden[rows[ended]] = hidden[live][ended]
            if bool(ended.all()):
                break
            hidden = slots.retire(ended, hidden)

    ids, logprobs, sampling_logprobs = ids.cpu(), logprobs.cpu(), sampling_logprobs.cpu()
    tracked_logprobs, closing_hidden = tracked_logprobs.cpu(), closing_hidden.cpu()
    ends, finished = lengths.tolist(), stopped.tolist()
    flat = [
        Completion(
            ids[r, :n].clone(),
            logprobs[r, :n].clone(),
            sampling_logprobs[r, :n].clone(),
            tracked_logprobs[r, :n].clone(),
            "stop" if finished[r] else "length",
            None if closing_id is None else closing_hidden[r].clone(),
        )
        for r, n in enumerate(ends)
    ]
    return [flat[start : start + branches] for start in range(0, len(flat), branches)]


class _Slots:
    """Which branch of which prompt each query of the next pass belongs to, and whom each cached key belongs to.

    prompt_of: (prompts that still run,). branch_of: (prompts, slots), DUMMY where a prompt has fewer live branches.
    """

    def __init__(self, cache: Cache, prompt_mask: Tensor, branches: int) -> None:
        count, device = len(prompt_mask), prompt_mask.device
        self._cache, self._branches = cache, branches
        self.prompt_of = torch.arange(count, device=device)
        self.branch_of = torch.arange(branches, device=device).expand(count, branches)
        owner = torch.full(prompt_mask.shape, NOBODY, device=device)
        self._key_owner = owner.masked_fill(prompt_mask, EVERYONE)

    @property
    def rows(self) -> Tensor:
        """(prompts, slots): prompt x branches + branch; a dummy's is that of branch 0."""
        return self.prompt_of[:, None] * self._branches + self.branch_of.clamp(min=0)

    def visible_keys(self) -> Tensor:
        """Give the slots their next key each, and say which keys each slot sees: bool (prompts, slots, keys)."""
        new = self.branch_of.masked_fill(self.branch_of < 0, NOBODY)
        self._key_owner = torch.cat([self._key_owner, new], dim=1)
        return (self._key_owner == EVERYONE)[:, None, :] | (self._key_owner[:, None, :] == self.branch_of[:, :, None])

    def retire(self, ended: Tensor, hidden: Tensor) -> Tensor:
        """Drop the live branches that ended, bool (live,), and prompts without any; what remains of `hidden`."""
        live = self.branch_of >= 0
        self.branch_of = self.branch_of.masked_scatter(live, self.branch_of[live].masked_fill(ended, DUMMY))
        kept = (self.branch_of >= 0).any(1).nonzero()[:, 0]
        if len(kept) < len(self.branch_of):
            self._cache.batch_select_indices(kept)
            self.prompt_of, self.branch_of = self.prompt_of[kept], self.branch_of[kept]
            self._key_owner, hidden = self._key_owner[kept], hidden[kept]
        slots = int((self.branch_of >= 0).sum(1).max())
        order = (self.branch_of < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :slots]
        self.branch_of = self.branch_of.gather(1, order)
        return hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))


def _draw(
    logits: Tensor, uniform: Tensor, temperature: float, top_p: float, candidates: int = FIRST_CANDIDATES
) -> tuple[Tensor, Tensor]:
    """Tokens (n,) from float32 logits (n, V) by inverting the distribution function at `uniform` (n,).

    Returns also their log-probabilities under the distribution drawn from. Sorting whole vocabularies would
    cost more than the model, so only the likeliest candidates are sorted; rows whose nucleus is wider are
    drawn again with more of them.
    """
    if temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits), device=logits.device)
    scaled = logits / temperature
    normaliser = scaled.logsumexp(-1, keepdim=True)
    size = logits.shape[-1]
    if top_p == 1 and size > SORTED_VOCABULARY:
        return _draw_unsorted(scaled - normaliser, uniform)
    everything = top_p == 1 or candidates >= size // 3  # from here on sorting all is faster than selecting
    values, tokens = scaled.sort(dim=-1, descending=True) if everything else scaled.topk(candidates, dim=-1)
    probabilities = (values - normaliser).double().exp()
    cumulative = probabilities.cumsum(-1)
    # A token belongs to the nucleus while the mass before it is below top_p; the first always does.
    kept = (cumulative - probabilities < top_p).sum(-1, keepdim=True).clamp(min=1)
    mass = cumulative.gather(-1, kept - 1)
    chosen = torch.searchsorted(cumulative, uniform[:, None] * mass, right=True).minimum(kept - 1)
    token = tokens.gather(-1, chosen)[:, 0]
    log_probability = ((values - normaliser).gather(-1, chosen) - mass.log().float())[:, 0]
    wider = cumulative[:, -1] < top_p
    if not everything and bool(wider.any()):
        token[wider], log_probability[wider] = _draw(logits[wider], uniform[wider], temperature, top_p, candidates * 8)
    return token, log_probability


def _draw_unsorted(logprobs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the whole distribution, log-probabilities (n, V): nothing is cut, so its order does not matter."""
    cumulative = logprobs.double().exp().cumsum(-1)
    mass = cumulative[:, -1:]
    below = (uniform[:, None] * mass).minimum(mass.nextafter(torch.zeros_like(mass)))  # never a token behind the last
    token = torch.searchsorted(cumulative, below, right=True)
    return token[:, 0], logprobs.gather(-1, token)[:, 0]


class _GrowingLayer(DynamicLayer):
    """Keys and values in a buffer with room to grow: `torch.cat` would copy the whole cache each token.

    Without gradient only. room: tokens expected after the prefill; if more come, it grows again.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = min(room, 256)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._length + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            room = end + max(self._room, end // 2)
            grown = tuple(new.new_empty(*new.shape[:2], room, new.shape[3]) for new in (key_states, value_states))
            if self._buffers is not None:
                for old, new in zip(self._buffers, grown, strict=True):
                    new[:, :, : self._length] = old[:, :, : self._length]
            self._buffers = (grown[0], grown[1])
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._length : end] = new
        self._length = end
        self._expose()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self._buffers is not None:
            self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
            self._expose()

    def _expose(self) -> None:
        assert self._buffers is not None
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)
