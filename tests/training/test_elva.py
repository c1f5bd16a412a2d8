"""ELVA's third stage on a tiny random model: a step against a slow, obvious twin, exact resume, controls, errors."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.policy.ranking_rewards import RankingRewardConfig
from fieldmark.training.candidate_embeddings import RememberedRows
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive_config import HeldOutConfig
from fieldmark.training.elva import Elva, QueryBatch, train_elva
from fieldmark.training.elva_config import CandidatesConfig, ElvaConfig, NegativesConfig, PolicyConfig, SummaryConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.log import read_log
from fieldmark.training.optimiser import AdapterOptimiserConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig


@pytest.fixture
def config(squares, checkpoint, tmp_path) -> ElvaConfig:
    return ElvaConfig(
        run=str(tmp_path / "run"),
        seed=1,
        data=RetrievalDataConfig(path=str(squares), workers=0),
        validation=HeldOutConfig(queries=3, candidates=12),
        model=EmbedderModelConfig(
            base=str(checkpoint),
            adapter=AdapterConfig(rank=4, alpha=8, dropout=0.5),
            embedder=EmbedderConfig(mode="generative", image_size=16, max_new_tokens=5),
        ),
        queries_per_step=3,
        negatives=NegativesConfig(hard=0, random=4, positives=2),
        summaries=SummaryConfig(group_size=3),
        replay=ReplayConfig(prompts_per_chunk=2),
        optimiser=AdapterOptimiserConfig(lr=1e-2),
        schedule=ScheduleConfig(steps=3, validate_every=3, checkpoint_every=1, select="last"),
    )


def away_from_the_reference(run: Elva) -> None:
    """A new adapter's second matrix is zero: it would be the reference, and its first matrix without gradient."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in run.model.trainable_parameters().items():
            if "lora_B" in name or "row" in name:
                p += torch.randn(p.shape, generator=generator) * 0.1


@contextmanager
def started(config: ElvaConfig) -> Iterator[Elva]:
    run = Elva(config, overwrite=Path(config.run).exists())
    away_from_the_reference(run)
    with run:
        yield run


# ---- the obvious twin: one row at a time, no cache, no batch, formulas spelt out


def state_at_the_end(model, request, ids):
    """Hidden states (len(ids) + 1, D): before the first of some tokens behind a request's prompt, and at each."""
    backbone, pictures = model.backbone, model.pictures([request])
    batch = backbone.embed([model.prompt(request)], pictures.vision, pictures.of, suffixes=[ids])
    return backbone.decode_prompts(batch)[0, -len(ids) - 1 :] if ids else backbone.decode_prompts(batch)[0, -1:]


def log_distributions(model, request, ids):
    """log π over the vocabulary for every token of a summary: (T, V)."""
    states = state_at_the_end(model, request, ids)[:-1]
    return model.backbone.head(states).log_softmax(-1)


def plain_embedding(model, request, ids):
    words = ids[:-1] if ids[-1] in model.stop_ids else ids
    return normalize(state_at_the_end(model, request, [*words, model.summary_id])[-1], dim=0)


@torch.no_grad()
def plain_greedy_embedding(model, request):
    ids: list[int] = []
    while len(ids) < model.config.max_new_tokens and not (ids and ids[-1] in model.stop_ids):
        ids.append(int(model.backbone.head(state_at_the_end(model, request, ids)[-1]).argmax()))
    return plain_embedding(model, request, ids)


def plain_reward(query, positives, negatives, c: RankingRewardConfig) -> float:
    best = max(float(query @ one) for one in positives)
    others = [float(query @ one) for one in negatives]
    ranked = sorted([*others, best], reverse=True)
    r = ranked.index(best) + 1
    rest = sum(s * (math.log(k) - 1) for k, s in enumerate(ranked, 1) if k != r)
    margin = max(0.0, best - max(others) - c.delta)
    return c.alpha * margin + c.epsilon * (best / (1 + math.log(r)) - c.gamma * rest)


