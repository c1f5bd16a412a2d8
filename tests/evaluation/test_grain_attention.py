"""Shares of attention against transformers' own attentions of one unpadded request, added up token by token."""

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.data.retrieval import Item
from fieldmark.evaluation.grain_attention import attention_layer, grain_attention
from fieldmark.models.backbone import causal_mask, load_backbone
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import UniversalEmbedder

GRAINS = ("red bill", "wing barred", "long tail")


def embedder_of(backbone, **options):
    return UniversalEmbedder(
        backbone,
        EmbedderConfig(
            **{
                "image_size": 16,
                "one_word_prompt": "{text}\n{instruction}",
                "generative_prompt": "{text}\n{instruction}\nSum up: ",
                **options,
            }
        ),
    )


def requests():
    """A text, a text with a picture, a picture alone: of different lengths, so that rows are padded."""
    images = pictures(3)
    return [
        Request(Item("a", "a red bill, wing barred"), "find it"),
        Request(Item("b", "and a red bill"), "", images[0]),
        Request(Item("c", "x"), "", (images[1], images[2])),
    ]  # fmt: skip


def summaries(model):
    texts = ("wing barred and wing barred, red", "", "long tail, RED BILL")
    ids = [model.backbone.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    # The second ended by itself, the others ran out of room.
    return [torch.tensor(ids[0]), torch.tensor([*ids[1], model.summary_id]), torch.tensor(ids[2])]


def plain_row(model, request, suffix, mode, layer):
    """The tokens of one request, placeholders spread out, and its last position's attention with every layer eager."""
    pictures_ = model.pictures([request])
    prompt = model.prompt(request, mode)
    batch = model.backbone.embed([prompt], pictures_.vision, pictures_.of, suffixes=[suffix])
    model.backbone.model.set_attn_implementation("eager")
    length = batch.inputs_embeds.shape[1]
    bias = torch.zeros(1, 1, length, length).masked_fill(
        ~causal_mask(batch.attention_mask, length), torch.finfo(torch.float32).min
    )
    extra = {"visual_pos_masks": batch.visual_mask, "deepstack_visual_embeds": list(batch.deepstack)}
    with torch.no_grad():
        found = model.backbone.decoder(
            inputs_embeds=batch.inputs_embeds,
            position_ids=batch.position_ids,
            attention_mask=bias,
            output_attentions=True,
            **(extra if batch.deepstack else {}),
        )
    model.backbone.model.set_attn_implementation("sdpa")
    counts = iter([len(span) for span in batch.image_spans[0]])
    tokens = []
    for token in prompt.ids:
        is_picture = token == model.backbone.image_token_id
        tokens += ["<patch>"] * next(counts) if is_picture else [model.backbone.tokenizer.decode([token])]
    tokens += [model.backbone.tokenizer.decode([token]) for token in suffix]
    return tokens, len(tokens) - len(suffix), found.attentions[layer].mean(1)[0, -1]


def phrase(tokens, start, stop, row, words):
    """Attention on every occurrence of some words among one-letter tokens; None if there is none."""
    letters = [token if len(token) == 1 else "\0" for token in tokens[start:stop]]
    text, total, at = "".join(letters).lower(), 0.0, -1
    while (at := text.find(words, at + 1)) >= 0:
        total += float(row[start + at : start + at + len(words)].sum())
    return total if words in text else None


@pytest.mark.parametrize("layer", [0, 2])
def test_summaries_against_a_plain_sum(layer):
    model = embedder_of(tiny_backbone())
    written = summaries(model)
    found = grain_attention(model, requests(), [GRAINS] * 3, written, layer=layer)
    spread = []
    for one, request, ids in zip(found, requests(), written, strict=True):
        kept = [token for token in ids.tolist() if token != model.summary_id]
        tokens, start, row = plain_row(model, request, [*kept, model.summary_id], "generative", layer)
        assert one.text.endswith("".join(tokens[start:-1]))
        for grain, words in zip(one.grains, ("red bill", "wing barred", "long tail"), strict=True):
            for share, (a, b) in ((grain.prompt, (0, start)), (grain.summary, (start, len(tokens) - 1))):
                expected = phrase(tokens, a, b, row, words)
                assert (share is None) == (expected is None), (grain, words)
                assert share is None or share == pytest.approx(expected, abs=1e-6)
        patches = torch.tensor([token == "<patch>" for token in tokens])
        torch.testing.assert_close(one.patches, row[patches], rtol=0, atol=1e-6)
        assert one.picture == pytest.approx(float(row[patches].sum()), abs=1e-6)
        assert one.itself == pytest.approx(float(row[-1]), abs=1e-6)
        named = sum((g.prompt or 0) + (g.summary or 0) for g in one.grains)
        assert one.on_grains == pytest.approx(named, abs=1e-5)
        assert named + one.picture + one.other_prompt + one.other_summary + one.itself == pytest.approx(1, abs=1e-5)
        spread += [g.prompt for g in one.grains if g.prompt] + [g.summary for g in one.grains if g.summary]
    assert len(spread) == 6 and max(spread) > 2 * min(spread)  # far from uniform, or the test says little
    assert [(g.prompt is None, g.summary is None) for g in found[0].grains] == [
        (False, True), (False, False), (True, True)
    ]  # fmt: skip


@pytest.mark.parametrize("slot", ["last", "summary_token"])
def test_one_word_reads_the_slot_of_the_prompt(slot):
    model = embedder_of(tiny_backbone(), slot=slot)
    found = grain_attention(model, requests(), [GRAINS] * 3, layer=1)
    for one, request in zip(found, requests(), strict=True):
        tokens, _, row = plain_row(model, request, [], "one_word", 1)
        expected = phrase(tokens, 0, len(tokens), row, "red bill")
        assert one.grains[0].prompt == (None if expected is None else pytest.approx(expected, abs=1e-6))
        assert [g.summary for g in one.grains] == [None] * 3 and one.other_summary == 0
        assert one.itself == pytest.approx(float(row[-1]), abs=1e-6)
        assert one.on_grains + one.picture + one.other_prompt + one.itself == pytest.approx(1, abs=1e-5)


def test_phrases_that_share_words_count_them_once_in_the_sum():
    model = embedder_of(tiny_backbone())
    (one,) = grain_attention(model, requests()[:1], [("red bill", "bill, wing")], layer=0)
    assert one.on_grains < (one.grains[0].prompt or 0) + (one.grains[1].prompt or 0) - 1e-4


@pytest.mark.parametrize("family", sorted(TINY))
def test_every_family(family, tmp_path):
    save_tiny_family(tmp_path / family, family)
    model = embedder_of(load_backbone(tmp_path / family), max_new_tokens=4)
    image_id = model.backbone.image_token_id
    with torch.no_grad():
        model.backbone.head.weight[image_id] = 0
    groups = model.sample_summaries(requests(), num_samples=1, temperature=0.0, top_p=1.0, generator=torch.Generator())
    written = [one.completion.ids for (one,) in groups]
    before = model.encode([requests()[0]]).embeddings
    for one in grain_attention(model, requests(), [GRAINS] * 3, written):
        total = one.on_grains + one.picture + one.other_prompt + one.other_summary + one.itself
        assert total == pytest.approx(1, abs=1e-5) and one.picture == pytest.approx(float(one.patches.sum()), abs=1e-6)
    assert model.backbone.decoder.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model.encode([requests()[0]]).embeddings, before)


def test_bad_input_is_named():
    model = embedder_of(tiny_backbone())
    assert attention_layer(model) == 2
    with pytest.raises(ValueError, match="3 requests"):
        grain_attention(model, requests(), [GRAINS])
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        grain_attention(model, requests(), [GRAINS] * 3, layer=9)
    assert grain_attention(model, [], []) == []
