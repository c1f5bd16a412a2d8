"""Replay for every family: three ways to the same log-probabilities, gradients and attention."""

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures

from fieldmark.models.backbone import load_backbone
from fieldmark.models.sampling import sample
from fieldmark.policy.replay import ReplayGroup, replay
from fieldmark.training.config import ModelConfig
from fieldmark.training.session import load_supervisor

CHOICES = [(0, 1), (2,)]  # the first two pictures differ in size


@pytest.fixture(scope="module", params=list(TINY))
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay") / request.param
    save_tiny_family(folder, request.param)
    backbone = load_backbone(folder)
    backbone.freeze_language()
    images = [pictures(1, 16)[0], pictures(1, 24, seed=1)[0], pictures(1, 16, seed=2)[0]]
    vision = backbone.vision(backbone.pixels(images)).detach()
    prompts = [backbone.chat_prompt("Are these the same?", 2), backbone.chat_prompt("What?", 1)]
    sampled = sample(
        backbone,
        vision,
        prompts,
        CHOICES,
        num_samples=3,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=10,
        stop_ids=tuple(range(30)),
        generator=torch.Generator().manual_seed(0),
    )
    groups = [
        ReplayGroup(prompt, chosen, tuple(completion.ids for completion in group))
        for prompt, chosen, group in zip(prompts, CHOICES, sampled, strict=True)
    ]
    return backbone, vision, groups, sampled


@pytest.fixture(scope="module")
def eager(world, tmp_path_factory):
    """The same weights with attention as plain products."""
    backbone, vision, groups, sampled = world
    folder = tmp_path_factory.mktemp("eager") / "model"
    save_tiny_family(folder, backbone.model.config.model_type)
    return load_supervisor(ModelConfig(supervisor=str(folder), attention="eager")), vision, groups, sampled


def run(world, **options):
    """Log-probabilities, the leaves' gradients under fixed random weights, attention."""
    backbone, vision, groups, _ = world
    leaves, generator = vision.as_leaves(), torch.Generator().manual_seed(1)
    (chunk,) = replay(backbone, leaves, groups, **options)
    logprobs = [one for group in chunk.logprobs for one in group]
    sum((torch.randn(len(one), generator=generator) * one).sum() for one in logprobs).backward()
    attention = [one for group in chunk.attention for one in group] if chunk.attention else []
    return [one.detach() for one in logprobs], leaves.gradients(), attention


def test_all_ways_agree_with_each_other_and_with_the_sampler(world):
    twin, truth, heard = run(world, method="unpacked", attention_layer=1)
    for ours, completion in zip(twin, [c for group in world[3] for c in group], strict=True):
        torch.testing.assert_close(ours, completion.logprobs, rtol=0, atol=2e-5)
    for options in ({"method": "prefix", "attention_layer": 1}, {"method": "packed", "attention_layer": 1}):
        logprobs, gradients, attention = run(world, **options)
        for a, b in zip(logprobs + attention, twin + heard, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        for a, b in zip(gradients, truth, strict=True):
            assert b.norm() > 1e-3 and (a - b).norm() <= 1e-4 * b.norm()
    assert all(parameter.grad is None for parameter in world[0].parameters())


def test_eager_and_fused_attention_agree(world, eager):
    """Tower, greedy rollouts, and replay with its gradients and its tap."""
    for backbone, kind in ((world[0], "sdpa"), (eager[0], "eager")):
        configs = backbone.decoder.config, backbone.tower.model.config
        assert [config._attn_implementation for config in configs] == [kind, kind]
    images = pictures(2, 16)
    features = [backbone.vision(backbone.pixels(images)).merged for backbone in (world[0], eager[0])]
    torch.testing.assert_close(*features, rtol=0, atol=2e-5)
    prompts = [group.prompt for group in world[2]]
    greedy = [
        sample(
            one[0],
            one[1],
            prompts,
            CHOICES,
            num_samples=1,
            temperature=0.0,
            top_p=1.0,
            max_new_tokens=6,
            generator=torch.Generator(),
            stop_ids=(),
        )
        for one in (world, eager)
    ]
    for fused, plain in zip(*greedy, strict=True):
        assert torch.equal(fused[0].ids, plain[0].ids)
    for method in ("prefix", "packed", "unpacked"):
        ours, truth = (run(one, method=method, attention_layer=1) for one in (eager, world))
        for a, b in zip(ours[0] + ours[2], truth[0] + truth[2], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        for a, b in zip(ours[1], truth[1], strict=True):
            assert (a - b).norm() <= 1e-4 * b.norm()


def test_checkpointing_changes_nothing_and_recomputes(world):
    backbone, calls = world[0], []
    plain, truth, _ = run(world, method="packed")
    hook = backbone.decoder.layers[1].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    logprobs, gradients, _ = run(world, method="packed", checkpoint=True)
    hook.remove()
    assert len(calls) == 2
    for a, b in zip(logprobs + list(gradients), plain + list(truth), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