def plain_loss(run: Elva, batch: QueryBatch, written, estimator):
    """Loss with its graph, and the rewards of every query."""
    model, pool = run.model, {}
    for place, request in zip(batch.places, batch.candidates, strict=True):
        pool[place] = plain_greedy_embedding(model, request)
    rewards, terms, tokens = [], [], 0
    tasks, earnings, embedded = [], [], []
    for example, request, summaries in zip(batch.examples, batch.queries, written, strict=False):
        positives, negatives = ([pool[p] for p in places] for places in (example.positives, example.negatives))
        ids = [s.completion.ids.tolist() for s in summaries]
        with torch.no_grad():
            embedded.append([plain_embedding(model, request, one) for one in ids])
        earnings.append([plain_reward(one, positives, negatives, run.config.reward) for one in embedded[-1]])
        tasks.append((request, ids))
    for number, request in enumerate(batch.learning):
        negatives = [pool[p] for p in batch.examples[number].negatives]
        ids = [s.completion.ids.tolist() for s in written[len(batch.queries) + number]]
        with torch.no_grad():
            placed = [plain_embedding(model, request, one) for one in ids]
        asked = embedded[number]
        earnings.append(
            [sum(plain_reward(q, [p], negatives, run.config.reward) for q in asked) / len(asked) for p in placed]
        )
        tasks.append((request, ids))
    for (request, ids), earned in zip(tasks, earnings, strict=True):
        rewards.append(earned)
        mean = sum(earned) / len(earned)
        std = math.sqrt(sum((r - mean) ** 2 for r in earned) / (len(earned) - 1))
        for one, reward in zip(ids, earned, strict=True):
            full = log_distributions(model, request, one)
            with torch.no_grad(), model.reference():
                reference = log_distributions(model, request, one)
            chosen = full[range(len(one)), one]
            if estimator == "exact":
                divergence = (full.exp() * (full - reference)).sum()
            else:
                ratio = reference[range(len(one)), one] - chosen
                divergence = (ratio.exp() - ratio - 1).sum()
            terms.append(-(reward - mean) / (std + 1e-4) * chosen.sum() + run.config.policy.kl_weight * divergence)
            tokens += len(one)
    return torch.stack(terms).sum() / tokens, rewards


@pytest.mark.parametrize("estimator, learn", [("k3", "none"), ("exact", "none"), ("k3", "positives")])
def test_a_step_equals_the_plain_twin(config, monkeypatch, estimator, learn):
    config = replace(config, policy=PolicyConfig(kl=estimator))
    if learn == "positives":
        one = replace(config.negatives, positives=1)
        config = replace(config, candidates=CandidatesConfig(learn="positives"), negatives=one)
    seen = {}
    real = Elva.score

    def watch(self, batch, pictures, summaries, candidates):
        groups = real(self, batch, pictures, summaries, candidates)
        seen.update(batch=batch, summaries=summaries, groups=groups)
        return groups

    monkeypatch.setattr(Elva, "score", watch)
    monkeypatch.setattr(Elva, "update", lambda self, losses: {})
    with started(config) as run:
        figures = run.step()
        ours = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
        run.zero_grad()
        loss, rewards = plain_loss(run, seen["batch"], seen["summaries"], estimator)
        loss.backward()
        trained = run.model.trainable_parameters()
        truth = {name: p.grad for name, p in trained.items()}
        frozen = [name for name, p in run.model.named_parameters() if name not in trained and p.grad is not None]
    assert ("positive_reward" in figures) == (learn == "positives") and len(rewards) == (6 if learn != "none" else 3)
    for group, earned in zip(seen["groups"], rewards, strict=True):
        assert group.rewards.tolist() == pytest.approx(earned, abs=2e-5)
        assert group.contributes
    assert figures["policy_loss"] + 0.2 * figures["kl"] == pytest.approx(float(loss.detach()), abs=2e-4)
    assert figures["kl"] > 1e-3 and figures["replay_gap"] < 1e-4 and figures["signal"] == 1
    assert abs(figures["logprob_gap"]) < 1e-5  # temperature 1, top-p 1: one distribution
    assert ours.keys() == truth.keys() == trained.keys() and frozen == []
    assert sum("lora_" in name for name in ours) == 3 * 7 * 2
    for name, gradient in truth.items():
        # advantages divide float noise of the rewards by their small spread
        assert (ours[name] - gradient).norm() <= 5e-3 * gradient.norm() + 1e-7, name
        assert gradient.norm() > 0, name


