"""Ranking rewards against figures that were worked out by hand from the publication's formulas."""

import math

import pytest
import torch
from torch import Tensor

from fieldmark.policy.ranking_rewards import (
    RankingRewardConfig,
    elva_ranking_reward,
    ndcg_reward,
    positive_rank,
    ranking_rewards,
)

E = math.e

# Cosines in descending order, rank r of the positive among them, δ, γ, base of the logarithm;
# R_margin, R_rank, R with α = 0.4, ε = 0.6. Example, fourth row: R_margin = 0.9 − 0.5 − 0.1;
# R_rank = 0.9 / (1 + ln 1) − [0.5 (ln 2 − 1) + 0.2 (ln 3 − 1)] = 0.9 + 0.1534264 − 0.0197225.
TABLE = [
    # γ = 0: the positive's term alone
    ((0.9, 0.5, 0.2), 1, 0.1, 0, E, 0.3, 0.9, 0.66),
    ((0.9, 0.5, 0.2), 2, 0.1, 0, E, 0.0, 0.2953080546, 0.1771848327),
    ((0.9, 0.5, 0.2), 3, 0.1, 0, E, 0.0, 0.0953010716, 0.0571806430),
    # γ = 1: rank 2 earns more than rank 1, as negatives at ranks 1 and 2 are rewarded
    ((0.9, 0.5, 0.2), 1, 0.1, 1, E, 0.3, 1.0337039520, 0.7402223712),
    ((0.9, 0.5, 0.2), 2, 0.1, 1, E, 0.0, 1.1755855968, 0.7053513581),
    ((0.9, 0.5, 0.2), 3, 0.1, 1, E, 0.0, 1.1487274813, 0.6892364888),
    # other bases
    ((0.9, 0.5, 0.2), 1, 0.1, 1, 2, 0.3, 0.7830074999, 0.5898044999),
    ((0.9, 0.5, 0.2), 2, 0.1, 1, 2, 0.0, 1.0330074999, 0.6198044999),
    ((0.9, 0.5, 0.2), 3, 0.1, 1, 2, 0.0, 0.9773705614, 0.5864223369),
    ((0.9, 0.5, 0.2), 1, 0.1, 1, 10, 0.3, 1.3540607512, 0.9324364507),
    ((0.9, 0.5, 0.2), 2, 0.1, 1, 10, 0.0, 1.3888866425, 0.8333319855),
    # one negative
    ((0.8, 0.6), 1, 0.05, 0.5, E, 0.15, 0.8920558458, 0.5952335075),
    ((0.8, 0.6), 2, 0.05, 0.5, E, 0.0, 0.7543696655, 0.4526217993),
    # ahead, but by less than the margin
    ((0.8, 0.78), 1, 0.05, 0.01, E, 0.0, 0.8023934520, 0.4814360712),
    # ties: the negatives stand before the positive
    ((0.7, 0.7, 0.1), 2, 0.05, 0.5, E, 0.0, 0.7585006620, 0.4551003972),
    ((0.4, 0.4, 0.4, 0.4), 4, 0.05, 0.5, E, 0.0, 0.4092720198, 0.2455632119),
    # negative cosines
    ((0.3, -0.2, -0.6), 1, 0.2, 0.25, E, 0.3, 0.2994492023, 0.2996695214),
    ((0.3, -0.2, -0.6), 2, 0.2, 0.25, E, 0.0, -0.0283313785, -0.0169988271),
    ((0.3, -0.2, -0.6), 3, 0.2, 0.25, E, 0.0, -0.2262458558, -0.1357475135),
    # more candidates
    ((0.95, 0.9, 0.85, 0.5, 0.3), 1, 0.02, 0.01, E, 0.03, 0.9481636854, 0.5808982112),
    ((0.95, 0.9, 0.85, 0.5, 0.3), 3, 0.02, 0.01, E, 0.0, 0.4135314442, 0.2481188665),
    ((0.95, 0.9, 0.85, 0.5, 0.3), 5, 0.02, 0.1, E, 0.0, 0.2098872792, 0.1259323675),
    # the ends of the range
    ((1.0, -1.0), 1, 0.5, 1, E, 1.5, 0.6931471806, 1.0158883083),
    ((0.0, -0.5, -0.5), 1, 0.0, 1, E, 0.5, -0.1041202654, 0.1375278408),
]

