"""The policy gradient with a reference, a clip and adapters: against losses written out, however it is chunked."""

import pytest
import torch
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.data.retrieval import Item
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.policy.divergence import kl_exact, kl_k3
from fieldmark.policy.gradient import PolicyGroup, Reference, ReplayConfig, backpropagate
from fieldmark.policy.replay import ReplayGroup, replay, replay_states

ADVANTAGES = (torch.tensor([1.0, -0.5, -0.5]), torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([0.7, 0.1, -0.8]))


@pytest.fixture(scope="module")
def world():
    """An embedder away from its reference, the pictures of three queries, and three summaries of each."""
    model = UniversalEmbedder(tiny_backbone(), EmbedderConfig(mode="generative", image_size=16, max_new_tokens=6))
    generator = torch.Generator().manual_seed(0)
    model.add_adapter(AdapterConfig(rank=3, alpha=6, dropout=0.5), generator)
    model.eval()
    with torch.no_grad():
        for name, p in model.trainable_parameters().items():
            if "lora_B" in name or "row" in name:
                p += torch.randn(p.shape, generator=generator) * 0.1
    requests = [
        Request(Item("a", "hooked bill"), "find it"),
        Request(Item("b", "wing"), picture=pictures(1)[0]),
        Request(Item("c", "x"), "find a longer instruction", picture=pictures(1, seed=1)[0]),
    ]
    seen = model.pictures(requests)
    written = model.sample_summaries(
        requests, num_samples=3, temperature=1.3, top_p=0.9, generator=generator, pictures=seen
    )

    def elsewhere(logprobs):
        """As if a policy next to this one had sampled."""
        return logprobs + 0.2 * torch.randn(logprobs.shape, generator=generator)

    groups = [
        PolicyGroup(
            ReplayGroup(model.prompt(request), images, tuple(s.completion.ids for s in summaries)),
            tuple(elsewhere(s.completion.logprobs) for s in summaries),
            advantages,
        )
        for request, images, summaries, advantages in zip(requests, seen.of, written, ADVANTAGES, strict=True)
    ]
    return model, requests, seen.vision, groups


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def run(world, **options):
    model, _, vision, groups = world
    given = {name: options.pop(name) for name in ("method", "checkpoint", "prompts_per_chunk") if name in options}
    how = ReplayConfig(**{"prompts_per_chunk": 2, **given})
    tokens = sum(len(ids) for g in groups for ids in g.task.completions)
    found = backpropagate(model.backbone, vision, groups, tokens, how, **options)
    return found, gradients(model)


