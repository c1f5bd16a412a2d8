"""One multimodal LLM that embeds text, pictures and both, for queries and candidates alike (ELVA, arXiv 2606.20280).

One-word mode reads the state of one slot of the prompt. Generative mode writes a summary first, ends it with [RET]
and reads the state there; the summary is what explains a match.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from fieldmark.data.decode import decode_image
from fieldmark.models import adapters
from fieldmark.models.adapters import AdapterConfig, SavedAdapter
from fieldmark.models.backbone import Backbone, PromptTokens
from fieldmark.models.embedding_cache import CachedEmbedding, EmbeddingCache, content_key
from fieldmark.models.embedding_prompts import EmbedderConfig, Mode, PromptWriter, Request, WrittenPrompt
from fieldmark.models.fingerprint import weights_checksum
from fieldmark.models.sampling import Completion, sample
from fieldmark.models.summary_token import add_summary_token
from fieldmark.models.vision_tokens import VisionTokens


@dataclass(frozen=True, eq=False)
class Embedded:
    """What `encode` gives, in the order of the requests.

    embeddings: float32 (n, D) on the CPU, L2-normalised. summaries: per request, None in one-word mode. forced:
    whether [RET] had to be appended, because the budget was spent or the model ended its turn without it. cut:
    whether the item's text was longer than max_text_tokens.
    """

    embeddings: Tensor
    summaries: tuple[str | None, ...]
    forced: tuple[bool, ...]
    cut: tuple[bool, ...]

    @property
    def num_forced(self) -> int:
        return sum(self.forced)

    @property
    def num_cut(self) -> int:
        return sum(self.cut)


@dataclass(frozen=True, eq=False)
class Summary:
    """One sampled summary of a request.

    completion: ids and log-probabilities as drawn, with the stop token, be it [RET] or the model's own. text: without
    it. embedding: float32 (D,), L2-normalised: the state at [RET]. forced: [RET] was not drawn.
    """

    completion: Completion
    text: str
    embedding: Tensor
    forced: bool


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of some requests: their tokens, and per request which of them are its own."""

    vision: VisionTokens
    of: tuple[tuple[int, ...], ...]