def test_candidates_per_rollout_are_the_shared_ones_where_nothing_is_left_to_chance(config):
    with started(config) as run:
        batch = run.next_batch()
        shared = run.embed_candidates(batch)
        own = replace(config, candidates=CandidatesConfig("per_rollout", temperature=0.0, batch_size=5))
    with started(own) as run:
        each = run.embed_candidates(run.next_batch())
    for one, other in zip(shared, each, strict=True):
        assert one.negatives.shape == (1, 4, 32) and other.negatives.shape == (3, 4, 32)
        torch.testing.assert_close(one.negatives.expand(3, -1, -1), other.negatives, rtol=0, atol=2e-5)
        torch.testing.assert_close(one.positives.expand(3, -1, -1), other.positives, rtol=0, atol=2e-5)
    by_chance = replace(config, candidates=CandidatesConfig("per_rollout"))
    with started(by_chance) as run:
        figures = run.step()
    assert figures["signal"] == 1


def test_nothing_drops_out_although_the_adapter_could(config):
    """Two passes agree: with dropout 0.5 in force they would not, and the replay would miss the sampler."""
    with started(config) as run:
        request = run.next_batch().queries[:1]
        with torch.no_grad():
            one, two = (run.model.embed_summaries(request, [torch.tensor([65, 66])]) for _ in range(2))
        assert torch.equal(one, two) and not run.model.training


@pytest.mark.parametrize("ranking", ["elva", "ndcg"])
def test_a_resumed_run_equals_an_unbroken_one(ranking, config, monkeypatch, tmp_path):
    """Weights, log and what is remembered of the pool, bit for bit, though the crash comes between two refreshes."""
    config = replace(
        config,
        candidates=CandidatesConfig(refresh_every=2, learn="positives"),
        reward=replace(config.reward, ranking=ranking),
        negatives=NegativesConfig(hard=0, random=12),
        schedule=replace(config.schedule, steps=4, validate_every=2),
    )
    whole = replace(config, run=str(tmp_path / "whole"))
    train_elva(whole)
    real, steps = Elva.step, []

    def crash(self):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Elva, "step", crash)
    with pytest.raises(KeyboardInterrupt):
        train_elva(config)
    monkeypatch.setattr(Elva, "step", real)
    train_elva(config, resume=True)
    weights = [{f.name: load_file(f) for f in Path(c.run, "encoder").rglob("*.safetensors")} for c in (whole, config)]
    assert weights[0].keys() == weights[1].keys() and weights[0]
    for name, tensors in weights[0].items():
        assert all(torch.equal(t, weights[1][name][key]) for key, t in tensors.items()), name
    logs = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(Path(c.run, "log.jsonl"))]
        for c in (whole, config)
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    assert {"val_recall_at_1", "kl", "forced", "entropy", "reward_std", "grad_norm"} <= logs[0][-1].keys()
    embedder = load_embedder(Path(config.run, "encoder"))
    assert embedder.config.mode == "generative"


def counts_of_embedded(run: Elva, monkeypatch) -> list[int]:
    """From now on, how many candidates each call embedded."""
    counts, real = [], run.candidates._greedy

    def greedy(requests):
        counts.append(len(requests))
        return real(requests)

    monkeypatch.setattr(run.candidates, "_greedy", greedy)
    return counts


def test_remembered_candidates_are_not_embedded_again(config, monkeypatch):
    config = replace(config, candidates=CandidatesConfig(refresh_every=3), negatives=NegativesConfig(hard=0, random=20))
    with started(config) as run:
        asked = counts_of_embedded(run, monkeypatch)
        first = run.next_batch()
        before = run.candidates.embed(0, first.places, first.candidates, run.generator)
        away_from_the_reference(run)  # another policy
        again = run.candidates.embed(2, first.places, first.candidates, run.generator)
        assert asked == [len(first.places)] and torch.equal(before, again)
        second = run.next_batch()
        run.candidates.embed(2, second.places, second.candidates, run.generator)
        assert asked[1:] == [len(set(second.places) - set(first.places))]
        anew = run.candidates.embed(3, first.places, first.candidates, run.generator)
        assert asked[2] == len(first.places) and not torch.allclose(before, anew, atol=1e-3)


