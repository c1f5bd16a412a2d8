import pytest
import torch
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.models.sampling import _draw, sample

CHOICES = [(0, 1), (2,), ()]
TEXTS = ["Are these the same?", "Hi", "A rather longer text, and no picture."]


def setup(backbone, repeat=1):
    images = pictures(3)
    prompts = [backbone.chat_prompt(text, len(chosen)) for text, chosen in zip(TEXTS, CHOICES, strict=True)] * repeat
    return images, backbone.vision(backbone.pixels(images)).detach(), prompts, CHOICES * repeat


def draw(backbone, vision, prompts, choices, *, seed=0, **options):
    options = {"num_samples": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 20} | options
    return sample(backbone, vision, prompts, choices, generator=torch.Generator().manual_seed(seed), **options)


def hf_greedy(backbone, images, prompt, chosen, vision, count):
    counts = iter([vision.counts[i] for i in chosen])
    ids = torch.tensor(
        [[t for token in prompt.ids for t in [token] * (next(counts) if token == backbone.image_token_id else 1)]]
    )
    extra = {}
    if chosen:
        pixels = backbone.pixels(images[list(chosen)])
        extra = {
            "pixel_values": pixels.pixel_values,
            "image_grid_thw": pixels.grid_thw,
            "mm_token_type_ids": (ids == backbone.image_token_id).int(),
        }
    output = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        return_dict_in_generate=True,
        output_logits=True,
        **extra,
    )
    tokens = output.sequences[0, ids.shape[1] :]
    return tokens, torch.stack(output.logits, 1)[0].log_softmax(-1)