# Gains in the order of the ranking, the positive's place, nDCG. Example, second row:
# (0.5 / log2 2 + 1 / log2 3 + 0.2 / log2 4) / (1 / log2 2 + 0.5 / log2 3 + 0.2 / log2 4).
NDCG_TABLE = [
    ((1.0, 0.5, 0.2), 0, 1.0),
    ((0.5, 1.0, 0.2), 1, 0.8696293167),
    ((0.2, 1.0, 0.5), 1, 0.7636570651),
    ((0.5, 0.2, 1.0), 2, 0.7956297392),
    ((1.0, 0.2, 0.5), 0, 0.9722501584),
    ((1.0, 0.0, 0.4), 0, 0.9581818297),
    ((0.0, 1.0, 0.4), 1, 0.6634848264),
    ((0.3, 0.7, 1.0), 2, 0.7801025238),
    ((0.0, 1.0), 1, 0.6309297536),
    ((0.0, 0.0, 1.0), 2, 0.5),
]


def parted(scores: tuple[float, ...], rank: int) -> tuple[Tensor, Tensor]:
    """(1,) positive and its negatives, which do not come sorted."""
    values = torch.tensor(scores, dtype=torch.float64)
    return values[rank - 1 : rank], torch.cat((values[: rank - 1], values[rank:])).flip(0)


@pytest.mark.parametrize(("scores", "rank", "delta", "gamma", "base", "margin", "ranking", "total"), TABLE)
def test_published_rewards(
    scores: tuple[float, ...],
    rank: int,
    delta: float,
    gamma: float,
    base: float,
    margin: float,
    ranking: float,
    total: float,
) -> None:
    found = ranking_rewards(RankingRewardConfig(delta=delta, gamma=gamma, log_base=base), *parted(scores, rank))
    assert found.rank.item() == rank
    assert found.margin.item() == pytest.approx(margin, abs=1e-9)
    assert found.ranking.item() == pytest.approx(ranking, abs=1e-9)
    assert found.total.item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(("gains", "place", "expected"), NDCG_TABLE)
def test_ndcg(gains: tuple[float, ...], place: int, expected: float) -> None:
    scores = torch.linspace(0.8, -0.3, len(gains), dtype=torch.float64)
    values = torch.tensor(gains, dtype=torch.float64)
    others = torch.tensor([i for i in range(len(gains)) if i != place][::-1])
    found = ndcg_reward(scores[place : place + 1], scores[others], values[others])
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_ndcg_takes_ties_in_the_worst_order_and_cuts_gains_at_0() -> None:
    same, gains = torch.full((2,), 0.5), torch.tensor([-0.4, 0.5])
    # order -0.4 (gain 0), 0.5, positive
    expected = (0.5 / math.log2(3) + 1 / math.log2(4)) / (1 + 0.5 / math.log2(3))
    assert ndcg_reward(torch.tensor([0.5]), same, gains).item() == pytest.approx(expected, abs=1e-6)


def test_ndcg_stays_between_0_and_1_and_is_1_only_in_the_best_order() -> None:
    random = torch.Generator().manual_seed(0)
    gains = torch.rand(64, 20, generator=random)
    scores = 2 * torch.rand(64, 21, generator=random) - 1
    found = ndcg_reward(scores[:, :1], scores[:, 1:], gains)
    assert found.min() > 0 and found.max() < 1
    assert ndcg_reward(torch.ones(64, 1), gains * 0.9, gains).allclose(torch.ones(64))


def test_negatives_at_ranks_1_and_2_are_rewarded_with_the_natural_logarithm_only_there() -> None:
    for rank_of_negative, rewarded in ((1, True), (2, True), (3, False), (4, False)):
        negatives = torch.tensor([0.9 - 0.1 * k for k in range(4)])
        positive = torch.tensor([-0.9])  # last: the negatives stand at ranks 1 to 4
        nearer = negatives.clone()
        nearer[rank_of_negative - 1] += 0.05  # the order stays
        gain = elva_ranking_reward(positive, nearer, 1.0) - elva_ranking_reward(positive, negatives, 1.0)
        assert (gain.item() > 0) is rewarded


def test_several_positives_the_nearest_counts() -> None:
    negatives = torch.tensor([0.7, 0.2])
    several, one = torch.tensor([0.1, 0.8, 0.6]), torch.tensor([0.8])
    config = RankingRewardConfig()
    assert ranking_rewards(config, several, negatives).total == ranking_rewards(config, one, negatives).total
    assert positive_rank(several, negatives).item() == 1
    gains = torch.tensor([0.5, 0.1])
    assert ndcg_reward(several, negatives, gains) == ndcg_reward(one, negatives, gains)


