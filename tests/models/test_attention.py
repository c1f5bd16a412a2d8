import pytest
import torch
from tests.fixtures_models import pictures, tiny_backbone
from transformers.cache_utils import DynamicCache

from fieldmark.models.attention import TAP_NAME, capture_attention
from fieldmark.models.backbone import causal_mask


@pytest.fixture(params=[(2, 1), (4, 2)], ids=["one key head", "grouped"])
def backbone(request):
    return tiny_backbone(heads=request.param[0], key_heads=request.param[1])


def prompts_and_vision(backbone):
    vision = backbone.vision(backbone.pixels(pictures(3))).detach()
    prompts = [backbone.chat_prompt("Are these the same?", 2), backbone.chat_prompt("Hi", 1)]
    return prompts, vision, [(0, 1), (2,)]


def output_attentions(backbone, batch, layer):
    """transformers' own answer, with every layer eager."""
    backbone.model.set_attn_implementation("eager")
    mask = causal_mask(batch.attention_mask, batch.attention_mask.shape[1])
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    output = backbone.decoder(
        inputs_embeds=batch.inputs_embeds,
        position_ids=batch.position_ids,
        attention_mask=bias,
        visual_pos_masks=batch.visual_mask,
        deepstack_visual_embeds=list(batch.deepstack),
        output_attentions=True,
    )
    backbone.model.set_attn_implementation("sdpa")
    return output.attentions[layer].mean(1)


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("side", ["left", "right"])
def test_tap_equals_output_attentions_with_padding(backbone, layer, side):
    prompts, vision, chosen = prompts_and_vision(backbone)
    batch = backbone.embed(prompts, vision, chosen, padding_side=side)
    with torch.no_grad():
        with capture_attention(backbone, layer) as tap:
            backbone.decode_prompts(batch)
        expected = output_attentions(backbone, batch, layer)
    assert len(tap.probabilities) == 1
    torch.testing.assert_close(tap.probabilities[0], expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01  # far from uniform, or the test says little


def test_tap_without_padding_uses_the_causal_default(backbone):
    prompts, vision, chosen = prompts_and_vision(backbone)
    batch = backbone.embed(prompts[:1], vision, chosen[:1])
    with torch.no_grad():
        with capture_attention(backbone, 1) as tap:
            hidden = backbone.decode_prompts(batch)
        torch.testing.assert_close(hidden, backbone.decode_prompts(batch), rtol=0, atol=1e-6)
        torch.testing.assert_close(tap.probabilities[0], output_attentions(backbone, batch, 1), rtol=0, atol=1e-6)
    assert not tap.probabilities[0].triu(1).any()


def test_transformers_own_forward_with_a_padding_mask_is_heard_right(backbone):
    """The mask function must be registered too: without it transformers drops the padding mask silently."""
    ids = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 3, 4, 5]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    with torch.no_grad(), capture_attention(backbone, 1) as tap:
        backbone.model(input_ids=ids, attention_mask=mask)
    assert not tap.probabilities[0][1, 2:, :2].any()


def test_tap_with_a_prefix_cache_keeps_only_the_keys_asked_for(backbone):
    prompts, vision, chosen = prompts_and_vision(backbone)
    suffix = [7, 8, 9]
    whole = backbone.embed(prompts[:1], vision, chosen[:1], suffixes=[suffix])
    batch = backbone.embed(prompts[:1], vision, chosen[:1])
    length = batch.attention_mask.shape[1]
    with torch.no_grad():
        expected = output_attentions(backbone, whole, 2)[:, length:, :length]
        cache = DynamicCache()
        backbone.decode_prompts(batch, cache)
        with capture_attention(backbone, 2, keys=length) as tap:
            positions = batch.next_position[:, None] + torch.arange(3)
            backbone.decode(
                backbone.token_embeddings(torch.tensor([suffix])),
                backbone.text_positions(positions),
                cache=cache,
            )
    torch.testing.assert_close(tap.probabilities[0], expected, rtol=0, atol=1e-6)


def test_everything_is_put_back(backbone):
    with pytest.raises(RuntimeError), capture_attention(backbone, 0):
        assert backbone.decoder.config._attn_implementation == TAP_NAME
        assert backbone.model.config.vision_config._attn_implementation == "sdpa"
        raise RuntimeError
    assert backbone.decoder.config._attn_implementation == "sdpa"
    prompts, vision, chosen = prompts_and_vision(backbone)
    with capture_attention(backbone, 0) as tap:
        pass
    backbone.decode_prompts(backbone.embed(prompts, vision, chosen))
    assert tap.probabilities == []


def test_unknown_layers_and_double_taps_are_refused(backbone):
    with pytest.raises(ValueError, match="layers 0 to 2"), capture_attention(backbone, 3):
        pass
    with (
        pytest.raises(ValueError, match="already"),
        capture_attention(backbone, 1),
        capture_attention(backbone, 1),
    ):
        pass


def test_no_gradient_hangs_on_what_was_heard(backbone):
    prompts, vision, chosen = prompts_and_vision(backbone)
    leaves = vision.as_leaves()
    with capture_attention(backbone, 1) as tap:
        hidden = backbone.decode_prompts(backbone.embed(prompts, leaves, chosen))
    assert hidden.requires_grad and not tap.probabilities[0].requires_grad
