import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures_models import (
    PREPROCESSING,
    pictures,
    save_tiny,
    tiny_backbone,
    tiny_model,
    tiny_tokenizer,
)

from fieldmark.models.backbone import Backbone, PromptTokens, causal_mask, load_backbone


def hf_inputs(backbone, prompt, chosen, images, extra=()):
    """One prompt as transformers itself wants it."""
    pixels = backbone.pixels(images[list(chosen)]) if chosen else None
    counts = iter(backbone.vision(pixels).counts if pixels else ())
    ids = [t for token in prompt.ids for t in [token] * (next(counts) if token == backbone.image_token_id else 1)]
    ids = torch.tensor([ids + list(extra)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pixels:
        inputs |= {
            "pixel_values": pixels.pixel_values,
            "image_grid_thw": pixels.grid_thw,
            "mm_token_type_ids": (ids == backbone.image_token_id).int(),
        }
    return inputs


CHOICES = [(0, 1), (2,), (), (2, 0)]


def prompts_for(backbone):
    texts = ["Are these the same?", "What is it?", "No picture here, only a rather longer text.", "?"]
    return [backbone.chat_prompt(text, len(chosen)) for text, chosen in zip(texts, CHOICES, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoder_on_embedded_prompts_equals_the_full_model(backbone, side, attention):
    backbone.model.set_attn_implementation(attention)
    images = [pictures(2, 16)[0], pictures(2, 24)[1], pictures(1, 16, seed=3)[0]]
    prompts = prompts_for(backbone)
    with torch.no_grad():
        vision = backbone.vision(backbone.pixels(images))
        batch = backbone.embed(prompts, vision, CHOICES, padding_side=side)
        hidden = backbone.decode_prompts(batch)
        for row, (prompt, chosen) in enumerate(zip(prompts, CHOICES, strict=True)):
            pixels = backbone.pixels([images[i] for i in chosen]) if chosen else None
            counts = iter([vision.counts[i] for i in chosen])
            ids = torch.tensor(
                [
                    [
                        t
                        for token in prompt.ids
                        for t in [token] * (next(counts) if token == backbone.image_token_id else 1)
                    ]
                ]
            )
            extra = (
                {}
                if pixels is None
                else {
                    "pixel_values": pixels.pixel_values,
                    "image_grid_thw": pixels.grid_thw,
                    "mm_token_type_ids": (ids == backbone.image_token_id).int(),
                }
            )
            expected = backbone.model(input_ids=ids, **extra).logits[0]
            ours = backbone.logits(hidden[row][batch.attention_mask[row]])
            torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
            assert [len(span) for span in batch.image_spans[row]] == [vision.counts[i] for i in chosen]
            for span in batch.image_spans[row]:
                assert batch.visual_mask[row, span.start : span.stop].all()


def test_tower_gradient_through_leaves_equals_the_full_graph(backbone):
    """SAGA's premise: tower once, leaves everywhere, one backward: the same gradient, DeepStack included."""
    images, target = pictures(2), 7
    prompt = backbone.chat_prompt("Are these the same?", 2)
    inputs = hf_inputs(backbone, prompt, (0, 1), images)
    backbone.model(**inputs).logits[0, -1].log_softmax(-1)[target].backward()
    expected = {name: p.grad.clone() for name, p in backbone.tower.named_parameters()}
    backbone.zero_grad()

    vision = backbone.vision(backbone.pixels(images))
    leaves = vision.as_leaves()
    hidden = backbone.decode_prompts(backbone.embed([prompt], leaves, [(0, 1)]))
    backbone.logits(hidden[:, -1])[0].log_softmax(-1)[target].backward()
    assert all(gradient.abs().sum() > 0 for gradient in leaves.gradients())
    vision.backward(leaves)
    for name, parameter in backbone.tower.named_parameters():
        scale = expected[name].norm()
        assert scale > 0, name
        assert (parameter.grad - expected[name]).norm() <= 2e-5 * scale, name
    assert all(p.grad is None for p in backbone.parameters() if not p.requires_grad)
    assert backbone.head.weight.grad is None


def test_dropping_deepstack_gradients_would_be_noticed(backbone):
    vision = backbone.vision(backbone.pixels(pictures(1)))
    leaves = vision.as_leaves()
    batch = backbone.embed([backbone.chat_prompt("x", 1)], leaves, [(0,)])
    backbone.logits(backbone.decode_prompts(batch)[:, -1]).log_softmax(-1)[0, 3].backward()
    merged, *deepstack = leaves.gradients()
    assert len(deepstack) == 2 and all(d.norm() > 1e-3 * merged.norm() for d in deepstack)


def test_only_the_tower_is_trained(backbone):
    trained = {id(p) for p in backbone.parameters() if p.requires_grad}
    assert trained == {id(p) for p in backbone.tower_parameters()}
    assert {id(p) for p in backbone.model.model.language_model.parameters()}.isdisjoint(trained)


def test_embedding_refuses_what_does_not_fit(backbone):
    vision = backbone.vision(backbone.pixels(pictures(2)))
    prompt = backbone.chat_prompt("Hello", 1)
    with pytest.raises(ValueError, match="1 placeholders, got 2"):
        backbone.embed([prompt], vision, [(0, 1)])
    with pytest.raises(ValueError, match="picture 5 of 2"):
        backbone.embed([prompt], vision, [(5,)])
    with pytest.raises(ValueError, match="context of 512"):
        backbone.embed([prompt], vision, [(0,)], reserve=500)
    with pytest.raises(ValueError, match="padding_side"):
        backbone.embed([prompt], vision, [(0,)], padding_side="middle")


def test_sampled_image_tokens_are_text(backbone):
    """A completion may contain the id of the image placeholder: it must not be taken for a picture."""
    vision = backbone.vision(backbone.pixels(pictures(1)))
    prompt = backbone.chat_prompt("Hello", 1)
    batch = backbone.embed([prompt], vision, [(0,)], suffixes=[[5, backbone.image_token_id, 6]])
    assert int(batch.visual_mask.sum()) == 4
    assert batch.position_ids[0, 0, -1] - batch.position_ids[0, 0, -3] == 2


def test_chat_prompt_has_one_placeholder_per_picture(backbone):
    prompt = backbone.chat_prompt("Same?", 2)
    assert prompt.num_images == 2 and prompt.ids.count(backbone.image_token_id) == 2
    assert backbone.tokenizer.decode(prompt.ids).endswith("Same?<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(ValueError, match="2 image placeholders for 1"):
        backbone.chat_prompt("sneaky <|image_pad|>", 1)
    backbone.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        backbone.chat_prompt("x", 0)


def test_causal_mask_never_has_an_empty_row():
    real = torch.tensor([[False, False, True, True], [True, True, True, False]])
    mask = causal_mask(real, 3)
    assert mask.shape == (2, 1, 3, 4) and mask.any(-1).all()
    assert mask[0, 0].int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask[1, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_model_loads_and_computes_in_float32(tmp_path, dtype):
    model = tiny_model(3)
    backbone = load_backbone(save_tiny(tmp_path / "model", model, dtype=dtype))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.preprocessing == PREPROCESSING and not backbone.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(backbone.model.state_dict()[name], value.to(dtype).float(), rtol=0, atol=0)
    assert backbone.stop_ids == (tiny_tokenizer().eos_token_id,)
    assert (backbone.hidden_size, backbone.num_layers) == (32, 3)


def test_missing_and_unexpected_weights_are_named(tmp_path):
    folder = save_tiny(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lost = "model.visual.blocks.1.mlp.linear_fc1.weight"
    stranger = {**weights, "model.visual.stranger": torch.zeros(2)}
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"missing keys: {lost}"):
        load_backbone(folder)
    save_file(stranger, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected keys: .*stranger"):
        load_backbone(folder)


@pytest.mark.parametrize(
    "options, message",
    [({"dtype": "float8"}, "float8"), ({"attention": "flash_attention_2"}, "flash_attention_2")],
)
def test_unknown_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(tmp_path, **options)


def test_folders_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_backbone(tmp_path)
    with pytest.raises(ValueError, match="no model at"):
        load_backbone(tmp_path / "nowhere")
    folder = save_tiny(tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        load_backbone(folder)


def test_foreign_preprocessing_is_refused():
    wrong = type(PREPROCESSING).from_config({**PREPROCESSING.to_config(), "patch_size": 8})
    with pytest.raises(ValueError, match="patch_size = 8, the model 4"):
        Backbone(tiny_model(), tiny_tokenizer(), wrong)


def test_prompt_without_pictures_in_a_batch_without_pictures(backbone):
    vision = backbone.vision(backbone.pixels(pictures(1)))
    batch = backbone.embed([PromptTokens((1, 2, 3), 0)], vision, [()])
    assert batch.deepstack == () and not batch.visual_mask.any()
    assert backbone.decode_prompts(batch).shape == (1, 3, 32)


def test_grouped_heads_too():
    backbone = tiny_backbone(heads=4, key_heads=2)
    vision = backbone.vision(backbone.pixels(pictures(1)))
    prompts = [backbone.chat_prompt("one", 1), backbone.chat_prompt("and two", 1)]
    with torch.no_grad():
        both = backbone.decode_prompts(backbone.embed(prompts, vision, [(0,), (0,)]))[:, -1]
        alone = backbone.decode_prompts(backbone.embed(prompts[:1], vision, [(0,)]))[:, -1]
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=2e-5)
