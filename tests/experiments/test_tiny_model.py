"""The bundled model's own recipe: its texts, its targets, and that it never draws an evaluation species."""

import numpy as np
import pytest
import torch

from fieldmark.data.fieldguide.species import FIELD_MARKS, is_reserved
from fieldmark.experiments.tiny_model.architecture import build_model, build_tokenizer
from fieldmark.experiments.tiny_model.language import LanguageRecipe, draw_example, language_loss, pool_tokens
from fieldmark.experiments.tiny_model.pictures import ATTRIBUTES, draw_pool, patch_parts
from fieldmark.policy.prompts import pair_prompt, reference_answer
from fieldmark.policy.verdicts import parse_verdict
from fieldmark.policy.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("fieldguide")


@pytest.fixture(scope="module")
def pool():
    return draw_pool(6, 4, 3, 0.35, 0.5, seed=8, workers=1)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_no_picture_of_the_pool_shows_a_reserved_combination(pool):
    for i in range(len(pool.images)):
        values = pool.attributes(i)
        assert not is_reserved({n: values[n] for n in FIELD_MARKS})


def test_tokenizer_is_lossless_and_costs_one_token_a_piece(tokenizer, pool):
    answer = reference_answer(VOCABULARY, pool.attributes(0), pool.attributes(5), False)
    for text in (answer, pair_prompt(VOCABULARY), pair_prompt(VOCABULARY, "generic"), "Ünïcode, emoji 🐦 and \\n\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 100


def test_examples_parse_and_their_verdict_follows_their_text(tokenizer, pool):
    recipe = LanguageRecipe(structured_share=1.0, generic_share=0.0, plumage_share=0.0, noised_share=1.0, noise=0.5)
    rng = np.random.default_rng(0)
    masked = 0
    for _ in range(60):
        example = draw_example(pool, recipe, VOCABULARY, tokenizer, rng)
        text = tokenizer.decode(example.answer[:-1])
        verdict = parse_verdict(text, VOCABULARY)
        one, two = ({n: s.text for n, s in d.items()} for d in verdict.descriptions)
        assert verdict.answer is (one == two), text
        truth = [pool.attributes(i) for i in example.pictures]
        wrong = sum(one[n] != truth[0][n] for n in one) + sum(two[n] != truth[1][n] for n in two)
        assert wrong == sum(not t for t in example.targets), "exactly the replaced values are no targets"
        masked += wrong
    assert masked > 20


def test_loss_learns_one_batch_by_heart(pool):
    backbone = build_model(0)
    backbone.model.requires_grad_(False)
    language = backbone.model.model.language_model
    language.requires_grad_(True)
    tokens = pool_tokens(backbone, pool.images)
    rng = np.random.default_rng(1)
    examples = [draw_example(pool, LanguageRecipe(), VOCABULARY, backbone.tokenizer, rng) for _ in range(4)]
    optimiser = torch.optim.AdamW(language.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = language_loss(backbone, tokens, examples)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(p.grad is None for p in backbone.tower_parameters())


def test_language_loss_does_not_depend_on_the_batch_padding(pool):
    backbone = build_model(0)
    tokens = pool_tokens(backbone, pool.images)
    rng = np.random.default_rng(2)
    examples = [draw_example(pool, LanguageRecipe(), VOCABULARY, backbone.tokenizer, rng) for _ in range(3)]
    together = float(language_loss(backbone, tokens, examples))
    counts = [sum(e.targets) for e in examples]
    alone = sum(c * float(language_loss(backbone, tokens, [e])) for c, e in zip(counts, examples, strict=True)) / sum(
        counts
    )
    assert together == pytest.approx(alone, rel=1e-4)


def test_patch_parts_equal_a_loop(pool):
    shares = patch_parts(pool.masks[:2], 12)
    assert shares.shape[:2] == (2, 64) and np.allclose(shares.sum(-1), 1)
    block = pool.masks[1, 24:36, 60:72]
    assert np.allclose(shares[1, 2 * 8 + 5], [(block == p).mean() for p in range(shares.shape[-1])])


def test_attribute_values_agree_with_the_masked_parts(pool):
    assert pool.values.shape[1] == len(ATTRIBUTES) == 11
