"""Saved embedders: what is read equals what was written, and what does not fit is refused."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.fixtures_families import TINY, save_tiny_family
from tests.models.test_universal_embedder import SHORT, adapt, requests, tiny

from fieldmark.models.backbone import load_backbone
from fieldmark.models.trained_parts import PARTS, part_parameters
from fieldmark.models.universal_embedder import EmbedderConfig, UniversalEmbedder, load_embedder

CONFIG = EmbedderConfig(slot="summary_token", **SHORT)


@pytest.fixture(scope="module", params=sorted(TINY))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / request.param
    save_tiny_family(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "qwen3_vl"
    save_tiny_family(folder, "qwen3_vl")
    return folder


def test_two_stages_and_a_moved_row_come_back(family, tmp_path):
    embedder = adapt(load_embedder(family, config=CONFIG))
    embedder.fold_adapter()
    with torch.no_grad():
        embedder.summary_token.row.add_(0.1)
    adapt(embedder, seed=1)
    with torch.no_grad():
        embedder.summary_token.row.add_(0.1)
    embedder.save_pretrained(tmp_path / "saved")
    again = load_embedder(tmp_path / "saved")
    assert again.config == CONFIG and not again.training and again.base == str(family)
    for mine, theirs in ((embedder, again), (again, embedder)):
        torch.testing.assert_close(
            mine.encode(requests()).embeddings, theirs.encode(requests()).embeddings, rtol=0, atol=1e-6
        )
    with embedder.reference(), again.reference():
        torch.testing.assert_close(
            again.encode(requests()).embeddings, embedder.encode(requests()).embeddings, rtol=0, atol=1e-6
        )
    assert set(again.trainable_parameters()) == set(embedder.trainable_parameters())
    again.save_pretrained(tmp_path / "saved")  # over itself
    assert load_embedder(tmp_path / "saved").encode(requests()).num_forced == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_base_alone(base, tmp_path):
    embedder = load_embedder(base, config=CONFIG)
    embedder.save_pretrained(tmp_path / "saved")
    again = load_embedder(tmp_path / "saved")
    assert torch.equal(again.encode(requests()).embeddings, embedder.encode(requests()).embeddings)


def test_bundled_model_by_name(tmp_path):
    embedder = load_embedder("bundled", config=EmbedderConfig(image_size=96))
    assert embedder.summary_id == 419 and embedder.backbone.vocab_size == 424  # a row of the padding
    embedder.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "embedder.json").read_text())["base"] == "bundled"
    load_embedder(tmp_path / "saved")


def test_saved_folder_is_a_peft_adapter(base, tmp_path):
    embedder = adapt(load_embedder(base, config=CONFIG))
    embedder.save_pretrained(tmp_path / "saved")
    plain = UniversalEmbedder(load_backbone(base), CONFIG)
    PeftModel.from_pretrained(plain.backbone.model, tmp_path / "saved")
    assert torch.equal(plain.eval().encode(requests()).embeddings, embedder.encode(requests()).embeddings)


def test_somebody_elses_adapter_over_the_base_it_names(base, tmp_path):
    theirs = load_backbone(base)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*(q_proj|down_proj)")
    model = get_peft_model(theirs.model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "theirs")
    expected = UniversalEmbedder(theirs, CONFIG).eval().encode(requests()).embeddings
    for named in (None, base):
        embedder = load_embedder(tmp_path / "theirs", named, config=CONFIG)
        torch.testing.assert_close(embedder.encode(requests()).embeddings, expected, rtol=0, atol=1e-5)
    embedder.fold_adapter()  # and goes on from there
    adapt(embedder)
    embedder.save_pretrained(tmp_path / "ours")
    torch.testing.assert_close(
        load_embedder(tmp_path / "ours").encode(requests()).embeddings,
        embedder.encode(requests()).embeddings,
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_trained_is_saved(base, tmp_path, part):
    embedder = adapt(load_embedder(base, config=CONFIG))
    before = embedder.encode(requests()).embeddings
    embedder.train_part(part)
    with torch.no_grad():
        for parameter in part_parameters(embedder.backbone, part).values():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    embedder.train_part(part, False)
    embedder.save_pretrained(tmp_path / "saved")
    again = load_embedder(tmp_path / "saved")
    after = again.encode(requests()).embeddings
    torch.testing.assert_close(after, embedder.encode(requests()).embeddings, rtol=0, atol=1e-6)
    assert (after - before).abs().max() > 1e-3
    again.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / f"{part}.safetensors"
    assert file.is_file()
    tensors = load_file(file)
    name = min(tensors)
    save_file({**tensors, name: tensors[name][:1].clone()}, file)
    with pytest.raises(ValueError, match=f"another base: {name}"):
        load_embedder(tmp_path / "saved")
    file.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_embedder(tmp_path / "saved")


def test_a_head_of_its_own_is_one_of_the_words(base):
    apart, tied = load_embedder(base, config=CONFIG), tiny()
    assert part_parameters(apart.backbone, "words").keys() == {"embeddings", "head"}
    assert part_parameters(tied.backbone, "words").keys() == {"embeddings"}


def test_what_does_not_fit_is_refused(base, tmp_path):
    saved = tmp_path / "saved"
    embedder = adapt(load_embedder(base, config=CONFIG))
    embedder.save_pretrained(saved)
    other = tmp_path / "other"
    save_tiny_family(other, "qwen3_vl", seed=1)
    with pytest.raises(ValueError, match="another base"):
        load_embedder(saved, other)
    save_tiny_family(tmp_path / "kind", "qwen2_5_vl")
    with pytest.raises(ValueError, match="another base, of type qwen3_vl"):
        load_embedder(saved, tmp_path / "kind")
    with pytest.raises(ValueError, match="base=x has no use"):
        load_embedder(base, "x")
    embedder.merge_adapter()
    with pytest.raises(ValueError, match="unmerge"):
        embedder.save_pretrained(saved)
    embedder.unmerge_adapter()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="choose another"):
        embedder.save_pretrained(full)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    def damaged(change):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(saved, tmp_path / "copy")
        change(tmp_path / "copy")
        load_embedder(tmp_path / "copy")

    with pytest.raises(ValueError, match=r"summary_token\.safetensors is missing"):
        damaged(lambda folder: (folder / "summary_token.safetensors").unlink())
    with pytest.raises(ValueError, match="cut short"):
        damaged(lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"123456789012"))
    with pytest.raises(ValueError, match="version"):
        damaged(lambda folder: (folder / "embedder.json").write_text('{"format": "x"}'))
    anonymous = json.loads((saved / "embedder.json").read_text()) | {"base": ""}
    with pytest.raises(ValueError, match="give it as base"):
        damaged(lambda folder: (folder / "embedder.json").write_text(json.dumps(anonymous)))

    def shrink(folder):
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors = {key: value[:, :16].contiguous() if "lora_A" in key else value for key, value in tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})

    with pytest.raises(ValueError, match="another base"):
        damaged(shrink)


def test_whoever_may_read_the_folder_may_read_every_file_of_it(base, tmp_path):
    """safetensors writes files that their owner alone can read: a service under another user could not load them."""
    adapt(load_embedder(base, config=CONFIG)).save_pretrained(tmp_path / "saved")
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"adapter_model.safetensors", "summary_token.safetensors"}
    assert {path.stat().st_mode for path in files} == {usual}