def test_permuted_rewards_are_the_same_rewards(config):
    found = []
    for supervision in ("reward", "permuted"):
        with started(replace(config, supervision=supervision)) as run:
            batch = run.next_batch()
            pictures = run.model.pictures(batch.queries)
            summaries = run.summarise(batch, pictures)
            found.append(run.score(batch, pictures, summaries, run.embed_candidates(batch)))
    for true, control in zip(*found, strict=True):
        assert sorted(true.rewards.tolist()) == sorted(control.rewards.tolist())
    assert any(a.rewards.tolist() != b.rewards.tolist() for a, b in zip(*found, strict=True))


def always_one(rank):
    return 1.0


def test_groups_without_spread_change_nothing(config):
    config = replace(config, reward=RankingRewardConfig(function=f"{__name__}:always_one"))
    with started(config) as run:
        before = {name: p.clone() for name, p in run.model.trainable_parameters().items()}
        figures = run.step()
        assert all(torch.equal(p, before[name]) for name, p in run.model.trainable_parameters().items())
    assert figures["signal"] == 0 and figures["no_spread"] == 3 and figures["reward"] == 1
    assert figures["policy_loss"] == 0 and figures["grad_norm"] == 0 and figures["kl"] == 0


def test_gains_of_ndcg_are_not_the_trained_policys(config, monkeypatch):
    config = replace(config, reward=RankingRewardConfig(ranking="ndcg"))
    with started(config) as run:
        batch = run.next_batch()
        before = [one.similarity_to_positive for one in run.embed_candidates(batch)]
        away_from_the_reference(run)
        monkeypatch.setattr(run.candidates, "_reference", RememberedRows(100, run.model.embedding_size))
        after = run.embed_candidates(batch)
    for one, other in zip(before, after, strict=True):
        assert one.shape == (4,) and torch.equal(one, other.similarity_to_positive)


def test_the_reference_embeds_a_candidate_once(config, monkeypatch):
    config = replace(config, reward=RankingRewardConfig(ranking="ndcg"), negatives=NegativesConfig(hard=0, random=20))
    with started(config) as run:
        asked = counts_of_embedded(run, monkeypatch)
        first, second = run.next_batch(), run.next_batch()
        before = run.candidates.as_reference(first.places, first.candidates)
        run.candidates.as_reference(second.places, second.candidates)
        away_from_the_reference(run)
        again = run.candidates.as_reference(first.places, first.candidates)
        assert asked == [len(first.places), len(set(second.places) - set(first.places))]
        assert torch.equal(before, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": NegativesConfig()}, "hard to 0 and random to 100"),
        ({"negatives": NegativesConfig(hard=0, random=4000)}, "too few for 4000"),
        ({"negatives": NegativesConfig(mined="nowhere")}, "nowhere"),
        ({"run": ""}, "--run"),
        ({"reward": RankingRewardConfig(function="nowhere:nothing")}, "nowhere"),
    ],
)
def test_bad_configurations_are_refused_before_anything_is_written(config, changes, message):
    with pytest.raises(ValueError, match=message):
        Elva(replace(config, **changes))
    assert not Path(config.run).exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SummaryConfig(group_size=1), "group_size"),
        (lambda: SummaryConfig(temperature=0.0), "temperature"),
        (lambda: CandidatesConfig("per_rollout", refresh_every=2), "refresh_every to 1"),
        (lambda: CandidatesConfig(temperature=0.5), "temperature to null"),
        (lambda: CandidatesConfig(learn="all"), "learn must be one of"),
        (
            lambda: ElvaConfig(candidates=CandidatesConfig(learn="positives"), negatives=NegativesConfig(positives=2)),
            "to 1",
        ),
        (lambda: PolicyConfig(kl_weight=-1.0), "kl_weight"),
        (lambda: PolicyConfig(clip=2.0), "clip"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_word_mode_and_a_trained_tower_are_refused(config):
    model = config.model
    for changed, message in (
        (replace(model, embedder=EmbedderConfig(image_size=16)), "generative"),
        (replace(model, train_tower=True), "train_tower"),
        (replace(model, train_words=True), "train_words"),
    ):
        with pytest.raises(ValueError, match=message):
            Elva(replace(config, model=changed))
