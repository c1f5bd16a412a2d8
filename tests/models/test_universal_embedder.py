"""One-word and generative embeddings against plain full forward passes and `generate`, on every family."""

import re

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.data.retrieval import Item
from fieldmark.models.adapters import AdapterConfig, adapter_layers
from fieldmark.models.backbone import load_backbone
from fieldmark.models.embedding_cache import EmbeddingCache
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


def adapt(embedder, seed=0, dropout=0.0):
    """Add an adapter that does something."""
    generator = torch.Generator().manual_seed(seed)
    embedder.add_adapter(AdapterConfig(rank=4, alpha=8, dropout=dropout), generator)
    with torch.no_grad():
        for layer in adapter_layers(embedder.backbone).values():
            layer.lora_B["default"].weight.normal_(0, 0.05, generator=generator)
    return embedder


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


def test_gradients_equal_those_of_plain_passes_one_by_one(family):
    """Of every matrix of the adapter and the row of [RET]: a padded batch against the whole model, unpadded."""
    embedder = adapt(embedder_of(family, slot="summary_token"))
    asked = requests()
    direction = torch.randn(embedder.embedding_size, generator=torch.Generator().manual_seed(1))
    (embedder.embed_one_word(asked) @ direction).sum().backward()
    parameters = embedder.trainable_parameters()
    assert all("lora_" in name or name.endswith("embed_tokens.row") for name in parameters)
    actual = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    embedder.zero_grad()
    for request in asked:
        (unit(plain_states(embedder, request, embedder.prompt(request).ids)[-1]) @ direction).backward()
    for name, parameter in parameters.items():
        scale = parameter.grad.abs().max()
        assert scale > 0
        torch.testing.assert_close(actual[name] / scale, parameter.grad / scale, rtol=0, atol=1e-5)


def tiny(**options):
    return UniversalEmbedder(tiny_backbone(), EmbedderConfig(**{**SHORT, **options}))


def biased(embedder, token, strength):
    """Raise one token's logit: its head row gets a part of the mean state's direction."""
    states = torch.cat([plain_states(embedder, r, embedder.prompt(r).ids)[-1:] for r in requests()[:1]])
    with torch.no_grad():
        embedder.backbone.head.weight[token] += strength * unit(states.mean(0))
    return embedder


@pytest.mark.parametrize("ending", ["summary token", "end of turn", "budget"])
def test_every_way_to_end(ending):
    embedder = tiny(mode="generative")
    request = requests()[0]
    end = {"summary token": embedder.summary_id, "end of turn": embedder.backbone.stop_ids[0], "budget": None}[ending]
    if end is not None:
        biased(embedder, end, 10.0)
    encoded = embedder.encode([request])
    assert encoded.forced == (ending != "summary token",) and encoded.num_forced == sum(encoded.forced)
    prompt = list(embedder.prompt(request).ids)
    (summary,) = embedder.sample_summaries(
        [request], num_samples=1, temperature=0.0, top_p=1.0, generator=torch.Generator()
    )[0]
    words = summary.completion.ids.tolist()
    assert (words[-1] == end) if end is not None else (len(words) == 12)
    assert "[RET]" not in summary.text and "<|im_end|>" not in summary.text
    kept = words if end is None else words[:-1]
    state = plain_states(embedder, request, [*prompt, *kept, embedder.summary_id])[-1]
    torch.testing.assert_close(encoded.embeddings[0], unit(state), rtol=0, atol=1e-5)


def test_an_untrained_model_prefers_the_summary_token_to_ending_its_turn():
    embedder = tiny(mode="generative")
    rows, end = embedder.backbone.head.weight, embedder.backbone.stop_ids[0]
    torch.testing.assert_close(rows[embedder.summary_id], 1.1 * rows[end])
    assert torch.equal(embedder.summary_token.row, embedder.backbone.model.get_input_embeddings().weight[end])


def test_reference_is_the_embedder_before_its_adapter():
    embedder = tiny(slot="summary_token")
    with torch.no_grad():
        embedder.summary_token.row.add_(0.1)  # as if stage 2 had trained it
    before = embedder.encode(requests()).embeddings
    known = embedder.fingerprint()
    adapt(embedder)
    with torch.no_grad():
        embedder.summary_token.row.add_(0.1)
    after = embedder.encode(requests()).embeddings
    assert (after - before).abs().max() > 1e-3
    with embedder.reference():
        assert torch.equal(embedder.encode(requests()).embeddings, before)
        assert embedder.fingerprint() == known
    assert torch.equal(embedder.encode(requests()).embeddings, after) and embedder.fingerprint() != known


