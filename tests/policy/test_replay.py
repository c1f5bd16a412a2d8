import pytest
import torch
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.models.sampling import sample
from fieldmark.policy.replay import ReplayGroup, replay

METHODS = ("prefix", "packed", "unpacked")
CHOICES = [(0, 1), (2,), (2, 0), ()]
TEXTS = ["Are these the same?", "What?", "Compare both of them, please.", "Nothing to see"]


@pytest.fixture(scope="module", params=[(2, 1), (4, 2)], ids=["one key head", "grouped"])
def world(request):
    backbone = tiny_backbone(heads=request.param[0], key_heads=request.param[1])
    vision = backbone.vision(backbone.pixels(pictures(3))).detach()
    prompts = [backbone.chat_prompt(text, len(chosen)) for text, chosen in zip(TEXTS, CHOICES, strict=True)]
    sampled = sample(
        backbone,
        vision,
        prompts,
        CHOICES,
        num_samples=3,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=12,
        stop_ids=tuple(range(30)),
        generator=torch.Generator().manual_seed(0),
    )
    return backbone, vision, prompts, sampled


def make_groups(world, ragged=False):
    _, _, prompts, sampled = world
    sizes = [3, 1, 2, 3] if ragged else [3] * 4
    groups = [
        ReplayGroup(prompt, chosen, tuple(c.ids for c in group[:size]))
        for prompt, chosen, group, size in zip(prompts, CHOICES, sampled, sizes, strict=True)
    ]
    assert len({len(ids) for group in groups for ids in group.completions}) > 3
    return groups


