"""Separation by hand, intervals, synonyms by their values, and a ranking beside the truth and chance."""

import itertools

import numpy as np
import pytest

from fieldmark.evaluation.attribute_ranking import (
    agreement,
    merge_synonyms,
    rank_attributes,
    ranking_quality,
    value_kappa,
)


def test_agreement() -> None:
    assert agreement("Reddish  brown", "brown") == 0.5
    assert agreement("dark red", "red, dark") == 1
    assert agreement("red", "blue") == 0 == agreement("", "")


def test_separation_by_hand() -> None:
    labels = [0, 0, 1, 1]
    values = [
        {"m": "a", "c": "x", "v": "p"},
        {"m": "a", "c": "x", "v": "q"},
        {"m": "b", "c": "x", "v": "p"},
        {"m": "a", "c": "x"},
    ]
    scores = {s.name: s for s in rank_attributes(values, labels, ["m", "c", "v", "never"], seed=0)}
    assert set(scores) == {"m", "c", "v"}
    assert (scores["m"].same, scores["m"].different) == (0.5, 0.5)  # aa, ba | ab aa ab aa
    assert (scores["c"].same, scores["c"].different, scores["c"].separation) == (1, 1, 0)
    assert (scores["v"].same, scores["v"].different, scores["v"].pictures) == (0, 0.5, 3)
    assert scores["v"].examples == (("p", 2), ("q", 1))


def world(rng: np.random.Generator, classes: int = 24, per: int = 4) -> tuple[list[dict[str, str]], np.ndarray]:
    """A mark constant in its class (one reading in ten wrong), its synonym, plumage, and what never varies."""
    labels = np.repeat(np.arange(classes), per)
    mark = rng.integers(4, size=classes)[labels]
    values = []
    for m in mark:
        seen = [int(m) if rng.random() > 0.1 else int(rng.integers(4)) for _ in range(2)]
        values.append({"bill": f"v{seen[0]}", "beak": f"V{seen[1]}!", "crown": f"v{rng.integers(4)}", "legs": "two"})
    return values, labels


def test_what_is_constant_in_a_class_comes_first_and_its_interval_is_above_zero() -> None:
    values, labels = world(np.random.default_rng(0))
    scores = rank_attributes(values, labels, ["crown", "legs", "beak", "bill"], seed=0)
    assert {s.name for s in scores[:2]} == {"bill", "beak"}
    for s in scores:
        assert s.low <= s.separation <= s.high
        assert (s.low > 0.3) == (s.name in ("bill", "beak"))
    again = rank_attributes(values, labels, ["crown", "legs", "beak", "bill"], seed=0)
    assert again == scores


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    hits = [
        s.low <= 0 <= s.high
        for seed in range(60)
        for s in rank_attributes(*world(np.random.default_rng(seed), 20), ["crown"], seed=seed, resamples=300)
    ]
    assert 0.85 <= np.mean(hits) <= 1.0


def test_synonyms_are_told_by_their_values() -> None:
    values, _ = world(np.random.default_rng(1))
    assert merge_synonyms(values, ["bill", "crown", "beak", "legs"], threshold=0.6) == {
        "bill": "bill", "crown": "crown", "beak": "bill", "legs": "legs",
    }  # fmt: skip
    kappa = value_kappa(values, "bill", "crown")
    assert kappa is not None and abs(kappa) < 0.25
    assert value_kappa(values, "legs", "legs") is None  # chance alone agrees
    assert value_kappa(values[:5], "bill", "beak") is None  # too few


def test_kappa_by_hand() -> None:
    values = [{"a": "x", "b": "x"}, {"a": "x", "b": "y"}, {"a": "y", "b": "y"}, {"a": "y", "b": "y"}]
    p, e = 3 / 4, (0 + 1 + 2 + 2) / 12  # e: each picture's a with the b of the three others
    assert value_kappa(values, "a", "b", least=4) == pytest.approx((p - e) / (1 - e))


def test_quality_of_a_ranking_by_hand() -> None:
    q = ranking_quality(["a", "x", "b", "y"], ["a", "x"], ["a", "b", "c"])
    assert (q.precision, q.recall) == (0.5, pytest.approx(1 / 3))
    assert q.average_precision == pytest.approx((1 + 2 / 3) / 3)
    assert q.auc == pytest.approx(3 / 4)
    perfect = ranking_quality(["a", "b", "x"], ["a", "b"], ["a", "b"])
    assert (perfect.precision, perfect.recall, perfect.average_precision, perfect.auc) == (1, 1, 1, 1)
    assert ranking_quality(["a", "b"], ["a"], ["a", "b"]).auc is None


def test_chance_is_the_mean_over_all_orders() -> None:
    names, truth = ["a", "b", "x", "y", "z"], ["a", "b", "missing"]
    orders = [ranking_quality(order, order[:2], truth) for order in itertools.permutations(names)]
    for key in ("precision", "recall", "average_precision", "auc"):
        mean = np.mean([getattr(q, key) for q in orders])
        assert getattr(orders[0], f"random_{key}") == pytest.approx(mean), key


@pytest.mark.parametrize(("labels", "message"), [([0, 1], "same-class"), ([0, 0], "two classes"), ([0], "shape")])
def test_refuses(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_attributes([{"a": "x"}, {"a": "x"}], labels, ["a"], seed=0)
    with pytest.raises(ValueError, match="distinct ranked"):
        ranking_quality(["a", "a"], ["a"], ["a"])
