"""Groups of summaries: rewards from cosines by hand, a reward of one's own, the control."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import normalize

from fieldmark.data.retrieval import Item, Query
from fieldmark.models.backbone import PromptTokens
from fieldmark.models.sampling import Completion
from fieldmark.models.universal_embedder import Summary
from fieldmark.policy.query_groups import Candidates, RankingScorer, similarity_to_positive
from fieldmark.policy.ranking_rewards import RankingRewardConfig

QUERY = Query(Item("q", "hooked bill"), grains=("hooked", "bill"))
PROMPT = PromptTokens((1, 2, 3), 0)


def summary(embedding, length=3, forced=False) -> Summary:
    ids = torch.arange(length)
    completion = Completion(ids, -0.5 * torch.ones(length), -0.4 * torch.ones(length), torch.zeros(length, 0), "stop")
    return Summary(completion, f"{length} words", normalize(torch.tensor(embedding), dim=0), forced)


def vectors(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


SUMMARIES = [summary([1.0, 0.2, 0.0]), summary([0.2, 1.0, 0.1], 5), summary([-1.0, 0.3, 0.4], 2, forced=True)]


def by_hand(embedding, positives, negatives, c):
    """R of one rollout from METHODS' formulas, in plain numbers."""
    cosine = [sum(a * b for a, b in zip(embedding, one, strict=True)) for one in (*positives, *negatives)]
    best, others = max(cosine[: len(positives)]), cosine[len(positives) :]
    margin = max(0.0, best - max(others) - c.delta)
    ranked = sorted([*others, best], reverse=True)
    r = ranked.index(best) + 1
    rest = sum(s * (math.log(k) - 1) for k, s in enumerate(ranked, 1) if k != r)
    return c.alpha * margin + c.epsilon * (best / (1 + math.log(r)) - c.gamma * rest)


def test_an_unfinished_summary_earns_less():
    candidates = Candidates(vectors(1, 2, 3, seed=1), vectors(1, 6, 3, seed=2))
    plain, strict = (
        RankingScorer(RankingRewardConfig(unfinished=taken)).score_query(QUERY, PROMPT, (), SUMMARIES, candidates)
        for taken in (0.0, 0.25)
    )
    assert (plain.rewards - strict.rewards).tolist() == pytest.approx([0, 0, 0.25]), "the third one was forced"
    assert strict.ranking.total.tolist() == plain.ranking.total.tolist()


def test_rewards_and_advantages_by_hand():
    config = RankingRewardConfig()
    positives, negatives = vectors(1, 2, 3, seed=1), vectors(1, 6, 3, seed=2)
    group = RankingScorer(config).score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(positives, negatives))
    truth = [by_hand(one.embedding.tolist(), positives[0].tolist(), negatives[0].tolist(), config) for one in SUMMARIES]
    assert group.rewards.tolist() == pytest.approx(truth, abs=1e-5)
    mean = sum(truth) / 3
    std = math.sqrt(sum((one - mean) ** 2 for one in truth) / 2)
    assert group.advantages.tolist() == pytest.approx([(one - mean) / (std + 1e-4) for one in truth], abs=1e-4)
    assert group.contributes and group.num_tokens == 10
    task = group.for_policy()
    assert [len(ids) for ids in task.task.completions] == [3, 5, 2] and task.task.prompt is PROMPT
    assert task.advantages is group.advantages and task.spans is None
    assert task.logprobs[1].tolist() == [-0.5] * 5


def test_candidates_of_each_rollout_are_its_own():
    """Rollout g against candidates g alone gives what all together give."""
    scorer = RankingScorer(RankingRewardConfig())
    positives, negatives = vectors(3, 1, 3, seed=3), vectors(3, 4, 3, seed=4)
    group = scorer.score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(positives, negatives))
    for g in range(3):
        own = Candidates(positives[g : g + 1], negatives[g : g + 1])
        alone = scorer.score_query(QUERY, PROMPT, (), SUMMARIES, own)
        assert group.rewards[g] == pytest.approx(float(alone.rewards[g]), abs=1e-6)
    same = Candidates(positives[:1].expand(3, -1, -1), negatives[:1].expand(3, -1, -1))
    shared = Candidates(positives[:1], negatives[:1])
    one, other = (scorer.score_query(QUERY, PROMPT, (), SUMMARIES, c) for c in (same, shared))
    torch.testing.assert_close(one.rewards, other.rewards)


@pytest.mark.parametrize("sets", [1, 2])
def test_a_positives_summary_earns_the_mean_over_the_querys(sets):
    """Against plain numbers; the embedding that the positive had does not count."""
    config = RankingRewardConfig(unfinished=0.25)
    asked = [summary([0.5, 1.0, -0.2]), summary([0.1, -0.2, 1.0])]
    negatives = vectors(sets, 6, 3, seed=2)
    bird = Item("p", "a bird", facts=("hooked",))
    args = (QUERY, bird, PROMPT, (4,), SUMMARIES, asked)
    group, other = (
        RankingScorer(config).score_positive(*args, Candidates(vectors(1, 1, 3, seed=seed), negatives))
        for seed in (1, 9)
    )
    for j, one in enumerate(SUMMARIES):
        each = [
            by_hand(q.embedding.tolist(), [one.embedding.tolist()], negatives[i % sets].tolist(), config)
            for i, q in enumerate(asked)
        ]
        assert group.rewards[j].item() == pytest.approx(sum(each) / 2 - 0.25 * one.forced, abs=1e-6)
    spread = group.rewards - group.rewards.mean()
    torch.testing.assert_close(group.advantages, spread / (group.rewards.std() + 1e-4))
    assert torch.equal(group.rewards, other.rewards)
    assert group.positive == bird and group.statements == ("hooked",) and group.images == (4,)
    assert group.ranking.rank.shape == (3,) and group.ranking.total.shape == (3,)


