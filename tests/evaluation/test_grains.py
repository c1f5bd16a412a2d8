"""Grain sensitivity and compliance on embeddings whose answers are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.grains import drop_grain, grain_compliance, grain_sensitivity

WORDS = ("red", "blue", "hooked", "long", "barred", "plain")


def asking(*grains: str, id: str = "q") -> Query:
    return Query(Item(id, ", ".join(grains) or "anything"), "find it", grains=grains)


def bag(queries: Sequence[Query]) -> Tensor:
    """One dimension per word: hears every grain."""
    return torch.tensor([[float(word in (q.item.text or "").split(", ")) for word in WORDS] for q in queries])


@pytest.mark.parametrize(
    ("text", "grain", "left"),
    [
        ("red bill, barred wing, long tail", "red bill", "barred wing, long tail"),
        ("red bill, barred wing, long tail", "barred wing", "red bill, long tail"),
        ("red bill, barred wing, long tail", "long tail", "red bill, barred wing"),
        ("Red Bill and a long tail", "red bill", "a long tail"),
        ("a dog with a red ball", "a red ball", "a dog"),
        ("a dog with a red ball.", "a red ball", "a dog."),
        ("a brown dog runs on sand", "brown", "a dog runs on sand"),
        ("the same bird, but red legs", "red legs", "the same bird"),
        ("bill shape: hooked, bill color: red", "bill shape hooked", "bill color: red"),
        ("a hand and", "hand", "a"),
        ("a band", "and", None),  # part of a word
        ("blue wing", "red wing", None),
        ("red bill", "red bill", None),  # nothing left
        ("red bill.", "red bill", None),
        ("red bill", " ", None),
    ],
)
def test_drop_grain(text: str, grain: str, left: str | None) -> None:
    found = drop_grain(Query(Item("q", text), "find it", grains=(grain, "other")), grain)
    assert (found and found.item.text) == left
    if found is not None:
        assert (found.id, found.instruction, found.grains) == ("q", "find it", ("other",))


def test_a_picture_remains_without_the_text() -> None:
    found = drop_grain(Query(Item("q", "red legs", Path("a.png")), grains=("red legs",)), "red legs")
    assert found is not None and found.item.text is None and found.item.image == Path("a.png")


def test_sensitivity_of_an_embedding_that_hears_everything() -> None:
    queries = [
        asking("red", "hooked", id="1"),
        asking("blue", "long", id="2"),
        asking("red", "barred", "plain", id="3"),
    ]
    found = grain_sensitivity([*queries, asking("red", id="4")], bag, np.random.default_rng(0))
    # of two grains one remains: cos = 1/√2; of three, two: cos = √2/√3
    two, three = 1 - 1 / np.sqrt(2), 1 - np.sqrt(2 / 3)
    np.testing.assert_allclose(found.distances, [two] * 4 + [three] * 3, atol=1e-6)
    assert found.owner.tolist() == [0, 0, 1, 1, 2, 2, 2] and found.num_skipped == 0
    # 1 and 3 share a grain: the unrelated pairs are (1, 2) and (2, 3), whose cosine is 0
    assert found.unrelated == pytest.approx(1.0)
    assert found.distance == pytest.approx((4 * two + 3 * three) / 7) == found.relative
    assert found.interval.low <= found.distance <= found.interval.high


def test_a_deaf_embedding_has_no_sensitivity_and_spread_alone_does_not_count() -> None:
    queries = [asking("red", "hooked", id="1"), asking("blue", "long", id="2")]

    def first_word(some: Sequence[Query]) -> Tensor:  # the first query's grains all count as one
        return torch.tensor(
            [[1.0, 0] if any(w in (q.item.text or "") for w in ("red", "hooked")) else [0, 1] for q in some]
        )

    assert grain_sensitivity(queries, first_word, np.random.default_rng(0)).distance == 0

    def mixed(share: float):  # type: ignore[no-untyped-def]
        constant = torch.tensor([[0.0] * len(WORDS) + [share]])
        return lambda some: torch.cat((bag(some), constant[:, -1:].expand(len(some), 1)), 1)

    narrow, wide = (grain_sensitivity(queries, mixed(share), np.random.default_rng(0)) for share in (3.0, 0.0))
    assert narrow.distance < 0.3 * wide.distance
    assert narrow.relative == pytest.approx(wide.relative, rel=0.2)


def test_phrases_that_are_not_in_the_text_are_counted() -> None:
    queries = [asking("red", "hooked", id="1"), Query(Item("2", "blue, long"), grains=("blue", "barred", "long"))]
    result = grain_sensitivity(queries, bag, np.random.default_rng(0))
    assert result.num_skipped == 1 and result.owner.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("queries", "named"),
    [
        ([asking("red")], "two grains or more"),
        ([Query(Item("q", "blue"), grains=("red", "long"))], "stand in its text"),
        ([asking("red", "long", id="1"), asking("red", "plain", id="2")], "share a grain"),
    ],
)
def test_sensitivity_cannot_be_measured(queries: list[Query], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        grain_sensitivity(queries, bag, np.random.default_rng(0))


def candidate(id: str, *facts: str) -> Item:
    return Item(id, id, facts=facts)


def test_compliance() -> None:
    queries = [asking("red", "hooked"), asking("blue", "long", "plain", id="p")]
    pool = [
        candidate("a", "red", "hooked"),
        candidate("b", "red", "long"),
        candidate("c", "blue", "hooked"),
        candidate("d", "blue", "long", "plain"),
        candidate("e"),
    ]
    # order of the first query: b a c e d; of the second: d e a b c
    queries_at = torch.eye(2)
    pool_at = torch.tensor([[0.8, 0.6], [0.9, 0.43], [0.7, 0.4], [0.1, 0.99], [0.6, 0.7]])
    pool_at = torch.cat((pool_at, (1 - (pool_at**2).sum(1, keepdim=True)).clamp_min(0).sqrt()), 1)
    queries_at = torch.nn.functional.pad(queries_at, (0, 1))
    found = grain_compliance(queries, queries_at, pool, pool_at, np.random.default_rng(0), k=2)
    # b has 1 of 2, a both; d has 3 of 3, e none
    assert found.query_satisfied.tolist() == pytest.approx([0.75, 0.5])
    assert found.satisfied == pytest.approx(0.625) and found.interval.mean == pytest.approx(0.625)
    # by chance: (2 + 1 + 1 + 0 + 0) / 2 / 5 and (0 + 1 + 1 + 3 + 0) / 3 / 5
    assert found.random == pytest.approx((0.4 + 1 / 3) / 2)
    # the second query has no candidate that misses exactly one grain
    assert found.num_with_both == 1
    assert found.match_rank == 2 and found.near_miss_rank == 2  # near misses b and c at 1 and 3
    assert found.misordered == 0.5 and found.near_miss_first == 1

    without_b = (np.array([0]), np.array([1]))
    found = grain_compliance(queries, queries_at, pool, pool_at, np.random.default_rng(0), k=2, excluded=without_b)
    assert found.match_rank == 1 and found.near_miss_rank == 2 and found.misordered == 0


def test_single_grains_have_no_near_misses() -> None:
    pool = [candidate("a", "red"), candidate("b", "blue")]
    found = grain_compliance([asking("red")], torch.ones(1, 2), pool, torch.eye(2), np.random.default_rng(0))
    assert found.k == 2 and found.satisfied == 0.5 and found.num_with_both == 0 and np.isnan(found.misordered)


def test_compliance_needs_grains_and_facts() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 queries have no grains"):
        grain_compliance([asking()], torch.ones(1, 2), [candidate("a", "red")], torch.ones(1, 2), generator)
    with pytest.raises(ValueError, match="facts of the 1 candidates"):
        grain_compliance([asking("red")], torch.ones(1, 2), [candidate("a", "blue")], torch.ones(1, 2), generator)
