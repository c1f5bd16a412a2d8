"""One multimodal LLM that embeds text, pictures and both, for queries and candidates alike (ELVA, arXiv 2606.20280).

One-word mode reads the state of one slot of the prompt. Generative mode writes a summary first, ends it with [RET]
and reads the state there; the summary is what explains a match.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fieldmark.models import adapters
from fieldmark.models.adapters import AdapterConfig, SavedAdapter
from fieldmark.models.backbone import Backbone, PromptTokens, load_backbone
from fieldmark.models.bundled import BUNDLED, located
from fieldmark.models.embedder_files import (
    check_base,
    describe,
    read_description,
    read_files,
    write_files,
)
from fieldmark.models.embedding_cache import CachedEmbedding, EmbeddingCache, content_key
from fieldmark.models.embedding_pictures import Pictures, count_tokens, run_tower
from fieldmark.models.embedding_prompts import EmbedderConfig, Mode, PromptWriter, Request, WrittenPrompt
from fieldmark.models.fingerprint import frozen_checksum, model_fingerprint
from fieldmark.models.new_words import add_words
from fieldmark.models.sampling import Completion, sample
from fieldmark.models.summary_token import SummaryTokenEmbedding, add_summary_token
from fieldmark.models.trained_parts import Part, set_trained
from fieldmark.models.weight_files import SMALL_FILES, fetch, read_json


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
    cut: tuple[bool, ...] = ()

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
        """May be replaced, for another mode or other words."""
        self.base = base
        self.cache = cache
        backbone.preprocessing.check_size(self.config.image_size)
        backbone.model.requires_grad_(False)
        add_summary_token(backbone).row.requires_grad_(True)
        self._writer = PromptWriter(backbone, self.summary_id)
        self.folded: tuple[SavedAdapter, ...] = ()
        """Adapters that became part of the weights, in order."""
        self.trained_parts: frozenset[Part] = frozenset()
        """Those that `train_part` ever let be trained: they are saved, too."""
        self.base_checksum = frozen_checksum(backbone)
        """Of the weights as they were given, by a sample of each tensor."""

    @property
    def embedding_size(self) -> int:
        """D, the width of the language model."""
        return self.backbone.hidden_size

    @property
    def summary_token(self) -> SummaryTokenEmbedding:
        """The backbone's token embeddings, in which [RET] has a row of its own."""
        return self.backbone.model.get_input_embeddings()

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

    def train_part(self, part: Part, trained: bool = True) -> None:
        """Let the vision tower or the words be trained whole, or freeze them again; see `models.trained_parts`."""
        self.trained_parts |= set_trained(self.backbone, part, trained)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """By name: the adapter's matrices, the row of [RET], and the parts that are trained whole."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def fingerprint(self) -> str:
        """Of everything that decides about an embedding: frozen weights by a sample, what is trained in full."""
        row = self.summary_token.reference_row if self.summary_token.use_reference else self.summary_token.row
        return f"{model_fingerprint(self.backbone, row)} {self.config}"

    # ---- on disk

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all but the base; layout and errors: `embedder_files`. `load_embedder` reads it."""
        description = describe(
            self.backbone, self.config, self.base, self.base_checksum, len(self.folded), self.trained_parts
        )
        write_files(Path(folder), description, self.backbone, self.summary_token, self.folded)

    # ---- what is asked

    def prompt(self, request: Request, mode: Mode | None = None) -> PromptTokens:
        """The tokenised prompt. mode: the configuration's, unless given."""
        return self._write(request, mode).tokens

    def _write(self, request: Request, mode: Mode | None = None) -> WrittenPrompt:
        mode = mode or self.config.mode
        written = self._writer.write(request, self.config, mode)
        if mode == "one_word" and self.config.slot == "summary_token":
            tokens = PromptTokens((*written.tokens.ids, self.summary_id), written.tokens.num_images)
            return WrittenPrompt(tokens, written.text_was_cut)
        return written

    def pictures(self, requests: Sequence[Request]) -> Pictures:
        """Run the tower on the requests' pictures; see `embedding_pictures.run_tower`."""
        return run_tower(self.backbone, requests, self.config.image_size)

    # ---- with gradient

    def embed_one_word(self, requests: Sequence[Request]) -> Tensor:
        """Embeddings (n, D) float32, L2-normalised, in one-word mode, in one pass, with gradient."""
        return self.embed_summaries(requests, [None] * len(requests))

    def embed_summaries(self, requests: Sequence[Request], summaries: Sequence[Tensor | None]) -> Tensor:
        """Embeddings (n, D) float32, L2-normalised, of given summaries, in one pass: the states at [RET] behind them.

        summaries: per request int64 (T,), as drawn; a stop token at the end is replaced by [RET]. None: the request is
        embedded in one word.
        """
        prompts = [
            self.prompt(request, "one_word" if summary is None else "generative")
            for request, summary in zip(requests, summaries, strict=True)
        ]
        return self._embed(prompts, self.pictures(requests), [self._ending(summary) for summary in summaries])

    def _ending(self, summary: Tensor | None) -> list[int]:
        """The summary's tokens with one [RET] behind them."""
        if summary is None:
            return []
        ids = summary.tolist()
        return [*(ids[:-1] if ids and ids[-1] in self.stop_ids else ids), self.summary_id]

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
                batch = self._encode_batch([requests[i] for i in chosen], [written[i].tokens for i in chosen])
                done.update(zip(chosen, batch, strict=True))
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
        return len(prompt.ids) + count_tokens(self.backbone, request, self.config.image_size)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)


