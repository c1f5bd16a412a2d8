"""Replay: sampled completions through the model once more, with gradient to the vision tokens and to what is trained.

Three ways to the same numbers. `prefix` runs each prompt once with gradient and lets its completions share
keys and values (fastest). `packed` puts [prompt | c_1 | ... | c_G] in one row under a mask and allows
gradient checkpointing. `unpacked` gives every completion a full row of its own: the slow, obvious twin.

The prompt is always run with gradient: SAGA's only way into the tower leads through the prompt's picture
positions, and adapters in the language model (ELVA) act on the prompt's keys and values too.

`replay` gives the completions' log-probabilities; `replay_states` the hidden states before the output head, for what
needs no log-probability: the embedding of a closing token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from fieldmark.models.attention import AttentionTap, capture_attention
from fieldmark.models.backbone import Backbone, PromptBatch, PromptTokens, causal_mask
from fieldmark.models.logprobs import token_logprobs
from fieldmark.models.vision_tokens import VisionTokens

ReplayMethod = Literal["prefix", "packed", "unpacked"]


@dataclass(frozen=True)
class ReplayGroup:
    """One prompt and the completions sampled for it.

    images: the pictures of the vision tokens that fill the prompt's placeholders. completions: int64 (T_g,)
    each.
    """

    prompt: PromptTokens
    images: tuple[int, ...]
    completions: tuple[Tensor, ...]


@dataclass(frozen=True)
class ReplayedStates:
    """The hidden states of some consecutive groups, after the decoder's final norm. Call `backward` on a loss of them
    before asking for the next ones, and the memory of one chunk is all that is ever needed.

    groups: which of the groups given. predicting: (N, D) with gradient, for every completion token, groups and
    completions one after the other, the state that predicts it (of the first token: the prompt's last). targets: int64
    (N,), these tokens. last: per group (number of completions, D) with gradient, the state *at* each completion's last
    token. attention: per group and completion (T_g, prompt length) float32, detached: from each completion token
    onto the prompt, mean over the layer's heads; None unless asked for. image_spans: per group and picture,
    the columns of `attention` that hold its patches.
    """

    groups: range
    predicting: Tensor
    targets: Tensor
    last: tuple[Tensor, ...]
    attention: tuple[tuple[Tensor, ...], ...] | None
    image_spans: tuple[tuple[range, ...], ...]


@dataclass(frozen=True)
class ReplayChunk:
    """The log-probabilities of some consecutive groups, and the states that they were computed from.

    logprobs: per group and completion (T_g,) float32 with gradient.
    """

    logprobs: tuple[tuple[Tensor, ...], ...]
    states: ReplayedStates

    @property
    def groups(self) -> range:
        """Which of the groups given."""
        return self.states.groups

    @property
    def attention(self) -> tuple[tuple[Tensor, ...], ...] | None:
        """As in the states."""
        return self.states.attention

    @property
    def image_spans(self) -> tuple[tuple[range, ...], ...]:
        """As in the states."""
        return self.states.image_spans


def replay(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[ReplayGroup],
    *,
    method: ReplayMethod = "prefix",
    temperature: float = 1.0,
    attention_layer: int | None = None,
    prompts_per_chunk: int = 4,
    checkpoint: bool = False,
) -> Iterator[ReplayChunk]:
    """Yield the groups' log-probabilities, `prompts_per_chunk` prompts at a time.

    temperature: of the distribution whose log-probabilities are asked for (published: 1). The others: see
    `replay_states`.
    """
    chunks = replay_states(
        backbone,
        vision,
        groups,
        method=method,
        attention_layer=attention_layer,
        prompts_per_chunk=prompts_per_chunk,
        checkpoint=checkpoint,
    )
    for states in chunks:
        flat = token_logprobs(states.predicting, states.targets, backbone.head.weight, temperature=temperature)
        lengths = [[len(ids) for ids in groups[number].completions] for number in states.groups]
        pieces = iter(flat.split([length for row in lengths for length in row]))
        yield ReplayChunk(tuple(tuple(next(pieces) for _ in row) for row in lengths), states)


def replay_states(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[ReplayGroup],
    *,
    method: ReplayMethod = "prefix",
    attention_layer: int | None = None,
    prompts_per_chunk: int = 4,
    checkpoint: bool = False,
) -> Iterator[ReplayedStates]:
    """Yield the groups' hidden states, `prompts_per_chunk` prompts at a time.

    vision: usually leaves (`VisionTokens.as_leaves`), whose gradients then gather over chunks; detached where the tower
    is frozen.
    attention_layer: also return this decoder layer's attention (from 0; negative from the end).
    checkpoint: recompute the decoder's activations in the backward pass; only with method="packed", because a
    cache and checkpointing exclude each other.
    """
    if method not in ("prefix", "packed", "unpacked"):
        raise ValueError(f"replay method {method!r} is not one of 'prefix', 'packed', 'unpacked'")
    if checkpoint and method != "packed":
        raise ValueError(f'gradient checkpointing needs method="packed", not {method!r}')
    if checkpoint and attention_layer is not None:
        raise ValueError(
            "attention cannot be captured under checkpointing (the layer would run twice): "
            "replay once without gradient for it"
        )
    if prompts_per_chunk < 1:
        raise ValueError(f"prompts_per_chunk must be positive, got {prompts_per_chunk}")
    for number, group in enumerate(groups):
        if not group.completions or any(ids.dim() != 1 or len(ids) == 0 for ids in group.completions):
            raise ValueError(f"group {number} needs completions of at least one token each")
    run = {"prefix": _prefix, "packed": _packed, "unpacked": _unpacked}[method]
    for start in range(0, len(groups), prompts_per_chunk):
        chunk = groups[start : start + prompts_per_chunk]
        with (
            capture_attention(backbone, attention_layer) if attention_layer is not None else nullcontext() as tap,
            _checkpointing(backbone.decoder) if checkpoint else nullcontext(),
        ):
            predicting, last, attention, batch = run(backbone, vision, chunk, tap)
        targets = torch.cat([ids for group in chunk for ids in group.completions]).to(backbone.device)
        yield ReplayedStates(
            range(start, start + len(chunk)),
            predicting,
            targets,
            last.split([len(group.completions) for group in chunk]),
            attention,
            _unpadded_spans(batch, len(chunk)),
        )


# What the three ways return: states that predict the tokens (N, D), states at the last tokens (rows, D), attention per
# group and completion, and a batch with the prompts' spans.
_Nested = tuple[tuple[Tensor, ...], ...]
_Result = tuple[Tensor, Tensor, _Nested | None, PromptBatch]


def _prefix(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[ReplayGroup],
    tap: AttentionTap | None,
) -> _Result:
    sizes, ids, real = _completion_rows(groups, backbone.device)
    batch = backbone.embed([g.prompt for g in groups], vision, [g.images for g in groups], reserve=ids.shape[1])
    width = batch.attention_mask.shape[1]
    cache = DynamicCache()
    last = backbone.decode_prompts(batch, cache)[:, -1]
    row_of = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(sizes)).to(backbone.device)
    for layer in cache.layers:
        # One size for all groups repeats by expanding, whose backward is a plain sum; else rows are gathered.
        layer.keys, layer.values = (
            states.repeat_interleave(sizes[0], dim=0) if len(set(sizes)) == 1 else states.index_select(0, row_of)
            for states in (layer.keys, layer.values)
        )
    positions = batch.next_position[row_of][:, None] + torch.arange(ids.shape[1], device=ids.device)
    mask = causal_mask(torch.cat([batch.attention_mask[row_of], real], dim=1), ids.shape[1])
    hidden = backbone.decode(backbone.token_embeddings(ids), backbone.text_positions(positions), mask, cache=cache)
    # The first token of each completion is predicted by its prompt's last position.
    predicting = torch.cat([last[row_of][:, None], hidden[:, :-1]], dim=1)
    attention = None
    if tap is not None:
        heard = tap.probabilities[-1][:, :, :width]
        attention = _nested_rows(groups, lambda row, group, length: heard[row, :length, width - batch.lengths[group] :])
    rows = torch.arange(len(hidden), device=ids.device)
    return predicting[real], hidden[rows, real.sum(1) - 1], attention, batch


def _packed(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[ReplayGroup],
    tap: AttentionTap | None,
) -> _Result:
    device = backbone.device
    suffixes = [[token for ids in group.completions for token in ids.tolist()] for group in groups]
    plain = backbone.embed(
        [g.prompt for g in groups],
        vision,
        [g.images for g in groups],
        padding_side="right",
        reserve=max(len(ids) for g in groups for ids in g.completions),
    )
    lengths = plain.lengths
    total = max(n + len(suffix) for n, suffix in zip(lengths, suffixes, strict=True))
    shape = (len(groups), total)
    ids = torch.zeros(shape, dtype=torch.int64)
    positions = torch.zeros(*plain.position_ids.shape[:-1], total, dtype=torch.int64)
    owner = torch.full(shape, -2)  # -1 the prompt, g completion g, -2 padding
    predictor = []  # flat index of the position that predicts each completion token
    closing = []  # and of each completion's last token
    for g, group in enumerate(groups):
        n = lengths[g]
        positions[..., g, :n] = plain.position_ids[..., g, :n].cpu()
        owner[g, :n] = -1
        at = n
        for number, completion in enumerate(group.completions):
            t = len(completion)
            ids[g, at : at + t] = completion.cpu()
            positions[..., g, at : at + t] = int(plain.next_position[g]) + torch.arange(t)
            owner[g, at : at + t] = number
            predictor += [g * total + n - 1, *range(g * total + at, g * total + at + t - 1)]
            at += t
            closing.append(g * total + at - 1)
    ids, positions, owner = ids.to(device), positions.to(device), owner.to(device)
    width = plain.attention_mask.shape[1]
    embeds = backbone.token_embeddings(ids)
    visual = torch.zeros(shape, dtype=torch.bool, device=device)
    is_prompt = torch.zeros(shape, dtype=torch.bool, device=device)
    is_prompt[:, :width] = plain.attention_mask
    visual[:, :width] = plain.visual_mask
    embeds = embeds.masked_scatter(is_prompt[..., None], plain.inputs_embeds[plain.attention_mask])
    earlier = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    same = owner[:, :, None] == owner[:, None, :]
    mask = earlier & (same | ((owner == -1)[:, None, :] & (owner != -2)[:, :, None]))
    hidden = backbone.decode(embeds, positions, mask[:, None], visual_mask=visual, deepstack=plain.deepstack)
    flat = hidden.flatten(0, 1)
    predicting, last = (flat.index_select(0, torch.tensor(places, device=device)) for places in (predictor, closing))
    attention = None
    if tap is not None:
        heard = tap.probabilities[-1]
        starts = [
            lengths[g] + sum(map(len, group.completions[:c]))
            for g, group in enumerate(groups)
            for c in range(len(group.completions))
        ]
        attention = _nested_rows(
            groups,
            lambda row, group, length: heard[group, starts[row] : starts[row] + length, : lengths[group]],
        )
    return predicting, last, attention, plain


def _unpacked(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[ReplayGroup],
    tap: AttentionTap | None,
) -> _Result:
    rows = [(group, completion) for group in groups for completion in group.completions]
    batch = backbone.embed(
        [group.prompt for group, _ in rows],
        vision,
        [group.images for group, _ in rows],
        suffixes=[completion.tolist() for _, completion in rows],
        padding_side="right",
    )
    hidden = backbone.decode_prompts(batch)
    starts = [n - len(completion) for n, (_, completion) in zip(batch.lengths, rows, strict=True)]
    predicting = torch.cat(
        [
            hidden[row, start - 1 : start - 1 + len(completion)]
            for row, (start, (_, completion)) in enumerate(zip(starts, rows, strict=True))
        ]
    )
    last = torch.stack([hidden[row, length - 1] for row, length in enumerate(batch.lengths)])
    attention = None
    if tap is not None:
        heard = tap.probabilities[-1]
        attention = _nested_rows(
            groups, lambda row, group, length: heard[row, starts[row] : starts[row] + length, : starts[row]]
        )
    firsts = [sum(len(g.completions) for g in groups[:number]) for number in range(len(groups))]
    return predicting, last, attention, _select_spans(batch, firsts)


def _completion_rows(groups: Sequence[ReplayGroup], device: torch.device) -> tuple[list[int], Tensor, Tensor]:
    """Completions per group; ids int64 (rows, T_max), right-padded with 0; and bool (rows, T_max), True on
    tokens.
    """
    completions = [ids for group in groups for ids in group.completions]
    ids = nn.utils.rnn.pad_sequence([ids.to(device) for ids in completions], batch_first=True)
    lengths = torch.tensor([len(ids) for ids in completions], device=device)
    return (
        [len(g.completions) for g in groups],
        ids,
        torch.arange(ids.shape[1], device=device) < lengths[:, None],
    )


def _nested_rows(groups: Sequence[ReplayGroup], take: Callable[[int, int, int], Tensor]) -> _Nested:
    """`take(row, group, length)` for every completion, as nested tuples; copies, so that the whole is
    let go.
    """
    nested, row = [], 0
    for number, group in enumerate(groups):
        pieces = []
        for completion in group.completions:
            pieces.append(take(row, number, len(completion)).clone())
            row += 1
        nested.append(tuple(pieces))
    return tuple(nested)


def _select_spans(batch: PromptBatch, rows: Sequence[int]) -> PromptBatch:
    index = torch.tensor(list(rows), device=batch.attention_mask.device)
    return replace(
        batch,
        attention_mask=batch.attention_mask[index],
        image_spans=tuple(batch.image_spans[row] for row in rows),
    )


def _unpadded_spans(batch: PromptBatch, count: int) -> tuple[tuple[range, ...], ...]:
    """Picture columns counted from each prompt's own first token."""
    padding = batch.attention_mask.to(torch.int8).argmax(1).tolist()
    return tuple(
        tuple(range(span.start - shift, span.stop - shift) for span in spans)
        for spans, shift in zip(batch.image_spans[:count], padding, strict=True)
    )


@contextmanager
def _checkpointing(decoder: Any) -> Iterator[None]:
    """Gradient checkpointing for the forward pass inside: transformers applies it only in training mode."""
    if getattr(decoder.config, "attention_dropout", 0.0):
        raise ValueError("the decoder's attention_dropout is not 0: replay in training mode would be random")
    was_training = decoder.training
    dropouts = [(module, module.training) for module in decoder.modules() if isinstance(module, nn.Dropout)]
    if hasattr(decoder, "activation_checkpointing_enable"):  # the newer name in transformers
        decoder.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        switch_off = decoder.activation_checkpointing_disable
    else:
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        switch_off = decoder.gradient_checkpointing_disable
    decoder.train()
    for module, mode in dropouts:  # an adapter's: it drops or not as before
        module.train(mode)
    try:
        yield
    finally:
        decoder.train(was_training)
        switch_off()
