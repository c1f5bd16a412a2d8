"""One-word and generative embeddings against plain full forward passes and `generate`, on every family."""

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.data.retrieval import Item
from fieldmark.models.backbone import load_backbone
from fieldmark.models.universal_embedder import EmbedderConfig, Request, UniversalEmbedder

SHORT = {
    "image_size": 16,
    "max_new_tokens": 12,
    "one_word_prompt": "{text}\n{instruction}\nOne word for this {content}:",
    "generative_prompt": "{text}\n{instruction}\nSum up the {content}, end with [RET]:",
}


@pytest.fixture(scope="module", params=sorted(TINY))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("families") / request.param
    save_tiny_family(folder, request.param)
    return folder


def embedder_of(folder, **options):
    backbone = load_backbone(folder)
    with torch.no_grad():  # a summary that names a picture's token could not be given to the whole model
        backbone.head.weight[backbone.image_token_id] = 0
    return UniversalEmbedder(backbone, EmbedderConfig(**{**SHORT, **options}))


def requests():
    images = pictures(4)
    return [
        Request(Item("a", "a red bird"), "find a picture"),
        Request(Item("b", "x"), picture=images[0]),
        Request(Item("c", "two views of one and the same bird"), "", picture=(images[1], images[2])),
        Request(Item("d", "green"), "say what it is"),
        Request(Item("e", "?"), "which", picture=images[3]),
    ]


def plain_states(embedder, request, ids):
    """Hidden states (L, D) of the whole model, called as transformers documents it: no padding, no cache."""
    backbone = embedder.backbone
    found = request.pictures()
    extra, tokens = {}, list(ids)
    if found:
        pixels = backbone.pixels(torch.stack(found))
        counts = iter(backbone.vision(pixels).counts)
        tokens = [t for i in tokens for t in [i] * (next(counts) if i == backbone.image_token_id else 1)]
        if hasattr(backbone.model.model, "visual"):
            extra = {"pixel_values": pixels.pixel_values, "image_grid_thw": pixels.grid_thw}
            extra["mm_token_type_ids"] = (torch.tensor([tokens]) == backbone.image_token_id).int()
        else:
            merged = backbone.vision(pixels).merged
            embeds = backbone.model.get_input_embeddings()(torch.tensor([tokens]))
            mask = torch.tensor([tokens]) == backbone.image_token_id
            embeds = embeds.masked_scatter(mask[..., None], merged)
            return backbone.decoder(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
    row = torch.tensor([tokens])
    output = backbone.model.model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, **extra)
    return output.last_hidden_state[0]


def unit(state):
    return torch.nn.functional.normalize(state, dim=-1)


@pytest.mark.parametrize("slot", ["last", "summary_token"])
def test_one_word_is_the_state_of_the_last_token(family, slot):
    embedder = embedder_of(family, slot=slot)
    asked = requests()
    encoded = embedder.encode(asked, batch_size=3)
    for request, embedding in zip(asked, encoded.embeddings, strict=True):
        ids = embedder.prompt(request).ids
        assert (ids[-1] == embedder.summary_id) == (slot == "summary_token")
        torch.testing.assert_close(embedding, unit(plain_states(embedder, request, ids)[-1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(embedder.embed_one_word(asked), encoded.embeddings, rtol=0, atol=1e-5)
    assert encoded.summaries == (None,) * 5 and encoded.num_forced == 0


def test_generative_is_greedy_and_read_at_its_own_end(family):
    embedder = embedder_of(family, mode="generative")
    asked = requests()
    encoded = embedder.encode(asked, batch_size=3)
    for number, request in enumerate(asked):
        alone = embedder.encode([request])
        torch.testing.assert_close(alone.embeddings[0], encoded.embeddings[number], rtol=0, atol=1e-5)
        assert alone.summaries[0] == encoded.summaries[number]
        ids = list(embedder.prompt(request).ids)
        words = []
        while len(words) < 12:
            logits = embedder.backbone.logits(plain_states(embedder, request, ids + words))[-1]
            words.append(int(logits.argmax()))
            if words[-1] in embedder.stop_ids:
                break
        ended = words[-1] in embedder.stop_ids
        kept = words[:-1] if ended else words
        assert encoded.summaries[number] == embedder.backbone.tokenizer.decode(kept).strip()
        assert encoded.forced[number] == (words[-1] != embedder.summary_id)
        state = plain_states(embedder, request, [*ids, *kept, embedder.summary_id])[-1]
        torch.testing.assert_close(encoded.embeddings[number], unit(state), rtol=0, atol=1e-5)


def test_text_alone_in_every_mode(family):
    texts = [Request(Item(str(i), "word " * (i + 1))) for i in range(3)]
    for mode in ("one_word", "generative"):
        embedder = embedder_of(family, mode=mode)
        encoded = embedder.encode(texts)
        for request, embedding in zip(texts, encoded.embeddings, strict=True):
            torch.testing.assert_close(embedding, embedder.encode([request]).embeddings[0], rtol=0, atol=1e-5)


def test_sampled_summaries_are_read_where_a_plain_pass_reads_them():
    embedder = UniversalEmbedder(tiny_backbone(), EmbedderConfig(mode="generative", **SHORT))
    asked = requests()
    groups = embedder.sample_summaries(
        asked, num_samples=4, temperature=1.0, top_p=1.0, generator=torch.Generator().manual_seed(3)
    )
    flat = [(request, summary) for request, group in zip(asked, groups, strict=True) for summary in group]
    expected = embedder.embed_summaries([r for r, _ in flat], [s.completion.ids for _, s in flat])
    torch.testing.assert_close(torch.stack([s.embedding for _, s in flat]), expected, rtol=0, atol=1e-5)
