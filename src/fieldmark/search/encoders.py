"""What makes the embeddings of an index and of its queries: a retrieval encoder or a universal embedder.

Models are imported when one is loaded: an index can be read, checked and exported without torch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from fieldmark.data.retrieval import Item

if TYPE_CHECKING:
    from fieldmark.models.retrieval_encoder import RetrievalEncoder
    from fieldmark.models.universal_embedder import UniversalEmbedder

_CHUNK = 2**22
_DECODED = Path("decoded")


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """What is embedded: a picture, words, or both.

    Attributes:
        picture: uint8 (H, W, 3), decoded; best already resized to `SearchEncoder.decode_size()` squared.
        text: words; only for encoders that read them.
        instruction: what kind of picture is wanted; only for queries of encoders that read words.
    """

    picture: np.ndarray | None = None
    text: str | None = None
    instruction: str = ""

    def __post_init__(self) -> None:
        if self.picture is None and not self.text:
            raise ValueError("there is nothing to embed: give a picture, words, or both")
        picture = self.picture
        if picture is not None and (picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3):
            raise ValueError(f"a picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")


class SearchEncoder(Protocol):
    """Pictures, and words where it reads them, to embeddings of unit length."""

    name: str
    """As people are told of it: its folder, absolute."""
    fingerprint: str
    """64 hex digits that depend on weights and configuration: which encoder made a row."""
    embedding_size: int
    """D."""
    reads_words: bool
    """Whether it takes text."""
    max_text_tokens: int
    """A text is read up to so many tokens, each a byte at least; 0 where none is read."""

    def decode_size(self) -> int:
        """Side in pixels that pictures are resized to, whole, before they are embedded."""

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        """float32 (n, D), unit length, in one batch.

        Raises:
            ValueError: words for an encoder that reads none.
        """

    def cuts(self, text: str) -> bool:
        """Whether `embed` reads only the beginning of a text."""


class PictureEncoder:
    """A `RetrievalEncoder` as a search encoder: pictures only."""

    reads_words = False
    max_text_tokens = 0

    def __init__(self, encoder: "RetrievalEncoder", name: str, fingerprint: str) -> None:
        self.encoder = encoder
        self.name, self.fingerprint = name, fingerprint
        self.embedding_size = encoder.embedding_size

    def decode_size(self) -> int:
        return self.encoder.image_size

    def cuts(self, text: str) -> bool:
        return False  # it is refused

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        if not items:
            return np.zeros((0, self.embedding_size), dtype=np.float32)
        import torch

        pictures = []
        for item in items:
            if item.picture is None or item.text or item.instruction:
                raise ValueError(
                    f"{self.name} reads pictures only, not words: search with a picture, or use the embedder of "
                    "`fieldmark train elva` or `fieldmark train contrastive`"
                )
            pictures.append(_fitted(item.picture, self.decode_size()))
        return self.encoder.encode(torch.from_numpy(np.stack(pictures)), batch_size=len(pictures)).numpy()


class WordsAndPicturesEncoder:
    """A `UniversalEmbedder` as a search encoder."""

    reads_words = True

    def __init__(self, embedder: "UniversalEmbedder", name: str) -> None:
        self.embedder = embedder
        self.name = name
        self.fingerprint = hashlib.sha256(embedder.fingerprint().encode()).hexdigest()
        self.embedding_size = embedder.embedding_size
        self.max_text_tokens = embedder.config.max_text_tokens

    def decode_size(self) -> int:
        return self.embedder.config.image_size

    def cuts(self, text: str) -> bool:
        from fieldmark.models.embedding_prompts import PromptWriter

        return PromptWriter(self.embedder.backbone, self.embedder.summary_id).cuts(text, self.embedder.config)

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        if not items:
            return np.zeros((0, self.embedding_size), dtype=np.float32)
        import torch

        from fieldmark.models.embedding_prompts import Request

        requests = []
        for number, item in enumerate(items):
            if item.picture is None:
                requests.append(Request(Item(str(number), item.text), item.instruction))
            else:  # the path only says that there is a picture: the decoded one is what is read
                picture = torch.from_numpy(_fitted(item.picture, self.decode_size()))
                requests.append(Request(Item(str(number), item.text, _DECODED), item.instruction, picture))
        return self.embedder.encode(requests, batch_size=len(requests)).embeddings.numpy()


def load_search_encoder(path: str | Path, device: str = "cpu") -> SearchEncoder:
    """The encoder of a run, or a saved one: of `train metric` and `train saga`, or of `train contrastive` and
    `train elva`; or "bundled-embedder".

    Raises:
        ValueError: there is none, or it is damaged.
    """
    from fieldmark.models.bundled import located
    from fieldmark.models.embedder_files import EMBEDDER_FILE
    from fieldmark.models.retrieval_encoder import CONFIG_NAME, FORMAT, WEIGHTS_NAME, RetrievalEncoder
    from fieldmark.models.universal_embedder import load_embedder
    from fieldmark.models.weight_files import read_json

    folder = Path(located(path)).absolute()  # an index remembers it, whatever folder it is opened from
    for candidate in (folder / "encoder", folder):
        if (candidate / EMBEDDER_FILE).is_file():
            return WordsAndPicturesEncoder(load_embedder(candidate, device=device), str(folder))
        if (candidate / CONFIG_NAME).is_file() and read_json(candidate, CONFIG_NAME).get("format") == FORMAT:
            encoder = RetrievalEncoder.from_pretrained(candidate, device=device)
            return PictureEncoder(encoder, str(folder), files_fingerprint(candidate))
    if (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is a run that has saved no encoder yet: finish it with --resume")
    raise ValueError(
        f"{folder} holds no encoder: give the folder of a run, or of a saved encoder ({CONFIG_NAME} and "
        f"{WEIGHTS_NAME}, or {EMBEDDER_FILE})"
    )


def files_fingerprint(folder: Path) -> str:
    """sha256 over the configuration and the weights of a saved `RetrievalEncoder`."""
    from fieldmark.models.retrieval_encoder import CONFIG_NAME, WEIGHTS_NAME

    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        digest.update(f"{name} {(folder / name).stat().st_size} ".encode())
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture at side × side, resized as every picture of an index is."""
    if picture.shape[:2] == (side, side):
        return np.array(picture)  # a copy: torch warns of arrays that cannot be written to
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
