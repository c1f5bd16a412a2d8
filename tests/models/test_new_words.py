"""Words that become tokens: how they are read and written, what they begin as, and that they are saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fixtures_families import save_tiny_family
from tests.models.test_universal_embedder import SHORT, adapt, requests

from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.new_words import add_words, read_words
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder

WORDS = ("grinning", "face")
TEXT = "grinning face, a grinning surface"


@pytest.fixture
def embedder(tmp_path: Path) -> UniversalEmbedder:
    save_tiny_family(tmp_path / "base", "qwen3_vl")  # its head is a matrix of its own
    return load_embedder(tmp_path / "base", config=EmbedderConfig(**SHORT))


def ids_of(embedder: UniversalEmbedder, text: str) -> list[int]:
    return embedder.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_word_is_one_token_with_its_space_or_alone(embedder):
    tokenizer = embedder.backbone.tokenizer
    spelled, ret = ids_of(embedder, TEXT), embedder.summary_id
    add_words(embedder.backbone, WORDS)
    ids = ids_of(embedder, TEXT)
    assert len(ids) < len(spelled) and tokenizer.decode(ids) == TEXT
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:2] == ["grinning", " face"] and tokens.count(" grinning") == 1 and "face" not in tokens
    assert embedder.summary_id == ret == tokenizer.convert_tokens_to_ids("[RET]"), "[RET] keeps its number"
    rows = len(embedder.backbone.model.get_input_embeddings().weight)
    assert embedder.backbone.vocab_size == rows == len(embedder.backbone.head.weight) > max(ids)


def test_tokens_begin_as_the_mean_of_their_pieces_and_others_stay(embedder):
    backbone = embedder.backbone
    pieces = ids_of(embedder, " face")
    before = [m.detach().clone() for m in (backbone.model.get_input_embeddings().weight, backbone.head.weight)]
    untouched = embedder.embed_one_word(requests())
    known = len(backbone.tokenizer)
    add_words(backbone, WORDS)
    after = backbone.model.get_input_embeddings().weight, backbone.head.weight
    number = backbone.tokenizer.convert_tokens_to_ids(" face")
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new[number], old[pieces].mean(0))
        assert torch.equal(new[:known], old[:known])
    torch.testing.assert_close(embedder.embed_one_word(requests()), untouched)


def test_words_and_what_they_learnt_are_saved(embedder, tmp_path):
    add_words(embedder.backbone, WORDS)
    adapt(embedder)
    embedder.train_part("words")
    with torch.no_grad():
        noise = torch.Generator().manual_seed(0)
        for matrix in (embedder.backbone.model.get_input_embeddings().weight, embedder.backbone.head.weight):
            matrix += 0.1 * torch.randn(matrix.shape, generator=noise)
    embedder.save_pretrained(tmp_path / "saved")
    again = load_embedder(tmp_path / "saved")
    assert again.backbone.new_words == WORDS and ids_of(again, TEXT) == ids_of(embedder, TEXT)
    asked = [replace(one, item=replace(one.item, text=TEXT)) for one in requests()]
    ours, theirs = embedder.encode(asked), again.encode(asked)
    torch.testing.assert_close(theirs.embeddings, ours.embeddings, rtol=0, atol=1e-6)
    assert theirs.summaries == ours.summaries
    again.fold_adapter()
    add_words(again.backbone, ("smile", "face"))  # a further stage
    adapt(again, seed=1)
    again.save_pretrained(tmp_path / "next")
    third = load_embedder(tmp_path / "next")
    assert third.backbone.new_words == (*WORDS, "smile")
    torch.testing.assert_close(third.encode(asked).embeddings, again.encode(asked).embeddings, rtol=0, atol=1e-6)


def test_new_words_get_a_gradient(embedder):
    add_words(embedder.backbone, WORDS)
    embedder.train_part("words")
    asked = [replace(one, item=replace(one.item, text=TEXT)) for one in requests()]
    embedder.embed_one_word(asked).sum().backward()
    gradient = embedder.backbone.model.get_input_embeddings().weight.grad
    assert all(bool(gradient[number].any()) for number in ids_of(embedder, TEXT)[:2])


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\nb c\n", "line 2.*more than one word"), ("a\n\na\n", "line 3.*twice"), ("\n", "0 words")],
)
def test_files_of_words_that_are_none(tmp_path, text, said):
    file = tmp_path / "words.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_words(file)
    with pytest.raises(ValueError, match="fieldmark data words"):
        read_words(tmp_path / "none.txt")
    file.write_text("b\n\na\n")
    assert read_words(file) == ("b", "a")