def assert_same(ours, truth, tolerance=1e-3):
    assert ours.keys() == truth.keys() and ours
    for name, gradient in truth.items():
        assert (ours[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("estimator", ["k3", "exact"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_loss_and_gradients_written_out(world, estimator, clip):
    model, _, vision, groups = world
    reference = Reference(model.reference, 0.3, estimator)
    found, ours = run(world, reference=reference, clip=clip, weight=2.0)

    head, total, divergences, count, cut = model.backbone.head, 0.0, [], 0, 0
    for group in groups:
        for ids, sampled, advantage in zip(
            group.task.completions, group.logprobs, group.advantages.tolist(), strict=True
        ):
            batch = model.backbone.embed([group.task.prompt], vision, [group.task.images], suffixes=[ids.tolist()])
            full = head(model.backbone.decode_prompts(batch)[0, -len(ids) - 1 : -1]).log_softmax(-1)
            with torch.no_grad(), model.reference():
                batch = model.backbone.embed([group.task.prompt], vision, [group.task.images], suffixes=[ids.tolist()])
                other = head(model.backbone.decode_prompts(batch)[0, -len(ids) - 1 : -1]).log_softmax(-1)
            chosen, anchor = (one.gather(-1, ids[:, None])[:, 0] for one in (full, other))
            for t in range(len(ids)):
                ratio = (chosen[t] - sampled[t]).exp()
                if clip is None:
                    total = total - advantage * chosen[t]
                else:
                    bound = ratio.clamp(1 - clip, 1 + clip)
                    total = total - torch.minimum(advantage * ratio, advantage * bound)
                    cut += bool(advantage * bound < advantage * ratio - 1e-6)
            divergences.append((kl_exact(full, other) if estimator == "exact" else kl_k3(chosen, anchor)).sum())
            count += len(ids)
    policy, kl = total / count, torch.stack(divergences).sum() / count
    (2.0 * (policy + 0.3 * kl)).backward()
    assert found.loss == pytest.approx(float(policy.detach()), abs=1e-4)
    assert found.divergence == pytest.approx(float(kl.detach()), abs=1e-4) and found.divergence > 1e-3
    assert found.clipped == pytest.approx(cut / count, abs=1e-9) and (clip is None or cut > 0)
    assert found.replay_gap > 0.05
    assert_same(ours, gradients(model))
    assert "lora_" in next(iter(ours)) or any("lora_" in name for name in ours)


def test_chunks_and_methods_change_nothing(world):
    reference = Reference(world[0].reference, 0.2)
    found, truth = run(world, reference=reference, prompts_per_chunk=3)
    ways = ({"prompts_per_chunk": 1}, {"method": "packed"}, {"method": "unpacked"})
    for options in (*ways, {"method": "packed", "checkpoint": True}):  # which must not let the adapter drop
        other, ours = run(world, reference=reference, **options)
        assert other.loss == pytest.approx(found.loss, abs=1e-5)
        assert other.divergence == pytest.approx(found.divergence, abs=1e-5)
        assert_same(ours, truth)


def test_k3_is_the_exact_divergence_on_average(world):
    """Over many summaries drawn from the policy, token by token; the reference is the model without its adapter."""
    model, requests, _, _ = world
    generator = torch.Generator().manual_seed(4)
    seen = model.pictures(requests[:1])
    (written,) = model.sample_summaries(
        requests[:1], num_samples=400, temperature=1.0, top_p=1.0, generator=generator, pictures=seen
    )
    task = ReplayGroup(model.prompt(requests[0]), seen.of[0], tuple(s.completion.ids for s in written))
    with torch.no_grad():
        (ours,) = replay(model.backbone, seen.vision, [task])
        with model.reference():
            (other,) = replay(model.backbone, seen.vision, [task])
        full, anchor = (model.backbone.head(one.states.predicting).log_softmax(-1) for one in (ours, other))
        exact = kl_exact(full, anchor)
        estimate = kl_k3(torch.cat(ours.logprobs[0]), torch.cat(other.logprobs[0]))
    error = estimate.std() / len(estimate) ** 0.5
    assert exact.mean() > 4 * error
    assert abs(float(estimate.mean() - exact.mean())) < 4 * float(error)


@pytest.mark.parametrize("method", ["prefix", "packed", "unpacked"])
def test_states_at_the_last_token_are_the_embeddings_of_summaries(world, method):
    """With [RET] as last token: forward and backward as `embed_summaries`, which runs whole rows."""
    model, requests, vision, groups = world
    ends = [
        tuple(torch.tensor([*(t for t in ids.tolist() if t not in model.stop_ids), model.summary_id]) for ids in drawn)
        for drawn in (g.task.completions for g in groups)
    ]
    tasks = [ReplayGroup(g.task.prompt, g.task.images, one) for g, one in zip(groups, ends, strict=True)]
    factors = torch.randn(9, model.embedding_size, generator=torch.Generator().manual_seed(6))
    chunks = list(replay_states(model.backbone, vision, tasks, method=method, prompts_per_chunk=2))
    ours = torch.nn.functional.normalize(torch.cat([one for chunk in chunks for one in chunk.last]), dim=-1)
    (factors * ours).sum().backward()
    mine = gradients(model)
    asked = [request for request in requests for _ in range(3)]
    plain = model.embed_summaries(asked, [ids for group in ends for ids in group])
    (factors * plain).sum().backward()
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-5)
    assert_same(mine, gradients(model))


def test_bad_options_are_refused(world):
    with pytest.raises(ValueError, match="temperature 1"):
        run(world, clip=0.2, temperature=0.7)
    with pytest.raises(ValueError, match="positive"):
        Reference(world[0].reference, 0.0)
    with pytest.raises(ValueError, match="k1"):
        Reference(world[0].reference, 0.2, "k1")