def run(world, groups, **options):
    """All log-probs as a flat list, the leaves' gradients under fixed random weights, and the chunks."""
    backbone, vision, _, _ = world
    leaves = vision.as_leaves()
    generator, flat, chunks = torch.Generator().manual_seed(1), [], []
    for chunk in replay(backbone, leaves, groups, **options):
        loss = sum((torch.randn(len(lp), generator=generator) * lp).sum() for group in chunk.logprobs for lp in group)
        if loss.requires_grad:  # a chunk of prompts without pictures does not depend on the leaves
            loss.backward()
        flat += [lp.detach() for group in chunk.logprobs for lp in group]
        chunks.append(chunk)
    return flat, leaves.gradients(), chunks


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("method", ["prefix", "packed"])
def test_all_methods_agree_forward_and_backward(world, method, temperature, ragged):
    groups = make_groups(world, ragged)
    ours, gradients, _ = run(world, groups, method=method, temperature=temperature)
    twin, truth, _ = run(world, groups, method="unpacked", temperature=temperature)
    for a, b in zip(ours, twin, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    assert len(truth) == 3
    for a, b in zip(gradients, truth, strict=True):
        assert b.norm() > 1e-3
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 3])
def test_chunks_do_not_change_anything(world, method, size):
    groups = make_groups(world)
    whole, truth, _ = run(world, groups, method=method, prompts_per_chunk=10)
    parts, gradients, chunks = run(world, groups, method=method, prompts_per_chunk=size)
    assert [i for chunk in chunks for i in chunk.groups] == [0, 1, 2, 3]
    for a, b in zip(parts, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
    for a, b in zip(gradients, truth, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_checkpointing_changes_nothing_and_is_put_back(world):
    backbone, groups = world[0], make_groups(world)
    plain, truth, _ = run(world, groups, method="packed")
    ours, gradients, _ = run(world, groups, method="packed", checkpoint=True)
    for a, b in zip(ours + list(gradients), plain + list(truth), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in backbone.modules())
    assert not backbone.decoder.training


def test_checkpointing_really_recomputes(world):
    backbone, calls = world[0], []
    hook = backbone.decoder.layers[1].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        run(world, make_groups(world), method="packed", checkpoint=True)
    finally:
        hook.remove()
    assert len(calls) == 2


@pytest.mark.parametrize("method", METHODS)
def test_replay_repeats_the_samplers_logprobs(world, method):
    sampled = [c.logprobs for group in world[3] for c in group]
    ours, _, _ = run(world, make_groups(world), method=method)
    gaps = torch.cat([(a - b).abs() for a, b in zip(ours, sampled, strict=True)])
    assert gaps.max() < 2e-5


@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("ragged", [False, True])
def test_attention_is_the_full_rows_attention(world, layer, ragged):
    backbone, vision, _, _ = world
    groups = make_groups(world, ragged)
    layer_index = range(3)[layer]
    results = {method: run(world, groups, method=method, attention_layer=layer)[2] for method in METHODS}
    for number, group in enumerate(groups):
        length = len(group.prompt.ids) + sum(vision.counts[i] - 1 for i in group.images)
        for c, completion in enumerate(group.completions):
            batch = backbone.embed([group.prompt], vision, [group.images], suffixes=[completion.tolist()])
            backbone.model.set_attn_implementation("eager")
            with torch.no_grad():
                truth = (
                    backbone.decoder(
                        inputs_embeds=batch.inputs_embeds,
                        position_ids=batch.position_ids,
                        visual_pos_masks=batch.visual_mask,
                        deepstack_visual_embeds=list(batch.deepstack) or None,
                        output_attentions=True,
                    )
                    .attentions[layer_index]
                    .mean(1)[0, length:, :length]
                )
            backbone.model.set_attn_implementation("sdpa")
            for method, chunks in results.items():
                heard = chunks[0].attention[number][c]
                assert not heard.requires_grad
                torch.testing.assert_close(heard, truth, rtol=0, atol=1e-5, msg=method)
        for chunks in results.values():
            spans = chunks[0].image_spans[number]
            assert [len(span) for span in spans] == [vision.counts[i] for i in group.images]
            ids = [
                t
                for token in group.prompt.ids
                for t in [token] * (vision.counts[0] if token == backbone.image_token_id else 1)
            ]
            assert [i for span in spans for i in span] == [
                i for i, token in enumerate(ids) if token == backbone.image_token_id
            ]


def test_capturing_attention_changes_no_logprob(world):
    groups = make_groups(world)
    for method in METHODS:
        with_tap, tapped, _ = run(world, groups, method=method, attention_layer=1)
        without, plain, chunks = run(world, groups, method=method)
        assert chunks[0].attention is None
        assert all(torch.equal(a, b) for a, b in zip(with_tap + list(tapped), without + list(plain), strict=True))


def test_the_language_model_gets_no_gradient_and_a_frozen_prompt_would_be_wrong(world):
    backbone, groups = world[0], make_groups(world)
    _, gradients, _ = run(world, groups)
    assert all(p.grad is None for p in backbone.parameters())
    # picture 1 is only in the first prompt: all its gradient comes through that prompt's positions
    assert all(g[4:8].norm() > 0 for g in gradients)


def test_a_completion_may_contain_the_image_token(world):
    backbone, _, prompts, _ = world
    odd = torch.tensor([5, backbone.image_token_id, 9])
    groups = [ReplayGroup(prompts[0], (0, 1), (odd, torch.tensor([3])))]
    results = [run(world, groups, method=method)[0] for method in METHODS]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "fast"}, "'fast'"),
        ({"checkpoint": True}, "packed"),
        ({"prompts_per_chunk": 0}, "prompts_per_chunk"),
        ({"attention_layer": 7}, "layers 0 to 2"),
        ({"method": "packed", "checkpoint": True, "attention_layer": 0}, "checkpointing"),
    ],
)
def test_bad_options_are_refused(world, options, message):
    with pytest.raises(ValueError, match=message):
        list(replay(world[0], world[1], make_groups(world), **options))


def test_empty_completions_and_long_prompts_are_refused(world):
    prompt = world[2][0]
    with pytest.raises(ValueError, match="at least one token"):
        list(replay(world[0], world[1], [ReplayGroup(prompt, (0, 1), (torch.zeros(0, dtype=torch.int64),))]))
    for method in METHODS:
        long = [ReplayGroup(prompt, (0, 1), (torch.ones(600, dtype=torch.int64),))]
        with pytest.raises(ValueError, match="context of 512"):
            list(replay(world[0], world[1], long, method=method))


def test_no_groups_no_chunks(world):
    assert list(replay(world[0], world[1], [])) == []
