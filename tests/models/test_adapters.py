"""LoRA adapters against peft itself, the full graph and the model without them."""

import dataclasses
import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import tiny_backbone

from fieldmark.models.adapters import (
    AdapterConfig,
    SavedAdapter,
    adapter_disabled,
    adapter_layers,
    adapter_state,
    add_adapter,
    fold_adapter,
    insert_adapter,
    merge_adapter,
    read_adapter,
    unmerge_adapter,
    write_adapter,
)
from fieldmark.models.backbone import load_backbone

SMALL = AdapterConfig(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module", params=sorted(TINY))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / request.param
    save_tiny_family(folder, request.param)
    return folder


def trained(backbone, config=SMALL, seed=0):
    """Adapt and move the matrices away from where they do nothing."""
    generator = torch.Generator().manual_seed(seed)
    add_adapter(backbone, config, generator)
    with torch.no_grad():
        for layer in adapter_layers(backbone).values():
            layer.lora_B["default"].weight.normal_(0, 0.05, generator=generator)
    return backbone


def state(backbone):
    prompt = backbone.chat_prompt("a red bird", 0)
    embeds = backbone.token_embeddings(torch.tensor([prompt.ids]))
    positions = backbone.text_positions(torch.arange(len(prompt.ids))[None])
    return torch.nn.functional.normalize(backbone.decode(embeds, positions), dim=-1)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_a_new_adapter_changes_nothing_and_stays_in_the_decoder(family):
    backbone = load_backbone(family)
    backbone.model.requires_grad_(False)
    before, names = state(backbone), set(backbone.model.state_dict())
    random_state = torch.random.get_rng_state()
    add_adapter(backbone, SMALL, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert torch.equal(state(backbone), before)
    layers = adapter_layers(backbone)
    assert layers and all(name.startswith("model.language_model.layers.") for name in layers)
    per_layer = 4 if "moe" in family.name else 7
    assert len(layers) == 3 * per_layer
    assert {n for n, p in backbone.model.named_parameters() if p.requires_grad} == {
        f"{name}.{part}.default.weight" for name in layers for part in ("lora_A", "lora_B")
    }
    assert {name.replace(".base_layer", "") for name in backbone.model.state_dict() if "lora_" not in name} == names


def test_switched_off_merged_and_folded(family):
    backbone = load_backbone(family)
    backbone.model.requires_grad_(False)
    before = state(backbone)
    trained(backbone)
    adapted = state(backbone).detach()
    assert (adapted - before).abs().max() > 1e-3
    flags = [p.requires_grad for p in backbone.model.parameters()]
    with adapter_disabled(backbone):
        assert torch.equal(state(backbone), before)
    assert torch.equal(state(backbone), adapted)
    assert [p.requires_grad for p in backbone.model.parameters()] == flags
    merge_adapter(backbone)
    close(state(backbone), adapted)
    with pytest.raises(ValueError, match="unmerge"), adapter_disabled(backbone):
        pass
    unmerge_adapter(backbone)
    close(state(backbone), adapted)
    fold_adapter(backbone)
    close(state(backbone), adapted)
    assert not adapter_layers(backbone) and not any("lora" in name for name in backbone.model.state_dict())
    add_adapter(backbone, dataclasses.replace(SMALL, rank=2), torch.Generator())  # the next one
    close(state(backbone), adapted)


def test_gradients_are_those_of_the_matrices_written_out(family):
    """W + (alpha / rank) B A, put together by hand, differentiated by plain autograd."""
    backbone = load_backbone(family)
    backbone.model.requires_grad_(False)
    trained(backbone)
    direction = torch.randn(backbone.hidden_size, generator=torch.Generator().manual_seed(1))
    (state(backbone) @ direction).sum().backward()
    layers = adapter_layers(backbone)
    parts = {
        name: {part: getattr(layer, part)["default"].weight for part in ("lora_A", "lora_B")}
        for name, layer in layers.items()
    }
    plain = load_backbone(family)
    plain.model.requires_grad_(False)
    copies = {
        name: {part: w.detach().clone().requires_grad_() for part, w in own.items()} for name, own in parts.items()
    }
    full = {
        f"{name}.weight": plain.model.get_submodule(name).weight + 2.0 * own["lora_B"] @ own["lora_A"]
        for name, own in copies.items()
    }
    prompt = plain.chat_prompt("a red bird", 0)
    embeds = plain.token_embeddings(torch.tensor([prompt.ids]))
    positions = plain.text_positions(torch.arange(len(prompt.ids))[None])
    prefix = "model.language_model."
    output = torch.func.functional_call(
        plain.decoder,
        {name.removeprefix(prefix): weight for name, weight in full.items()},
        kwargs={"inputs_embeds": embeds, "position_ids": positions, "use_cache": False},
    )
    (torch.nn.functional.normalize(output.last_hidden_state, dim=-1) @ direction).sum().backward()
    for name, own in copies.items():
        for part, copy in own.items():
            expected = copy.grad
            scale = expected.abs().max()
            torch.testing.assert_close(parts[name][part].grad / scale, expected / scale, rtol=0, atol=1e-5)


def test_the_same_generator_gives_the_same_adapter():
    states = []
    for seed in (1, 1, 2):
        backbone = tiny_backbone()
        add_adapter(backbone, SMALL, torch.Generator().manual_seed(seed))
        states.append(adapter_state(backbone).tensors)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_written_folder_is_read_by_us_and_by_peft(family, tmp_path):
    backbone = trained(load_backbone(family))
    expected = state(backbone)
    write_adapter(adapter_state(backbone), tmp_path / "adapter", "some/base")
    again = load_backbone(family)
    insert_adapter(again, read_adapter(tmp_path / "adapter"), "it")
    assert torch.equal(state(again), expected)
    theirs = load_backbone(family)
    model = PeftModel.from_pretrained(theirs.model, tmp_path / "adapter")
    assert torch.equal(state(theirs), expected) and model.peft_config["default"].r == 4


def peft_folder(family, folder, **options):
    """What somebody's own training with peft writes, and the state that their model has."""
    backbone = load_backbone(family)
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]} | options
    model = get_peft_model(backbone.model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder)
    return state(backbone.eval()).detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 32}},
    ],
)
def test_adapter_of_somebody_else(family, tmp_path, options):
    if family.name == "internvl":  # their names would fit in its tower, too
        options = options | {"target_modules": r".*language_model.*\.(q_proj|v_proj)"}
    expected = peft_folder(family, tmp_path / "theirs", **options)
    saved = read_adapter(tmp_path / "theirs")
    for renamed in (lambda name: name, lambda name: re.sub(r"model\.language_model\.", "model.", name)):
        backbone = load_backbone(family)
        tensors = {renamed(key): value for key, value in saved.tensors.items()}
        insert_adapter(backbone, SavedAdapter(saved.config, tensors), "theirs")
        close(state(backbone), expected)