class UniversalEmbedder(nn.Module):
    """A backbone, how it is asked, and the token [RET].

    Everything is frozen but the row of [RET] and what `add_adapter` adds. The backbone is changed in place: its
    tokenizer learns [RET]. base: where the backbone was loaded from, for who loads the saved adapter. cache: of
    embeddings that `encode` computed; None keeps none.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: EmbedderConfig | None = None,
        *,
        base: str = "",
        cache: EmbeddingCache | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config or EmbedderConfig()
        self.base = base
        self.cache = cache
        unit = backbone.preprocessing.patch_size * backbone.preprocessing.merge_size
        if self.config.image_size % unit:
            raise ValueError(
                f"image_size {self.config.image_size} is not a multiple of {unit}: take e.g. "
                f"{max(1, round(self.config.image_size / unit)) * unit}"
            )
        self.summary_token = add_summary_token(backbone)
        backbone.model.requires_grad_(False)
        self.summary_token.row.requires_grad_(True)
        self._writer = PromptWriter(backbone, self.config, self.summary_id)
        self.folded: tuple[SavedAdapter, ...] = ()
        """Adapters that became part of the weights, in order."""
        self.tower_trained = False
        """Whether `train_tower` was ever called: then the tower is saved, too."""
        self.base_checksum = self._frozen_checksum()
        """Of the weights as they were given, by a sample of each tensor."""

    @property
    def embedding_size(self) -> int:
        """D, the width of the language model."""
        return self.backbone.hidden_size

    @property
    def summary_id(self) -> int:
        """The id of [RET]."""
        return self.summary_token.summary_id

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends a summary: [RET], or the end of the model's turn."""
        return (self.summary_id, *self.backbone.stop_ids)

    # ---- what is trained

    def add_adapter(self, config: AdapterConfig, generator: torch.Generator) -> None:
        """Add a LoRA adapter to the language model. What the embedder is now is the reference from here on."""
        adapters.add_adapter(self.backbone, config, generator)
        self.summary_token.set_reference()

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the embedder is what it was when its adapter was added: ELVA's reference policy, without a copy."""
        with adapters.adapter_disabled(self.backbone):
            self.summary_token.use_reference = True
            try:
                yield
            finally:
                self.summary_token.use_reference = False

    def merge_adapter(self) -> None:
        """Add the adapter to the weights, for inference; `unmerge_adapter` undoes it."""
        adapters.merge_adapter(self.backbone)

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`, up to rounding."""
        adapters.unmerge_adapter(self.backbone)

    def fold_adapter(self) -> None:
        """Make the adapter part of the weights for good; the next stage adds its own. It is still saved."""
        self.folded = (*self.folded, adapters.fold_adapter(self.backbone))

    def train_tower(self, trained: bool = True) -> None:
        """Let the vision tower be trained, or freeze it again. Not part of ELVA; for towers that know too little."""
        for parameter in self.backbone.tower_parameters():
            parameter.requires_grad_(trained)
        self.tower_trained = self.tower_trained or trained

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """By name: the adapter's matrices, the row of [RET], and the tower if it is trained."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def _frozen_checksum(self) -> str:
        named = ((name, p) for name, p in self.backbone.model.named_parameters() if not p.requires_grad)
        return weights_checksum(named, most=4096)

    def fingerprint(self) -> str:
        """Of everything that decides about an embedding: frozen weights by a sample, what is trained in full."""
        adapted = adapters.adapter_layers(self.backbone)
        matrices = {
            f"{name}.{key}": p
            for name, layer in adapted.items()
            for key, p in layer.named_parameters()
            if "lora_" in key
        }
        row = self.summary_token.reference_row if self.summary_token.use_reference else self.summary_token.row
        trained = weights_checksum(({**self.trainable_parameters(), **matrices, "row": row}).items())
        active = [not layer.disable_adapters for layer in adapted.values()]
        scale = [list(layer.scaling.values()) for layer in adapted.values()]
        return hashlib.sha256(
            f"{self._frozen_checksum()} {trained} {active} {scale} {self.config}".encode()
        ).hexdigest()

    # ---- what is asked

    def prompt(self, request: Request, mode: Mode | None = None) -> PromptTokens:
        """The tokenised prompt. mode: the configuration's, unless given."""
        return self._write(request, mode).tokens

    def _write(self, request: Request, mode: Mode | None = None) -> WrittenPrompt:
        mode = mode or self.config.mode
        written = self._writer.write(request, mode)
        if mode == "one_word" and self.config.slot == "summary_token":
            tokens = PromptTokens((*written.tokens.ids, self.summary_id), written.tokens.num_images)
            return WrittenPrompt(tokens, written.text_was_cut)
        return written

    def pictures(self, requests: Sequence[Request]) -> Pictures:
        """Run the tower on the requests' pictures; with gradient if it is trained and grad mode is on.

        Raises:
            BadImage: a picture's file cannot be read.
        """
        found: list[Tensor] = []
        of = []
        for request in requests:
            start = len(found)
            found += [self._read(one) if isinstance(one, Path) else one for one in request.pictures()]
            of.append(tuple(range(start, len(found))))
        backbone = self.backbone
        if not found:
            merge = backbone.preprocessing.merge_size
            return Pictures(VisionTokens.none(backbone.hidden_size, merge, backbone.device), tuple(of))
        images = torch.stack(found) if len({picture.shape for picture in found}) == 1 else found
        trained = any(parameter.requires_grad for parameter in backbone.tower_parameters())
        with nullcontext() if trained else torch.no_grad():
            return Pictures(backbone.vision(backbone.pixels(images)), tuple(of))

    def _read(self, file: Path) -> Tensor:
        side = (self.config.image_size, self.config.image_size)
        return torch.from_numpy(np.array(decode_image(file).resize(side, Image.Resampling.BICUBIC)))

    # ---- with gradient

    def embed_one_word(self, requests: Sequence[Request]) -> Tensor:
        """Embeddings (n, D) float32, L2-normalised, in one-word mode, in one pass, with gradient."""
        prompts = [self.prompt(request, "one_word") for request in requests]
        return self._embed(prompts, self.pictures(requests))

    def embed_summaries(self, requests: Sequence[Request], summaries: Sequence[Tensor]) -> Tensor:
        """Embeddings (n, D) of given summaries, with gradient: the states at [RET] behind them.

        summaries: per request int64 (T,), as drawn; a stop token at the end is replaced by [RET].
        """
        ids = [one.tolist() for one in summaries]
        ends = [one[:-1] if one and one[-1] in self.stop_ids else one for one in ids]
        prompts = [self.prompt(request, "generative") for request in requests]
        return self._embed(prompts, self.pictures(requests), [[*one, self.summary_id] for one in ends])

    def _embed(
        self, prompts: Sequence[PromptTokens], pictures: Pictures, suffixes: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        batch = self.backbone.embed(prompts, pictures.vision, pictures.of, suffixes=suffixes)
        return normalize(self.backbone.decode_prompts(batch)[:, -1].float(), dim=-1)

    # ---- without

    def sample_summaries(
        self,
        requests: Sequence[Request],
        *,
        num_samples: int,
        temperature: float,
        top_p: float,
        generator: torch.Generator,
        pictures: Pictures | None = None,
    ) -> list[list[Summary]]:
        """`num_samples` summaries of each request, in one batch, from one prefill. Arguments as `sampling.sample`'s.

        pictures: what `pictures(requests)` gave, if it has been called already.
        """
        prompts = [self.prompt(request, "generative") for request in requests]
        with torch.no_grad(), self._evaluating():
            pictures = pictures or self.pictures(requests)
            return self._sample(prompts, pictures, num_samples, temperature, top_p, generator)

    def _sample(
        self,
        prompts: Sequence[PromptTokens],
        pictures: Pictures,
        num_samples: int,
        temperature: float,
        top_p: float,
        generator: torch.Generator,
    ) -> list[list[Summary]]:
        groups = sample(
            self.backbone,
            pictures.vision,
            prompts,
            pictures.of,
            num_samples=num_samples,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=self.config.max_new_tokens,
            generator=generator,
            stop_ids=self.stop_ids,
            closing_id=self.summary_id,
        )
        return [[self._summary(completion) for completion in group] for group in groups]

    def _summary(self, completion: Completion) -> Summary:
        ids = completion.ids.tolist()
        words = ids[:-1] if completion.finish_reason == "stop" else ids
        text = self.backbone.tokenizer.decode(words, skip_special_tokens=False).strip()
        assert completion.closing_hidden is not None
        embedding = normalize(completion.closing_hidden.float(), dim=-1)
        return Summary(completion, text, embedding, ids[-1] != self.summary_id)

    @torch.no_grad()
    def encode(self, requests: Sequence[Request], batch_size: int = 32) -> Embedded:
        """Embed requests in the configuration's mode, without gradient or dropout; results in their order.

        Prompts of like length go into one batch. Summaries are written greedily. With a cache, what is known is not
        computed, and what is asked for twice is computed once.

        Raises:
            ValueError: batch_size below 1, or a prompt longer than the model's context.
            BadImage: a picture's file cannot be read.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        written = [self._write(request) for request in requests]
        done: dict[int, CachedEmbedding] = {}
        twin = list(range(len(requests)))  # the first request that asks the same
        keys: list[str] = []
        if self.cache is not None:
            mine = self.fingerprint()
            keys = [
                content_key(mine, one.tokens.ids, request.pictures())
                for request, one in zip(requests, written, strict=True)
            ]
            first: dict[str, int] = {}
            twin = [first.setdefault(key, i) for i, key in enumerate(keys)]
            done = {i: found for key, i in first.items() if (found := self.cache.get(key)) is not None}
        missing = [i for i in range(len(requests)) if twin[i] == i and i not in done]
        missing.sort(key=lambda i: self._length(requests[i], written[i].tokens), reverse=True)
        with self._evaluating():
            for start in range(0, len(missing), batch_size):
                chosen = missing[start : start + batch_size]
                found = self._encode_batch([requests[i] for i in chosen], [written[i].tokens for i in chosen])
                done.update(zip(chosen, found, strict=True))
        if self.cache is not None:
            for i in missing:
                self.cache.put(keys[i], done[i])
            self.cache.flush()
        results = [done[i] for i in twin]
        return Embedded(
            torch.stack([one.embedding for one in results]) if results else torch.zeros(0, self.embedding_size),
            tuple(one.summary for one in results),
            tuple(one.forced for one in results),
            tuple(one.text_was_cut for one in written),
        )

    def _encode_batch(self, requests: Sequence[Request], prompts: Sequence[PromptTokens]) -> list[CachedEmbedding]:
        pictures = self.pictures(requests)
        if self.config.mode == "one_word":
            return [CachedEmbedding(row.clone(), None, False) for row in self._embed(prompts, pictures).cpu()]
        # greedy: what the generator gives decides nothing
        groups = self._sample(prompts, pictures, 1, 0.0, 1.0, torch.Generator())
        return [CachedEmbedding(one.embedding, one.text, one.forced) for (one,) in groups]

    def _length(self, request: Request, prompt: PromptTokens) -> int:
        """Tokens that the language model will see, more or less."""
        unit = self.backbone.preprocessing.patch_size * self.backbone.preprocessing.merge_size
        side = self.config.image_size
        pixels = sum(
            side * side if isinstance(one, Path) else one.shape[0] * one.shape[1] for one in request.pictures()
        )
        return len(prompt.ids) + pixels // unit**2

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)