def test_stages_fold_into_one_another():
    embedder = adapt(tiny())
    first = embedder.encode(requests()).embeddings
    embedder.merge_adapter()
    torch.testing.assert_close(embedder.encode(requests()).embeddings, first, rtol=0, atol=1e-5)
    embedder.unmerge_adapter()
    embedder.fold_adapter()
    adapt(embedder, seed=1)
    with embedder.reference():
        torch.testing.assert_close(embedder.encode(requests()).embeddings, first, rtol=0, atol=1e-5)
    assert len(embedder.folded) == 1


def test_encoding_is_without_dropout_and_training_with():
    embedder = adapt(tiny(), dropout=0.5).train()
    assert torch.equal(embedder.encode(requests()).embeddings, embedder.encode(requests()).embeddings)
    assert embedder.training and not torch.equal(
        embedder.embed_one_word(requests()), embedder.embed_one_word(requests())
    )


def count_passes(embedder, monkeypatch):
    calls, decode = [], embedder.backbone.decode
    monkeypatch.setattr(embedder.backbone, "decode", lambda *a, **k: calls.append(len(a[0])) or decode(*a, **k))
    return calls


@pytest.mark.parametrize("mode", ["one_word", "generative"])
def test_what_is_cached_is_not_computed_again(mode, monkeypatch, tmp_path):
    embedder = adapt(tiny(mode=mode))
    plain = embedder.encode(requests())
    embedder.cache = EmbeddingCache(folder=tmp_path)
    calls = count_passes(embedder, monkeypatch)
    asked = requests()
    filled = embedder.encode([*asked, asked[1]], batch_size=8)
    assert calls[0] == 5  # the sixth is asked for twice
    calls.clear()
    again = embedder.encode(asked[::-1])
    embedder.cache = EmbeddingCache(folder=tmp_path)  # a new process
    from_disk = embedder.encode(asked)
    assert not calls
    assert torch.equal(again.embeddings.flip(0), filled.embeddings[:5])
    assert torch.equal(from_disk.embeddings, filled.embeddings[:5])
    torch.testing.assert_close(filled.embeddings[:5], plain.embeddings, rtol=0, atol=1e-5)
    assert from_disk.summaries == plain.summaries and from_disk.forced == plain.forced
    with torch.no_grad():
        next(iter(adapter_layers(embedder.backbone).values())).lora_B["default"].weight[0, 0] += 1e-3
    embedder.encode(asked)
    assert calls  # another model


def test_pictures_are_read_from_their_files(tmp_path):
    from PIL import Image

    file = tmp_path / "bird.png"
    Image.fromarray(pictures(1)[0].numpy()).save(file)
    embedder = tiny()
    read = embedder.encode([Request(Item("a", image=file))]).embeddings
    given = embedder.encode([Request(Item("a", image=file), picture=pictures(1)[0])]).embeddings
    assert torch.equal(read, given)


def test_frozen_tower_gets_no_gradient_and_a_trained_one_does():
    for trained in (False, True):
        embedder = adapt(tiny())
        embedder.train_part("tower", trained)
        embedder.embed_one_word(requests()).sum().backward()
        got = [p.grad is not None and bool(p.grad.any()) for p in embedder.backbone.tower_parameters()]
        assert any(got) == trained


def test_a_matrix_without_padding_grows_by_the_row():
    embedder = tiny()
    model, rows = embedder.backbone.model, len(embedder.backbone.tokenizer)
    assert embedder.summary_id == rows - 1 and embedder.backbone.vocab_size == rows
    assert model.get_input_embeddings().weight.shape[0] == model.get_output_embeddings().weight.shape[0] == rows
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # still tied
    assert embedder.trainable_parameters().keys() == {"backbone.model.model.language_model.embed_tokens.row"}


def test_nothing_to_embed_and_impossible_settings():
    assert tiny().encode([]).embeddings.shape == (0, 32)
    with pytest.raises(ValueError, match="batch_size"):
        tiny().encode(requests(), batch_size=0)
    with pytest.raises(ValueError, match=re.escape("image_size 20 is not a multiple of 8")):
        tiny(image_size=20)