def test_batches_are_the_single_ones() -> None:
    random = torch.Generator().manual_seed(1)
    positive, negatives = (2 * torch.rand(3, 8, n, generator=random) - 1 for n in (2, 5))
    gains = torch.rand(3, 8, 5, generator=random)
    for config in (RankingRewardConfig(), RankingRewardConfig(ranking="ndcg", delta=0)):
        whole = ranking_rewards(config, positive, negatives, gains)
        assert whole.total.shape == (3, 8) and whole.rank.dtype == torch.int64
        for i in range(3):
            for g in range(8):
                one = ranking_rewards(config, positive[i, g], negatives[i, g], gains[i, g])
                assert one.total.item() == pytest.approx(whole.total[i, g].item(), abs=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    positive, negatives = torch.tensor([0.9], dtype=torch.bfloat16), torch.tensor([0.5, 0.2], dtype=torch.bfloat16)
    found = ranking_rewards(RankingRewardConfig(), positive, negatives)
    wide = ranking_rewards(RankingRewardConfig(), positive.float(), negatives.float())
    assert found.total.dtype == torch.float32 and found.total == wide.total


def test_ablations() -> None:
    positive, negatives, gains = torch.tensor([0.9]), torch.tensor([0.5, 0.2]), torch.tensor([0.5, 0.3])

    def total(**changes: object) -> float:
        config = RankingRewardConfig(**{"gamma": 1.0, "delta": 0.1} | changes)  # type: ignore[arg-type]
        return ranking_rewards(config, positive, negatives, gains).total.item()

    assert total() == pytest.approx(0.7402223712, abs=1e-6)
    assert total(ranking="none") == pytest.approx(0.4 * 0.3, abs=1e-6)
    assert total(margin=False) == pytest.approx(0.6 * 1.0337039520, abs=1e-6)
    assert total(negative_ranking=False) == pytest.approx(0.66, abs=1e-6)
    assert total(ranking="ndcg") == pytest.approx(0.4 * 0.3 + 0.6, abs=1e-6)
    # without the negatives' gains only the positive's rank counts: 1 / log2(1 + 2)
    second = torch.tensor([0.3])
    config = RankingRewardConfig(ranking="ndcg", negative_ranking=False, margin=False, epsilon=1)
    assert ranking_rewards(config, second, negatives).total.item() == pytest.approx(1 / math.log2(3), abs=1e-6)


def test_only_ndcg_and_functions_that_ask_need_similarities_to_the_positive() -> None:
    assert not RankingRewardConfig().needs_similarity_to_positive
    assert RankingRewardConfig(ranking="ndcg").needs_similarity_to_positive
    assert not RankingRewardConfig(ranking="ndcg", negative_ranking=False).needs_similarity_to_positive
    config = RankingRewardConfig(function="fieldmark.policy.ranking_rewards:ndcg_reward")
    assert config.needs_similarity_to_positive
    with pytest.raises(ValueError, match="similarity_to_positive"):
        ranking_rewards(RankingRewardConfig(ranking="ndcg"), torch.tensor([0.5]), torch.tensor([0.1]))


def test_own_function_by_import_path() -> None:
    config = RankingRewardConfig(
        function="fieldmark.policy.ranking_rewards:margin_reward", options={"delta": 0.1}, ranking="none"
    )
    own = config.own_reward()
    assert own.arguments == ("positive", "negatives")
    with pytest.raises(ValueError, match="returned tensor"):  # a reward is a number
        own(positive=torch.tensor([0.9]), negatives=torch.tensor([0.2]))
    with pytest.raises(ValueError, match=r"unknown reward .verdict_correct."):
        RankingRewardConfig(function="verdict_correct").own_reward()
    with pytest.raises(ValueError, match="asks for 'gamma'"):
        RankingRewardConfig(function="fieldmark.policy.ranking_rewards:elva_ranking_reward").own_reward()
    with pytest.raises(ValueError, match="set function"):
        RankingRewardConfig().own_reward()


@pytest.mark.parametrize(
    ("positive", "negatives", "named"),
    [
        (torch.empty(0), torch.tensor([0.5]), "positive has shape"),
        (torch.tensor([0.5]), torch.empty(0), "negatives has shape"),
        (torch.tensor([[0.5]]), torch.tensor([0.5]), "same rollouts"),
        (torch.tensor([14.0]), torch.tensor([0.5]), "temperature"),
        (torch.tensor([0.5]), torch.tensor([math.nan]), "negatives"),
        (torch.tensor([1]), torch.tensor([0.5]), "positive"),
    ],
)
def test_bad_similarities(positive: Tensor, negatives: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ranking_rewards(RankingRewardConfig(), positive, negatives)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ranking": "map"}, "ranking"),
        ({"delta": -1.0}, "delta"),
        ({"gamma": math.nan}, "gamma"),
        ({"log_base": 1.0}, "log_base"),
        ({"ranking": "none", "margin": False}, "neither"),
        ({"alpha": 0.0, "epsilon": 0.0}, "neither"),
        ({"options": {"x": 1}}, "function"),
    ],
)
def test_bad_configurations(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RankingRewardConfig(**changes)  # type: ignore[arg-type]
