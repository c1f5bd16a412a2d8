"""What a universal embedder is asked: a request's picture, text and instruction, then for one word or for a summary.

The wording is configuration: a model that was trained with other words (LamRA's, for example) is asked in its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from fieldmark.data.retrieval import Item
from fieldmark.models.backbone import Backbone, PromptTokens

SUMMARY_TOKEN = "[RET]"
Mode = Literal["one_word", "generative"]
Slot = Literal["last", "summary_token"]

ONE_WORD_PROMPT = "{text}\n{instruction}\nPut the {content} above into one word:"
GENERATIVE_PROMPT = (
    "{text}\n{instruction}\nAnalyse the {content} above and sum up in a few words what a search has to match. "
    f"Then write {SUMMARY_TOKEN}."
)
_PLACEHOLDER = re.compile(r"\{(text|instruction|content)\}")


@dataclass(frozen=True)
class EmbedderConfig:
    """How a universal embedder asks and reads.

    Raises:
        ValueError: a value out of range, or a prompt without its placeholders.
    """

    mode: Mode = "one_word"
    """one_word: the state of one slot of the prompt is the embedding, nothing is generated (stages 1 and 2).
    generative: a summary is written first, and the state at the [RET] behind it is the embedding (stage 3)."""
    slot: Slot = "last"
    """Where one_word mode reads. last: at the prompt's last token, which predicts the one word (as LamRA does).
    summary_token: at a [RET] appended to the prompt, the token that generative mode reads at, too."""
    max_new_tokens: int = 128
    """Most tokens of a summary. One that has not ended by then gets its [RET] there."""
    max_text_tokens: int = 480
    """An item's text is cut after so many tokens."""
    image_size: int = 224
    """Side in pixels to which pictures that are read from their files are resized."""
    one_word_prompt: str = ONE_WORD_PROMPT
    """Behind the picture. {text}, {instruction}: the request's; {content}: "image", "sentence" or "image and sentence".
    A line whose placeholders are all empty is left out."""
    generative_prompt: str = GENERATIVE_PROMPT
    """The same for generative mode."""

    def __post_init__(self) -> None:
        if self.mode not in ("one_word", "generative"):
            raise ValueError(f"mode {self.mode!r} is not one of 'one_word', 'generative'")
        if self.slot not in ("last", "summary_token"):
            raise ValueError(f"slot {self.slot!r} is not one of 'last', 'summary_token'")
        for name in ("max_new_tokens", "max_text_tokens", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("one_word_prompt", "generative_prompt"):
            prompt = getattr(self, name)
            if prompt.count("{text}") != 1 or prompt.count("{instruction}") != 1:
                raise ValueError(f"{name} must hold {{text}} and {{instruction}} once each, got {prompt!r}")


@dataclass(frozen=True, eq=False)
class Request:
    """What is embedded.

    item: its text is read from here; its picture, too, if none is given decoded. instruction: what kind of candidate
    is wanted; "" for candidates. picture: decoded, uint8 (H, W, 3), sides multiples of patch_size * merge_size; or
    several, such as the frames of a film. hidden: the prompt leaves all of it away, so that a summary is all there is
    to read.
    """

    item: Item
    instruction: str = ""
    picture: Tensor | Sequence[Tensor] | None = None
    hidden: bool = False

    @property
    def num_pictures(self) -> int:
        if self.hidden:
            return 0
        if self.picture is None:
            return int(self.item.image is not None)
        return 1 if isinstance(self.picture, Tensor) else len(self.picture)

    def pictures(self) -> list[Tensor | Path]:
        """The decoded pictures, or the file in which the picture is."""
        if self.hidden:
            return []
        if self.picture is None:
            return [] if self.item.image is None else [self.item.image]
        return [self.picture] if isinstance(self.picture, Tensor) else list(self.picture)


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt, and whether the item's text had to be cut for it."""

    tokens: PromptTokens
    text_was_cut: bool


class PromptWriter:
    """Requests to tokenised prompts. Names of special tokens in a request's text are text, and nothing else.

    summary_id: the id of [RET] in the backbone's tokenizer.
    """

    def __init__(self, backbone: Backbone, summary_id: int) -> None:
        self._backbone = backbone
        self._summary_id = summary_id
        self._frames: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def write(self, request: Request, config: EmbedderConfig, mode: Mode) -> WrittenPrompt:
        """mode: counts instead of the configuration's."""
        shown, instruction = ("", "") if request.hidden else (request.item.text or "", request.instruction)
        text, was_cut = self._cut(shown, config.max_text_tokens)
        count = request.num_pictures
        content = " and ".join(["image"] * bool(count) + ["sentence"] * bool(text or instruction))
        values = {"text": text, "instruction": instruction, "content": content}
        template = config.one_word_prompt if mode == "one_word" else config.generative_prompt
        ids: list[int] = []
        for number, run in enumerate(_filled(template, values)):
            ids += [self._summary_id] * (number > 0) + self._tokens(run)
        before, after = self._frame(count)
        return WrittenPrompt(PromptTokens((*before, *ids, *after), count), was_cut)

    def cuts(self, text: str, config: EmbedderConfig) -> bool:
        """Whether `write` would cut this text."""
        return self._cut(text, config.max_text_tokens)[1]

    def _frame(self, num_images: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the chat template writes before and after a user's text."""
        if num_images not in self._frames:
            ids = self._backbone.chat_prompt(SUMMARY_TOKEN, num_images).ids  # a text of exactly one token
            if ids.count(self._summary_id) != 1:
                raise ValueError(
                    f"the chat template writes a user's text {ids.count(self._summary_id)} times, not once"
                )
            place = ids.index(self._summary_id)
            self._frames[num_images] = ids[:place], ids[place + 1 :]
        return self._frames[num_images]

    def _tokens(self, text: str) -> list[int]:
        return self._backbone.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _cut(self, text: str, limit: int) -> tuple[str, bool]:
        if len(text.encode()) <= limit:  # a token is a byte at least
            return text, False
        offsets = self._backbone.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        return (text, False) if len(offsets) <= limit else (text[: offsets[limit][0]], True)


def _filled(template: str, values: dict[str, str]) -> list[str]:
    """The template with its placeholders filled, cut where it names [RET]."""
    lines = []
    for line in template.split("\n"):
        names = [name for name in ("text", "instruction") if f"{{{name}}}" in line]
        empty = [name for name in names if not values[name]]
        if names and len(empty) == len(names):
            continue
        for name in empty:
            line = line.replace(f"{{{name}}}", "").strip()
        lines.append(line)
    runs = "\n".join(lines).split(SUMMARY_TOKEN)
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], run) for run in runs]