def test_adapters_that_do_not_fit(tmp_path):
    folder = tmp_path / "base"
    save_tiny_family(folder, "qwen3_vl")
    peft_folder(folder, tmp_path / "theirs")
    saved = read_adapter(tmp_path / "theirs")

    def insert(tensors=None, **settings):
        config = dataclasses.replace(saved.config, **settings)
        insert_adapter(load_backbone(folder), SavedAdapter(config, saved.tensors if tensors is None else tensors), "it")

    key = next(key for key in saved.tensors if "layers.2" in key and "lora_A" in key)
    with pytest.raises(ValueError, match=r"another base.*layers\.77"):
        insert({key.replace("layers.2", "layers.77"): saved.tensors[key]})
    with pytest.raises(ValueError, match=r"another base.*maps 32"):
        insert({name: torch.zeros(4, 48) if "lora_A" in name else value for name, value in saved.tensors.items()})
    with pytest.raises(ValueError, match="incomplete"):
        insert({key: saved.tensors[key]})
    with pytest.raises(ValueError, match="no LoRA matrix"):
        insert({**saved.tensors, "base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="outside of the language model"):
        insert(
            {
                f"base_model.model.model.visual.blocks.0.attn.qkv.{p}.weight": torch.zeros(s)
                for p, s in (("lora_A", (4, 32)), ("lora_B", (96, 4)))
            }
        )
    with pytest.raises(ValueError, match="use_dora"):
        insert(use_dora=True)
    with pytest.raises(ValueError, match="pissa"):
        insert(init_lora_weights="pissa")
    (tmp_path / "theirs" / "adapter_model.safetensors").rename(tmp_path / "theirs" / "adapter_model.bin")
    with pytest.raises(ValueError, match="other formats"):
        read_adapter(tmp_path / "theirs")
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(ValueError, match="only LORA"):
        read_adapter(tmp_path / "theirs")


def test_what_cannot_be_done_is_said():
    backbone = tiny_backbone()
    for action in (merge_adapter, fold_adapter):
        with pytest.raises(ValueError, match="add one first"):
            action(backbone)
    with pytest.raises(ValueError, match="not merged"):
        unmerge_adapter(backbone)
    with pytest.raises(ValueError, match="no linear layers"):
        add_adapter(backbone, AdapterConfig(targets=("nowhere",)), torch.Generator())
    trained(backbone)
    with pytest.raises(ValueError, match="already"):
        add_adapter(backbone, SMALL, torch.Generator())
    with pytest.raises(ValueError, match="rank"):
        AdapterConfig(rank=0)
