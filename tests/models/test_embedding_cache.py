import pytest
import torch
from tests.fixtures_models import pictures

from fieldmark.data.decode import BadImage
from fieldmark.models.embedding_cache import CachedEmbedding, EmbeddingCache, content_key


def entry(value, summary=None):
    return CachedEmbedding(torch.full((4,), float(value)), summary, False)


def test_keys_tell_contents_apart(tmp_path):
    one, two = pictures(2)
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"xx")
    keys = [
        content_key("m", [1, 2], []),
        content_key("n", [1, 2], []),
        content_key("m", [1, 3], []),
        content_key("m", [1, 2], [one]),
        content_key("m", [1, 2], [two]),
        content_key("m", [1, 2], [one, two]),
        content_key("m", [1, 2], [one.reshape(8, 32, 3)]),
        content_key("m", [1, 2], [tmp_path / "a"]),
        content_key("m", [1, 2], [tmp_path / "b"]),
    ]
    assert len(set(keys)) == len(keys)
    (tmp_path / "b").write_bytes(b"x")
    assert content_key("m", [1, 2], [tmp_path / "b"]) == keys[7]
    assert content_key("m", (1, 2), [one.clone()]) == keys[3]
    with pytest.raises(BadImage):
        content_key("m", [1], [tmp_path / "missing"])


def test_memory_is_bounded_and_keeps_what_was_used_last():
    cache = EmbeddingCache(max_bytes=2 * 16)
    cache.put("a", entry(1))
    cache.put("b", entry(2))
    assert cache.get("a") is not None
    cache.put("c", entry(3))
    assert cache.get("b") is None and cache.get("a") is not None and cache.get("c") is not None


def test_folder_keeps_everything_for_the_next_process(tmp_path):
    cache = EmbeddingCache(max_bytes=16, folder=tmp_path)
    for number in range(3):
        cache.put(str(number), entry(number, f"summary {number}"))
    cache.flush()
    cache.put("3", entry(3))
    cache.flush()
    cache.flush()
    assert len(list(tmp_path.iterdir())) == 2  # no temporary files either
    for again in (cache, EmbeddingCache(folder=tmp_path)):
        for number in range(3):
            found = again.get(str(number))
            assert torch.equal(found.embedding, entry(number).embedding) and found.summary == f"summary {number}"
        assert again.get("3").summary is None and again.get("4") is None


def test_damaged_and_foreign_files_are_named(tmp_path):
    (tmp_path / "embeddings-x.safetensors").write_bytes(b"12345678901")
    with pytest.raises(ValueError, match="embeddings-x"):
        EmbeddingCache(folder=tmp_path)
    from safetensors.torch import save_file

    save_file({"embeddings": torch.zeros(1, 2)}, tmp_path / "embeddings-x.safetensors")
    with pytest.raises(ValueError, match="take it out"):
        EmbeddingCache(folder=tmp_path)
    with pytest.raises(ValueError, match="max_bytes"):
        EmbeddingCache(max_bytes=-1)