@pytest.mark.parametrize("seed, heads, key_heads", [(0, 2, 1), (1, 4, 2), (2, 2, 2)])
def test_greedy_equals_generate(seed, heads, key_heads):
    backbone = tiny_backbone(seed, heads=heads, key_heads=key_heads)
    images, vision, prompts, choices = setup(backbone)
    groups = draw(backbone, vision, prompts, choices, temperature=0.0, max_new_tokens=30, tracked_ids=(4, 9))
    for prompt, chosen, group in zip(prompts, choices, groups, strict=True):
        tokens, logprobs = hf_greedy(backbone, images, prompt, chosen, vision, 30)
        for completion in group:
            assert torch.equal(completion.ids, tokens)
            expected = logprobs.gather(-1, tokens[:, None])[:, 0]
            torch.testing.assert_close(completion.logprobs, expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(completion.tracked, logprobs[:, [4, 9]], rtol=0, atol=1e-5)
            assert not completion.sampling_logprobs.any()


def test_greedy_stops_where_generate_stops():
    """Rows that end early leave the batch; what goes on must not notice."""
    backbone = tiny_backbone(3)
    images, vision, prompts, choices = setup(backbone)
    free = draw(backbone, vision, prompts, choices, temperature=0.0, max_new_tokens=30)
    backbone.model.generation_config.eos_token_id = [
        int(free[0][0].ids[1]),
        int(free[1][0].ids[4]),
        int(free[2][0].ids[15]),
    ]
    groups = draw(backbone, vision, prompts, choices, temperature=0.0, max_new_tokens=30)
    assert len({len(group[0].ids) for group in groups}) == 3
    for prompt, chosen, group in zip(prompts, choices, groups, strict=True):
        tokens, _ = hf_greedy(backbone, images, prompt, chosen, vision, 30)
        assert torch.equal(group[0].ids, tokens)
        ended = int(tokens[-1]) in backbone.stop_ids
        assert group[0].finish_reason == ("stop" if ended else "length")


def test_branches_are_scored_like_full_rows_when_they_end_at_different_times(backbone):
    """Random sampling with frequent stops: each completion's log-probs against one plain forward pass."""
    _, vision, prompts, choices = setup(backbone, repeat=2)
    stops = tuple(range(0, 40))
    groups = draw(
        backbone,
        vision,
        prompts,
        choices,
        num_samples=5,
        max_new_tokens=25,
        stop_ids=stops,
        tracked_ids=(7,),
        temperature=1.3,
    )
    lengths = [len(completion.ids) for group in groups for completion in group]
    assert len(set(lengths)) > 5 and min(lengths) < 4
    for prompt, chosen, group in zip(prompts, choices, groups, strict=True):
        for completion in group:
            batch = backbone.embed([prompt], vision, [chosen], suffixes=[completion.ids.tolist()])
            with torch.no_grad():
                hidden = backbone.decode_prompts(batch)[0, -len(completion.ids) - 1 : -1]
                expected = backbone.logits(hidden).log_softmax(-1)
            torch.testing.assert_close(
                completion.logprobs, expected.gather(-1, completion.ids[:, None])[:, 0], rtol=0, atol=2e-5
            )
            torch.testing.assert_close(completion.tracked[:, 0], expected[:, 7], rtol=0, atol=2e-5)
            tempered = (backbone.logits(hidden) / 1.3).log_softmax(-1).gather(-1, completion.ids[:, None])[:, 0]
            torch.testing.assert_close(completion.sampling_logprobs, tempered, rtol=0, atol=2e-5)
            stopped = [int(token) in stops for token in completion.ids]
            assert not any(stopped[:-1])
            assert (completion.finish_reason == "stop") == stopped[-1]
            assert stopped[-1] or len(completion.ids) == 25


def test_same_seed_same_tokens_and_other_seed_others(backbone):
    _, vision, prompts, choices = setup(backbone)
    first, again, other = (draw(backbone, vision, prompts, choices, seed=s) for s in (0, 0, 1))
    flat = [[c.ids.tolist() for g in groups for c in g] for groups in (first, again, other)]
    assert flat[0] == flat[1] != flat[2]
    assert len({tuple(c.ids.tolist()) for c in first[0]}) == 3


def test_a_branch_does_not_depend_on_when_others_end(backbone):
    _, vision, prompts, choices = setup(backbone)
    free = draw(backbone, vision, prompts, choices, stop_ids=())
    stops = {int(free[0][0].ids[2])}
    cut = draw(backbone, vision, prompts, choices, stop_ids=tuple(stops))
    for group, cut_group in zip(free, cut, strict=True):
        for completion, shorter in zip(group, cut_group, strict=True):
            ends = [i for i, token in enumerate(completion.ids.tolist()) if token in stops]
            assert torch.equal(shorter.ids, completion.ids[: ends[0] + 1 if ends else None])


def test_large_vocabularies_are_drawn_from_without_sorting(monkeypatch):
    monkeypatch.setattr("fieldmark.models.sampling.SORTED_VOCABULARY", 8)
    logits = 2 * torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    logits[0, 5] = logits[0, 39] = -torch.inf
    grid = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    tokens, logprobs = _draw(logits.expand(20000, -1), grid, 0.7, 1.0)
    expected = (logits[0] / 0.7).softmax(-1)
    torch.testing.assert_close(tokens.bincount(minlength=40) / 20000, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logprobs, expected[tokens].log())
    assert bool((tokens.diff() >= 0).all()), "in the vocabulary's own order"
    ends, _ = _draw(logits.expand(2, -1), torch.tensor([0.0, 1.0], dtype=torch.float64), 0.7, 1.0)
    assert ends.tolist() == [0, 38], "nothing of probability 0, also at the very ends"


def plain_nucleus(logits, temperature, top_p):
    """Sort all, keep the smallest head with enough mass, renormalise."""
    probabilities = (logits.double() / temperature).softmax(-1)
    out = torch.zeros_like(probabilities)
    for row, p in enumerate(probabilities):
        mass = 0.0
        for token in p.argsort(descending=True).tolist():
            out[row, token] = p[token]
            mass += float(p[token])
            if mass >= top_p:
                break
    return out / out.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "temperature, top_p, spread", [(0.7, 0.95, 3.0), (1.0, 0.95, 0.1), (1.5, 1.0, 1.0), (1.0, 1e-6, 1.0)]
)
def test_draws_follow_the_nucleus(temperature, top_p, spread):
    """On a fine grid of uniforms each token is drawn as often as its probability says; 0.1 needs > 128
    candidates.
    """
    logits = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)) * spread
    expected = plain_nucleus(logits, temperature, top_p)
    grid = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    for row in range(2):
        tokens, logprobs = _draw(logits[row].expand(20000, -1), grid, temperature, top_p)
        frequency = torch.bincount(tokens, minlength=400) / 20000
        assert (frequency - expected[row]).abs().max() < 2e-4
        assert expected[row][tokens].min() > 0
        torch.testing.assert_close(logprobs.double(), expected[row][tokens].log(), rtol=0, atol=1e-5)


def test_first_tokens_follow_the_models_distribution(backbone):
    _, vision, prompts, choices = setup(backbone)
    with torch.no_grad():
        batch = backbone.embed(prompts[:1], vision, choices[:1])
        expected = backbone.logits(backbone.decode_prompts(batch)[:, -1])[0].softmax(-1)
    group = draw(backbone, vision, prompts[:1], choices[:1], num_samples=4000, max_new_tokens=1)[0]
    frequency = torch.bincount(torch.cat([c.ids for c in group]), minlength=len(expected)) / 4000
    assert (frequency - expected).abs().max() < 0.03


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_samples": 0}, "num_samples"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 600}, "context of 512"),
    ],
)
def test_bad_options_are_refused(backbone, options, message):
    _, vision, prompts, choices = setup(backbone)
    with pytest.raises(ValueError, match=message):
        draw(backbone, vision, prompts, choices, **options)


def test_no_prompts_no_groups(backbone):
    _, vision, _, _ = setup(backbone)
    assert draw(backbone, vision, [], []) == []