def load_embedder(
    path: str | Path,
    base: str | Path | None = None,
    *,
    config: EmbedderConfig | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    cache: EmbeddingCache | None = None,
) -> UniversalEmbedder:
    """Load a universal embedder, in evaluation mode.

    path: a bundled name (`models.bundled`), or a folder or hub name of: what `save_pretrained` wrote; a peft LoRA
    adapter; or a whole vision-language model, such as a base that was never trained to embed, or a merged one.
    base: the model that an adapter belongs to; default: the one that its files name.
    config: default the saved one, else `EmbedderConfig()`; somebody else's model wants the words it was trained with.
    Other arguments as for `load_backbone` and `UniversalEmbedder`.

    Raises:
        ValueError: nothing of these is there, or the adapter was made for another base.
    """
    folder = fetch(located(path), SMALL_FILES)
    description = read_description(folder)
    is_adapter = description is None and (folder / adapters.CONFIG_FILE).is_file()
    if description is not None:
        named: str | Path = base or description.base
        config = config or description.config
    elif is_adapter:
        named = base or read_json(folder, adapters.CONFIG_FILE).get("base_model_name_or_path") or ""
    elif base is not None:
        raise ValueError(f"{path} holds no adapter ({adapters.CONFIG_FILE} is missing), so base={base} has no use")
    else:
        named = path
    if not str(named):
        raise ValueError(f"{path} does not say which model it belongs to: give it as base")
    is_bundled = str(named) == BUNDLED
    backbone = load_backbone(located(named), dtype=dtype, device=device, attention=attention)
    recorded = str(Path(named).resolve()) if not is_bundled and Path(named).is_dir() else str(named)
    embedder = UniversalEmbedder(backbone, config, base=recorded, cache=cache)
    if description is not None:
        check_base(description, backbone, embedder.base_checksum, str(path))
        add_words(backbone, description.new_words)
        embedder.folded = read_files(folder, description, backbone, embedder.summary_token)
        embedder.trained_parts = description.parts
    elif is_adapter:
        fetch(path, (adapters.WEIGHTS_FILE,), revision=folder.name)
        adapters.insert_adapter(backbone, adapters.read_adapter(folder), str(path))
    return embedder.eval()
