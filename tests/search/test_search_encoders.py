"""Both kinds of saved encoders as search encoders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.data.retrieval import Item
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.search.encoders import EncoderInput, load_search_encoder


def retrieval_encoder() -> RetrievalEncoder:
    tower = load_backbone(bundled_path()).tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RetrievalEncoder(tower, build_pooler("attention", tower.width, 16), 96).eval()


def pictures(count: int, size: tuple[int, int] = (96, 96)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def test_a_run_of_a_retrieval_encoder(tmp_path: Path) -> None:
    encoder = retrieval_encoder()
    encoder.save_pretrained(tmp_path / "run" / "encoder")
    loaded = load_search_encoder(tmp_path / "run")
    assert loaded.name == str(tmp_path / "run") and not loaded.reads_words
    assert (loaded.embedding_size, loaded.decode_size()) == (16, 96)
    given = [*pictures(2), *pictures(1, (40, 70))]
    own = encoder.encode([Image.fromarray(one) for one in given]).numpy()
    found = loaded.embed([EncoderInput(one) for one in given])
    np.testing.assert_allclose(found, own, atol=1e-5)
    assert found.dtype == np.float32 and loaded.embed([]).shape == (0, 16)
    for item in (EncoderInput(text="a gull"), EncoderInput(given[0], "a gull"), EncoderInput(given[0], None, "find")):
        with pytest.raises(ValueError, match="pictures only"):
            loaded.embed([item])


def test_fingerprints_tell_encoders_apart(tmp_path: Path) -> None:
    encoder = retrieval_encoder()
    for name in ("one", "copy"):
        encoder.save_pretrained(tmp_path / name)
    with torch.no_grad():
        next(encoder.pooler.parameters()).reshape(-1)[0] += 1e-3
    encoder.save_pretrained(tmp_path / "other")
    one, copy, other = (load_search_encoder(tmp_path / name).fingerprint for name in ("one", "copy", "other"))
    assert one == copy != other and len(one) == 64


def test_a_universal_embedder(tmp_path: Path) -> None:
    embedder = load_embedder("bundled", config=EmbedderConfig(image_size=96))
    embedder.save_pretrained(tmp_path / "embedder")
    loaded = load_search_encoder(tmp_path / "embedder")
    assert loaded.reads_words and (loaded.embedding_size, loaded.decode_size()) == (embedder.embedding_size, 96)
    (picture,) = pictures(1)
    items = [EncoderInput(picture), EncoderInput(text="a red gull"), EncoderInput(picture, "but blue", "find")]
    tensor, path = torch.from_numpy(picture), Path("a.png")
    requests = [
        Request(Item("a", image=path), picture=tensor),
        Request(Item("b", "a red gull")),
        Request(Item("c", "but blue", path), "find", tensor),
    ]
    np.testing.assert_allclose(loaded.embed(items), embedder.encode(requests).embeddings.numpy(), atol=1e-5)
    assert len({tuple(vector) for vector in loaded.embed(items)}) == 3
    most = loaded.max_text_tokens
    assert (
        most == 480 and loaded.cuts("gull " * 600) and not loaded.cuts("a gull " * 60) and not loaded.cuts("a" * most)
    )
    assert loaded.fingerprint == load_search_encoder(tmp_path / "embedder").fingerprint
    embedder.config = EmbedderConfig(image_size=108)
    embedder.save_pretrained(tmp_path / "larger")
    assert loaded.fingerprint != load_search_encoder(tmp_path / "larger").fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [((), "holds no encoder"), (("config.yaml",), "finish it with --resume"), (("config.json",), "holds no encoder")],
)
def test_what_is_no_encoder(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=message):
        load_search_encoder(tmp_path)


@pytest.mark.parametrize(
    ("picture", "text", "message"),
    [
        (None, None, "nothing to embed"),
        (None, "", "nothing to embed"),
        (np.zeros((4, 4)), None, "uint8"),
        (np.zeros((4, 4, 4), np.uint8), None, "uint8"),
    ],
)
def test_what_cannot_be_embedded(picture: np.ndarray | None, text: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderInput(picture, text)
