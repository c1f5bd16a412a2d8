"""Which grains does an embedding look at? Shares of [RET]'s attention, in one decoder layer, averaged over heads.

The embedding is the state at one position: at the [RET] behind a summary (generative mode) or at the slot of the prompt
(one-word mode). Its attention in a layer is a distribution over everything before it. Here that distribution is added
up by what stands there: each grain's phrase in the prompt and in the summary, the picture's patches, and the rest.
ELVA (arXiv 2606.20280) shows such shares for single queries, before and after its third stage.

Attention is where a layer reads, not what decides: a share says nothing about a cause. Models put much of their
attention on the first token whatever stands there, so grains are compared with each other, not with one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldmark.evaluation.grains import grain_spans
from fieldmark.models.attention import capture_attention
from fieldmark.models.backbone import PromptTokens
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.policy.offsets import decode_with_offsets

PUBLISHED_DEPTH = 26 / 36
"""SAGA's teacher layer as a share of the depth; ELVA does not print the layer of its figure."""


@dataclass(frozen=True)
class GrainShare:
    """Attention on one grain's phrase. prompt, summary: shares; None where the phrase does not stand there."""

    grain: str
    prompt: float | None
    summary: float | None


@dataclass(frozen=True, eq=False)
class GrainAttention:
    """Where one embedding's position looks. Shares of one distribution.

    Attributes:
        grains: in the order they were given; phrases that share tokens are counted with each.
        picture: on the patches of all pictures.
        other_prompt: on the rest of the prompt: the chat's frame, the instruction, words that are no grain.
        other_summary: on the rest of the summary; 0 in one-word mode.
        itself: on the position that is read.
        patches: (N,) float32, the part of ``picture`` on each patch, pictures one after another, row-major.
        text: what was read, prompt and summary, with special tokens.
    """

    grains: tuple[GrainShare, ...]
    picture: float
    other_prompt: float
    other_summary: float
    itself: float
    patches: Tensor
    text: str

    @property
    def on_grains(self) -> float:
        """All grains together; a token that several phrases share counts once."""
        return 1 - self.picture - self.other_prompt - self.other_summary - self.itself


def attention_layer(model: UniversalEmbedder) -> int:
    """The layer that is looked at unless another is asked for: 26/36 of the depth, as SAGA's teacher."""
    return round(PUBLISHED_DEPTH * model.backbone.num_layers)


@torch.no_grad()
def grain_attention(
    model: UniversalEmbedder,
    requests: Sequence[Request],
    grains: Sequence[Sequence[str]],
    summaries: Sequence[Tensor] | None = None,
    *,
    layer: int | None = None,
) -> list[GrainAttention]:
    """Shares of attention of the position at which each request's embedding is read. All requests are one batch.

    Args:
        requests: what is embedded.
        grains: of each request, as phrases.
        summaries: of each request, int64 (T,) ids as they were sampled (`Summary.completion.ids`; a text that is
            tokenised again may be cut otherwise). None: one-word mode, nothing was written.
        layer: decoder layer, from 0; None takes `attention_layer`.

    Raises:
        ValueError: not as many grains or summaries as requests, or no such layer.
    """
    given = [len(grains), *([] if summaries is None else [len(summaries)])]
    if set(given) != {len(requests)}:
        raise ValueError(
            f"{len(requests)} requests, but grains and summaries of {given}: one entry per request is needed"
        )
    if not requests:
        return []
    layer = attention_layer(model) if layer is None else layer
    prompts = [model.prompt(request, "one_word" if summaries is None else "generative") for request in requests]
    written = [[] if summaries is None else _without_stop(model, summaries[i]) for i in range(len(requests))]
    suffixes = None if summaries is None else [[*ids, model.summary_id] for ids in written]
    was_training = model.training
    model.eval()
    try:
        pictures = model.pictures(requests)
        batch = model.backbone.embed(prompts, pictures.vision, pictures.of, suffixes=suffixes)
        with capture_attention(model.backbone, layer) as tap:
            model.backbone.decode_prompts(batch)
    finally:
        model.train(was_training)
    rows = tap.probabilities[0][:, -1].float().cpu()
    return [
        _shares(model, row, prompt, ids, spans, asked, own_slot=summaries is None)
        for row, prompt, ids, spans, asked in zip(rows, prompts, written, batch.image_spans, grains, strict=True)
    ]


def _without_stop(model: UniversalEmbedder, ids: Tensor) -> list[int]:
    kept = ids.tolist()
    return kept[:-1] if kept and kept[-1] in model.stop_ids else kept


def _shares(
    model: UniversalEmbedder,
    row: Tensor,
    prompt: PromptTokens,
    summary: Sequence[int],
    spans: Sequence[range],
    grains: Sequence[str],
    *,
    own_slot: bool,
) -> GrainAttention:
    """Adds up one row (L,), whose prompt is padded on the left; own_slot: the prompt's last token is what is read."""
    # Where each of the prompt's tokens stands: a picture's token takes as many columns as the picture has patches.
    images = iter(spans)
    columns: list[range] = []
    place = row.numel() - (len(prompt.ids) - len(spans) + sum(map(len, spans)) + (0 if own_slot else len(summary) + 1))
    for token in prompt.ids:
        width = len(next(images)) if token == model.backbone.image_token_id else 1
        columns.append(range(place, place + width))
        place += width
    prompt_columns, summary_columns = range(columns[0].start, place), range(place, place + len(summary))
    tokenizer = model.backbone.tokenizer
    asked, asked_at = decode_with_offsets(tokenizer, prompt.ids[: len(prompt.ids) - own_slot])
    said, said_at = decode_with_offsets(tokenizer, summary)

    def on_phrase(text: str, offsets: np.ndarray, where: Sequence[range], grain: str) -> list[int] | None:
        found = grain_spans(text, grain)
        if not found:
            return None
        touched = [k for k, (a, b) in enumerate(offsets) if any(a < end and b > start for start, end in found)]
        return [column for k in touched for column in where[k]]

    shares: list[GrainShare] = []
    covered: set[int] = set()
    for grain in grains:
        first = on_phrase(asked, asked_at, columns, grain)
        second = on_phrase(said, said_at, [range(c, c + 1) for c in summary_columns], grain)
        covered.update(first or (), second or ())
        shares.append(GrainShare(grain, _sum(row, first), _sum(row, second)))
    patches = [column for span in spans for column in span]
    last = row.numel() - 1
    named = covered.union(patches, [last])
    other_prompt = [column for column in prompt_columns if column not in named]
    other_summary = [column for column in summary_columns if column not in named]
    return GrainAttention(
        tuple(shares),
        picture=float(row[patches].sum()),
        other_prompt=float(row[other_prompt].sum()),
        other_summary=float(row[other_summary].sum()),
        itself=float(row[last]),
        patches=row[patches].clone(),
        text=asked + said,
    )


def _sum(row: Tensor, columns: Sequence[int] | None) -> float | None:
    return None if columns is None else float(row[list(columns)].sum())
