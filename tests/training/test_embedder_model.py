"""Where the embedder that is trained comes from."""

from dataclasses import replace

import pytest
import torch
from tests.fixtures_models import save_tiny

from fieldmark.data.retrieval import Item
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.training.embedder_model import EmbedderModelConfig, embedder_folder, load_for_training


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EmbedderModelConfig:
    checkpoint = save_tiny(tmp_path_factory.mktemp("checkpoint"))
    return EmbedderModelConfig(
        base=str(checkpoint), adapter=AdapterConfig(rank=2, alpha=4), embedder=EmbedderConfig(image_size=16)
    )


def test_adapter_is_the_same_for_the_same_seed_and_only_it_is_trained(config):
    one, two, other = (load_for_training(config, seed) for seed in (1, 1, 2))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint() and one.training
    names = set(one.trainable_parameters())
    assert len(names) == 43 and sum("lora_" in name for name in names) == 42
    assert not any(p.requires_grad for p in one.backbone.tower_parameters())


def test_an_adapter_that_the_base_brings_is_folded(config, tmp_path):
    first = load_for_training(config, 1)
    with torch.no_grad():
        for name, p in first.named_parameters():
            if "lora_B" in name:
                p.fill_(0.1)
    first.save_pretrained(tmp_path / "run" / "encoder")
    request = [Request(Item("0:1", "a bird"))]
    second = load_for_training(replace(config, base=str(tmp_path / "run"), train_tower=True, train_words=True), 2)
    assert torch.allclose(second.encode(request).embeddings, first.encode(request).embeddings, atol=1e-5)
    assert len(second.folded) == 1 and all(p.requires_grad for p in second.backbone.tower_parameters())
    assert second.summary_token.weight.requires_grad


def test_new_words_need_training(config, tmp_path):
    with pytest.raises(ValueError, match="train_words"):
        replace(config, new_words="words.txt")
    (tmp_path / "words.txt").write_text("smiling\n")
    model = load_for_training(replace(config, new_words=str(tmp_path / "words.txt"), train_words=True), 1)
    assert model.backbone.new_words == ("smiling",) and model.summary_token.weight.requires_grad


def test_folder_of_a_run(tmp_path):
    assert embedder_folder(tmp_path) == str(tmp_path) and embedder_folder("bundled") == "bundled"
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match="--resume"):
        embedder_folder(tmp_path)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "embedder.json").touch()
    assert embedder_folder(str(tmp_path)) == str(tmp_path / "encoder")
