import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder


def encoder(kind="attention", size=12):
    backbone = tiny_backbone()
    return backbone, RetrievalEncoder(
        backbone.tower, build_pooler(kind, 32, size, torch.Generator().manual_seed(0)), 16
    )


def test_the_tower_is_the_backbones_own():
    backbone, model = encoder()
    with torch.no_grad():
        next(backbone.tower_parameters()).add_(1)
    assert {id(p) for p in backbone.tower_parameters()} <= {id(p) for p in model.parameters()}
    vision, tokens = backbone.vision(backbone.pixels(pictures(2))), model.tokens(pictures(2))
    assert torch.equal(vision.merged, tokens.merged)


@pytest.mark.parametrize("kind, size", [("attention", 12), ("attention", None), ("mean", None), ("max", 12)])
def test_a_saved_encoder_embeds_the_same(tmp_path, kind, size):
    _, model = encoder(kind, size)
    images = pictures(5)
    before = model.encode(images, batch_size=2)
    model.save_pretrained(tmp_path / "encoder")
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "encoder")
    after = loaded.encode(images, batch_size=5)
    assert before.shape == (5, size or 32) and before.dtype == torch.float32
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(5))
    assert sorted(p.name for p in (tmp_path / "encoder").iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]


def test_it_loads_without_the_language_model(tmp_path):
    _, model = encoder()
    model.save_pretrained(tmp_path / "encoder")
    assert all(name.startswith(("tower.", "pooler.")) for name in load_file(tmp_path / "encoder/model.safetensors"))
    code = (
        "import sys; from fieldmark.models.retrieval_encoder import RetrievalEncoder; "
        f"e = RetrievalEncoder.from_pretrained({str(tmp_path / 'encoder')!r}); "
        "names = {type(m).__name__ for m in e.modules()}; "
        "assert not any('Text' in n or 'Decoder' in n for n in names), names; "
        "assert 'fieldmark.models.backbone' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_pil_pictures_are_resized_and_tensors_taken_as_they_are():
    _, model = encoder()
    images = pictures(2)
    as_pil = [Image.fromarray(image.numpy()) for image in images]
    torch.testing.assert_close(model.encode(as_pil), model.encode(images), rtol=0, atol=1e-6)
    big = Image.fromarray(pictures(1, 40)[0].numpy())
    assert model.encode([big, as_pil[0], big.convert("L")]).shape == (3, 12)
    mixed = model.encode([images[0], pictures(1, 24)[0]])
    torch.testing.assert_close(mixed[:1], model.encode(images[:1]), rtol=0, atol=1e-6)
    assert model.encode(images[:0]).shape == (0, 12)


def test_training_mode_is_kept_and_no_gradient_kept():
    _, model = encoder()
    model.train()
    assert not model.encode(pictures(1)).requires_grad and model.training


def test_an_older_encoder_is_replaced_but_nothing_else(tmp_path):
    _, model = encoder()
    model.save_pretrained(tmp_path / "e")
    model.save_pretrained(tmp_path / "e")
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/only-copy.tex").write_text("…")
    with pytest.raises(ValueError, match="choose another folder"):
        model.save_pretrained(tmp_path / "thesis")
    assert (tmp_path / "thesis/only-copy.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "thesis"]


def test_damaged_folders_are_refused(tmp_path):
    _, model = encoder()
    folder = tmp_path / "e"
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "pooler.query"}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing \['pooler.query'\]"):
        RetrievalEncoder.from_pretrained(folder)
    save_file({**weights, "extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="unexpected"):
        RetrievalEncoder.from_pretrained(folder)
    save_file({**weights, "pooler.query": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"pooler.query has shape \(3,\)"):
        RetrievalEncoder.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        RetrievalEncoder.from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="load_backbone"):
        RetrievalEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match="missing"):
        RetrievalEncoder.from_pretrained(tmp_path)


def test_sizes_must_fit():
    backbone, _ = encoder()
    with pytest.raises(ValueError, match="multiple of 8"):
        RetrievalEncoder(backbone.tower, build_pooler("mean", 32), 20)
    with pytest.raises(ValueError, match="width 16"):
        RetrievalEncoder(backbone.tower, build_pooler("mean", 16), 16)


def test_embeddings_can_be_cut():
    _, model = encoder()
    whole, cut = model.encode(pictures(3)), model.encode(pictures(3), dimensions=5)
    assert cut.shape == (3, 5) and model.encode([], dimensions=5).shape == (0, 5)
    torch.testing.assert_close(cut, torch.nn.functional.normalize(whole[:, :5], dim=1))
    assert torch.equal(model.encode(pictures(3), dimensions=12), whole)
    for size in (0, 13):
        with pytest.raises(ValueError, match="from 1 to 12"):
            model.encode(pictures(3), dimensions=size)
