"""One adapter over transformers' vision-language models: pixels, vision tokens, prompts, decoder.

Where a family's tower is, `fieldmark.models.families` knows. Everything else is asked from the model itself: whether
the language model counts positions on three axes (Qwen: it has `get_rope_index`) or on one, whether there is
DeepStack, whether the tokenizer wants a picture's tokens framed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText
from transformers.cache_utils import Cache
from transformers.utils import logging as transformers_logging

from fieldmark.models.families import family_of
from fieldmark.models.precision import resolve_dtype
from fieldmark.models.tokenizer import load_tokenizer
from fieldmark.models.tower import check_attention, check_geometry, load_preprocessing, refuse_misfits
from fieldmark.models.vision_tokens import PixelBatch, Preprocessing, VisionTokens, VisionTower
from fieldmark.models.weight_files import SMALL_FILES, check_files, fetch, read_json, weight_map


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt. ids: with ONE placeholder per picture; num_images: how many there are."""

    ids: tuple[int, ...]
    num_images: int


@dataclass(frozen=True)
class PromptBatch:
    """Prompts with their pictures' tokens in place, padded to one length L, ready for `Backbone.decode`.

    inputs_embeds: (B, L, D). attention_mask: bool (B, L), False on padding.
    position_ids: int64 (3, B, L) for three-axis models, else (B, L). next_position: int64 (B,), where text
    goes on.
    visual_mask: bool (B, L). deepstack: per DeepStack layer (number of True in visual_mask, D).
    image_spans: per prompt and picture, the columns of the padded row that hold its patches.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    next_position: Tensor
    visual_mask: Tensor
    deepstack: tuple[Tensor, ...]
    image_spans: tuple[tuple[range, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """Number of real tokens per prompt."""
        return [int(n) for n in self.attention_mask.sum(1).tolist()]


class Backbone(nn.Module):
    """A vision-language model, its tokenizer and the preprocessing of its pictures.

    model: as loaded by `AutoModelForImageTextToText`. tokenizer: with a chat template that knows
    `{"type": "image"}`. preprocessing: of the tower.
    """

    model: Any  # transformers' classes have no common type that knows their parts

    def __init__(self, model: nn.Module, tokenizer: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        config: Any = model.config
        family, text = family_of(config.model_type, type(model).__name__), config.get_text_config()
        check_geometry(preprocessing, family.tower_config(config))
        others = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
        if others:
            raise ValueError(f"layers with {sorted(others)} are not supported: only full attention takes our masks")
        if len(tokenizer) > text.vocab_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model only {text.vocab_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        # In a tuple: as a submodule every weight of the tower would have a second name.
        self._tower = (VisionTower(family.tower_of(model), preprocessing),)
        self.image_token_id: int = config.image_token_id
        self.hidden_size: int = text.hidden_size
        self.num_layers: int = text.num_hidden_layers
        self.vocab_size: int = text.vocab_size
        self.context_length: int = text.max_position_embeddings
        self.three_axes: bool = hasattr(model.model, "get_rope_index")
        self.new_words: tuple[str, ...] = ()
        """Those that became tokens after it was loaded (`models.new_words`)."""

    # ---- parts

    @property
    def tower(self) -> VisionTower:
        """The vision model with its merger: shares the weights, is no copy."""
        return self._tower[0]

    @property
    def decoder(self) -> Any:
        return self.model.get_decoder()

    @property
    def head(self) -> nn.Linear:
        return self.model.get_output_embeddings()

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion: the generation configuration's, else the tokenizer's."""
        configured = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        if configured is None:
            configured = self.tokenizer.eos_token_id
        if configured is None:
            raise ValueError("neither generation_config.json nor the tokenizer names an end-of-sequence token")
        return tuple(configured) if isinstance(configured, (list, tuple)) else (int(configured),)

    def tower_parameters(self) -> Iterator[nn.Parameter]:
        return self.tower.parameters()

    def freeze_language(self) -> None:
        """Only the tower keeps `requires_grad`; gradients still flow *through* the language model."""
        self.model.requires_grad_(False)
        for parameter in self.tower_parameters():
            parameter.requires_grad_(True)

    # ---- pictures

    def pixels(self, images: Tensor | Sequence[Tensor]) -> PixelBatch:
        """uint8 (B, H, W, 3), or a list of pictures, to patches; see `Preprocessing.__call__`."""
        return self.tower.pixels(images)

    def vision(self, pixels: PixelBatch) -> VisionTokens:
        """Run the tower. With gradient if grad mode is on."""
        return self.tower(pixels)

    # ---- prompts

    def chat_prompt(self, text: str, num_images: int) -> PromptTokens:
        """One user turn, pictures first, then `text`, up to where the assistant begins to answer."""
        if self.tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template: put chat_template.jinja beside the weights")
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": text}]
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self._framed(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])
        found = ids.count(self.image_token_id)
        if found != num_images:
            raise ValueError(
                f"the prompt has {found} image placeholders for {num_images} pictures: "
                "the chat template must write one per picture and the text none"
            )
        return PromptTokens(ids, num_images)

    def _framed(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Start and end tokens around each placeholder, where the tokenizer names them and the template writes none.

        InternVL's template writes the placeholder alone; framing it is the work of its processor, which we do not run.
        """
        names = [getattr(self.tokenizer, name, None) for name in ("start_image_token", "end_image_token")]
        if None in names:
            return tuple(ids)
        start, end = self.tokenizer.convert_tokens_to_ids(names)
        framed: list[int] = []
        for place, token in enumerate(ids):
            bare = token == self.image_token_id and (place == 0 or ids[place - 1] != start)
            framed.extend((start, token, end) if bare else (token,))
        return tuple(framed)

    def embed(
        self,
        prompts: Sequence[PromptTokens],
        vision: VisionTokens,
        images: Sequence[Sequence[int]],
        *,
        suffixes: Sequence[Sequence[int]] | None = None,
        padding_side: str = "left",
        reserve: int = 0,
    ) -> PromptBatch:
        """Put pictures into prompts and pad them to one length. Differentiable in `vision`.

        images: per prompt, which pictures of `vision` fill its placeholders, in order.
        suffixes: optional text tokens after each prompt (an image token id there is only text).
        reserve: tokens that will follow; a row that would not fit the model's context is an error.
        """
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
        if len(images) != len(prompts) or not prompts:
            raise ValueError(f"{len(prompts)} prompts, but pictures for {len(images)}: need one entry per prompt")
        counts = vision.counts
        rows: list[list[int]] = []
        row_spans: list[list[range]] = []
        for number, (prompt, chosen) in enumerate(zip(prompts, images, strict=True)):
            if len(chosen) != prompt.num_images:
                raise ValueError(f"prompt {number} has {prompt.num_images} placeholders, got {len(chosen)} pictures")
            row: list[int] = []
            spans: list[range] = []
            which = iter(chosen)
            for token in prompt.ids:
                if token == self.image_token_id:
                    picture = next(which)
                    if not 0 <= picture < len(counts):
                        raise ValueError(f"prompt {number} asks for picture {picture} of {len(counts)}")
                    spans.append(range(len(row), len(row) + counts[picture]))
                    row.extend([token] * counts[picture])
                else:
                    row.append(token)
            if suffixes is not None:
                row.extend(suffixes[number])
            if len(row) + reserve > self.context_length:
                raise ValueError(
                    f"prompt {number} has {len(row)} tokens and {reserve} may follow, more than the "
                    f"model's context of {self.context_length}: shorten the prompt, use smaller "
                    "pictures or fewer new tokens"
                )
            rows.append(row)
            row_spans.append(spans)

        longest = max(map(len, rows))
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        ids = torch.full((len(rows), longest), padding)
        attention = torch.zeros(ids.shape, dtype=torch.bool)
        visual = torch.zeros(ids.shape, dtype=torch.bool)
        image_spans = []
        for number, (row, spans) in enumerate(zip(rows, row_spans, strict=True)):
            start = longest - len(row) if padding_side == "left" else 0
            ids[number, start : start + len(row)] = torch.tensor(row)
            attention[number, start : start + len(row)] = True
            shifted = tuple(range(span.start + start, span.stop + start) for span in spans)
            for span in shifted:
                visual[number, span.start : span.stop] = True
            image_spans.append(shifted)

        flat = [picture for chosen in images for picture in chosen]
        index = vision.token_index(flat)
        grid = vision.grid_thw[flat].cpu() if flat else None
        positions, following = self._positions(ids, attention, visual, grid)
        visual = visual.to(self.device)
        embeds = self.model.get_input_embeddings()(ids.to(self.device))
        if flat:
            merged = vision.merged.index_select(0, index).to(embeds.dtype)
            embeds = embeds.masked_scatter(visual[..., None], merged)
        deepstack = tuple(layer.index_select(0, index).to(embeds.dtype) for layer in vision.deepstack) if flat else ()
        return PromptBatch(
            embeds,
            attention.to(self.device),
            positions.to(self.device),
            following.to(self.device),
            visual,
            deepstack,
            tuple(image_spans),
        )

    def _positions(self, ids: Tensor, attention: Tensor, visual: Tensor, grid: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.three_axes:
            kinds = visual.to(torch.int32)  # 0 text, 1 picture; by place, so that a sampled image token is text
            positions, _ = self.model.model.get_rope_index(
                ids, mm_token_type_ids=kinds, image_grid_thw=grid, attention_mask=attention.to(torch.int64)
            )
            return positions, positions.amax(dim=(0, 2)) + 1
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        return positions, positions.amax(dim=1) + 1

    def text_positions(self, positions: Tensor) -> Tensor:
        """Positions (B, T) of text as the decoder wants them: (3, B, T), all axes alike, or (B, T)."""
        return positions.expand(3, *positions.shape) if self.three_axes else positions

    # ---- decoder

    def decode(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        mask: Tensor | None = None,
        *,
        visual_mask: Tensor | None = None,
        deepstack: Sequence[Tensor] = (),
        cache: Cache | None = None,
    ) -> Tensor:
        """The language model on embeddings: hidden states (B, L, D) after the final norm.

        position_ids: (3, B, L) or (B, L), as `PromptBatch` and `text_positions` give them.
        mask: None (plain causal, no padding), bool (B, K) over all keys (causal and padding), or bool (B, 1,
        L, K), True where attention is allowed; every row must allow something. K = tokens in `cache` + L.
        cache: extended in place.
        """
        if mask is not None:
            if mask.dim() == 2:
                mask = causal_mask(mask, inputs_embeds.shape[1])
            if self.decoder.config._attn_implementation == "eager":
                # eager adds the mask to the scores: a bool mask there would be silently wrong
                bias = torch.zeros(mask.shape, dtype=inputs_embeds.dtype, device=mask.device)
                mask = bias.masked_fill(~mask, torch.finfo(inputs_embeds.dtype).min)
        extra: dict[str, Any] = {}
        if deepstack:
            extra = {"visual_pos_masks": visual_mask, "deepstack_visual_embeds": list(deepstack)}
        output = self.decoder(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            return_dict=True,
            **extra,
        )
        return output.last_hidden_state

    def decode_prompts(self, batch: PromptBatch, cache: Cache | None = None) -> Tensor:
        """`decode` of whole prompts: hidden states (B, L, D)."""
        mask = None if bool(batch.attention_mask.all()) else batch.attention_mask
        return self.decode(
            batch.inputs_embeds,
            batch.position_ids,
            mask,
            visual_mask=batch.visual_mask,
            deepstack=batch.deepstack,
            cache=cache,
        )

    def token_embeddings(self, ids: Tensor) -> Tensor:
        """Text tokens, int64 (...), to embeddings (..., D)."""
        return self.model.get_input_embeddings()(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits (n, V) of hidden states (n, D). For whole texts see `models.logprobs`."""
        return self.head(hidden).float()


def causal_mask(real: Tensor, queries: int) -> Tensor:
    """Causal mask (B, 1, queries, K) for the last `queries` of K tokens, from bool `real` (B, K).

    Padding sees itself, so that no row of the softmax is empty; nothing else sees padding.
    """
    keys = real.shape[1]
    own = torch.arange(keys - queries, keys, device=real.device)[:, None]
    other = torch.arange(keys, device=real.device)
    return ((other <= own) & real[:, None, None, :]) | (other == own)


def load_backbone(path: str | Path, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> Backbone:
    """Load a vision-language model from a local folder or the Hugging Face hub.

    Safetensors only, no remote code. An unsupported architecture, half of a download, and missing, unexpected or
    misshapen weights are errors (ValueError) that name what is wrong.
    path: of a model of one of `families.FAMILIES`; one file or several with an index.
    dtype: what is computed in, whatever the file stores; see `precision.resolve_dtype`.
    attention: "sdpa" or "eager" (others cannot take the masks of the shared prefix).
    """
    computed_in = resolve_dtype(dtype, device)
    check_attention(attention)
    folder = fetch(path, (*SMALL_FILES, "*.safetensors"))
    family = family_of(read_json(folder, "config.json").get("model_type"), str(path))
    check_files(folder, set(weight_map(folder).values()))
    with _bar_for_large_weights(folder):
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=computed_in,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # else an error that names no key; refused below
            output_loading_info=True,
        )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    refuse_misfits(path, {kind.replace("_", " "): sorted(map(str, report.get(kind) or ())) for kind in kinds})
    preprocessing = load_preprocessing(folder, family.tower_config(model.config))
    return Backbone(model, load_tokenizer(folder), preprocessing).to(device).eval()


@contextmanager
def _bar_for_large_weights(folder: Path) -> Iterator[None]:
    """Show transformers' loading bar for 1 GiB and more: below, it flashes by and only litters logs."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    hide = size < 2**30 and transformers_logging.is_progress_bar_enabled()
    if hide:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()