def test_a_positives_summary_and_a_reward_of_ones_own():
    asked, negatives = [summary([0.5, 1.0, -0.2]), summary([0.1, -0.2, 1.0])], vectors(1, 6, 3, seed=2)
    config = RankingRewardConfig(function=f"{__name__}:length_and_cosine")
    group = RankingScorer(config).score_positive(
        QUERY, Item("p", "a bird"), PROMPT, (), SUMMARIES, asked, Candidates(vectors(1, 1, 3), negatives)
    )
    for j, one in enumerate(SUMMARIES):
        cosines = [float(q.embedding @ one.embedding) for q in asked]
        assert group.rewards[j].item() == pytest.approx(one.completion.ids.numel() + sum(cosines) / 2, abs=1e-5)


def length_and_cosine(positive, num_tokens):
    assert positive.shape == (1,)
    return num_tokens + float(positive[0])


def test_ndcg_reads_the_gains_it_is_given():
    config = RankingRewardConfig(ranking="ndcg", margin=False)
    positives, negatives = vectors(1, 2, 3, seed=1), vectors(1, 6, 3, seed=2)
    gains = similarity_to_positive(positives[0], negatives[0])
    assert gains.tolist() == pytest.approx([max(float(p @ n) for p in positives[0]) for n in negatives[0]], abs=1e-6)
    group = RankingScorer(config).score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(positives, negatives, gains))
    assert ((group.ranking.ranking >= 0) & (group.ranking.ranking <= 1)).all() and group.contributes
    with pytest.raises(ValueError, match="similarity_to_positive"):
        RankingScorer(config).score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(positives, negatives))


def spoken_for(query, text, rank, forced, num_tokens, penalty=0.1):
    assert query.grains == ("hooked", "bill") and text == f"{num_tokens} words"
    return 1 / rank - penalty * num_tokens - forced


def test_a_reward_of_ones_own():
    config = RankingRewardConfig(function=f"{__name__}:spoken_for", options={"penalty": 0.2})
    scorer = RankingScorer(config)
    group = scorer.score_query(
        QUERY, PROMPT, (), SUMMARIES, Candidates(vectors(1, 1, 3, seed=1), vectors(1, 6, 3, seed=2))
    )
    ranks = group.ranking.rank.tolist()
    truth = [1 / r - 0.2 * n - f for r, n, f in zip(ranks, (3, 5, 2), (0, 0, 1), strict=True)]
    assert group.rewards.tolist() == pytest.approx(truth)


def test_the_documents_reward_is_what_it_says(tmp_path, monkeypatch):
    """docs/extend.md: the function between the fences runs, named as there, with the options given there."""
    page = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(# my_rewards.py\n.*?)```", page, re.DOTALL)[1]
    said = yaml.safe_load(re.search(r"```yaml\n(reward:.*?)```", page, re.DOTALL)[1])["reward"]
    assert len(code.splitlines()) <= 10
    (tmp_path / "my_rewards.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = RankingScorer(RankingRewardConfig(**said))
    positives, negatives = vectors(1, 2, 3, seed=1), vectors(1, 6, 3, seed=2)
    group = scorer.score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(positives, negatives))
    ahead = [
        max(float(one.embedding @ p) for p in positives[0]) - max(float(one.embedding @ n) for n in negatives[0])
        for one in SUMMARIES
    ]
    truth = [a - 0.005 * n - 0.5 * f for a, n, f in zip(ahead, (3, 5, 2), (0, 0, 1), strict=True)]
    assert group.rewards.tolist() == pytest.approx(truth, abs=1e-5)


def test_permuted_rewards_keep_the_summaries():
    group = RankingScorer(RankingRewardConfig()).score_query(
        QUERY, PROMPT, (), SUMMARIES, Candidates(vectors(1, 1, 3, seed=1), vectors(1, 6, 3, seed=2))
    )
    orders = set()
    for seed in range(20):
        control = group.permuted(torch.Generator().manual_seed(seed))
        assert sorted(control.rewards.tolist()) == sorted(group.rewards.tolist())
        by_reward = dict(zip(group.rewards.tolist(), group.advantages.tolist(), strict=True))
        assert control.advantages.tolist() == [by_reward[r] for r in control.rewards.tolist()]
        assert control.summaries == group.summaries and control.ranking is group.ranking
        orders.add(tuple(control.rewards.tolist()))
    assert len(orders) > 4


def test_equal_rewards_contribute_nothing():
    group = RankingScorer(RankingRewardConfig()).score_query(
        QUERY, PROMPT, (), [SUMMARIES[0]] * 3, Candidates(vectors(1, 1, 3, seed=1), vectors(1, 6, 3, seed=2))
    )
    assert not group.contributes and group.advantages.tolist() == [0, 0, 0]


def test_candidates_that_do_not_fit_are_refused():
    scorer = RankingScorer(RankingRewardConfig())
    with pytest.raises(ValueError, match="its candidates in 4"):
        scorer.score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(vectors(1, 1, 4), vectors(1, 6, 4)))
    with pytest.raises(ValueError, match="1 or 3"):
        scorer.score_query(QUERY, PROMPT, (), SUMMARIES, Candidates(vectors(2, 1, 3), vectors(2, 6, 3)))
