"""Ranking metrics against trec_eval's implementation, a slow twin, and what users get wrong."""

from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import torch
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation import ranking, retrieval
from fieldmark.evaluation.ranking import Relevance, index_relevance, ranking_metrics, ranks_of, self_matches


def random_task(
    seed: int, n: int = 40, m: int = 150, ties: bool = False
) -> tuple[Tensor, Tensor, dict[str, dict[str, float]]]:
    random = torch.Generator().manual_seed(seed)
    queries, pool = torch.randn(n, 8, generator=random), torch.randn(m, 8, generator=random)
    if ties:
        pool = pool[torch.randint(0, m // 5, (m,), generator=random)]
    grades = torch.randint(1, 4, (n, 6), generator=random)
    count = torch.randint(1, 7, (n,), generator=random)
    qrels = {
        f"q{i}": {f"c{j}": float(grades[i, p]) for p, j in enumerate(torch.randperm(m, generator=random)[: count[i]])}
        for i in range(n)
    }
    return queries, pool, qrels


def indexed(qrels: dict[str, dict[str, float]], m: int) -> Relevance:
    return index_relevance("task", qrels, [f"c{j}" for j in range(m)], qrels)


def plain_order(queries: Tensor, pool: Tensor) -> Tensor:
    scores = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(pool, dim=1).T
    return scores.sort(dim=1, descending=True, stable=True).indices


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_trec_eval(ties: bool) -> None:
    queries, pool, qrels = random_task(0, ties=ties)
    found = ranking_metrics(queries, pool, indexed(qrels, 150), ks=(1, 5, 10), ndcg_ks=(5, 10, 100))
    # trec_eval orders equal scores by name: it is told the ranks instead
    order = plain_order(queries, pool).tolist()
    run = {f"q{i}": {f"c{j}": -float(rank) for rank, j in enumerate(row)} for i, row in enumerate(order)}
    graded = {query: {name: int(grade) for name, grade in row.items()} for query, row in qrels.items()}
    theirs = pytrec_eval.RelevanceEvaluator(graded, {"recip_rank", "ndcg_cut.5,10,100", "success.1,5,10"}).evaluate(run)
    for name, own in (
        [("recip_rank", "mrr")]
        + [(f"success_{k}", f"recall_at_{k}") for k in (1, 5, 10)]
        + [(f"ndcg_cut_{k}", f"ndcg_at_{k}") for k in (5, 10, 100)]
    ):
        np.testing.assert_allclose(found.per_query(own), [theirs[f"q{i}"][name] for i in range(40)], atol=1e-6)
    assert found.mrr == pytest.approx(found.per_query("mrr").mean())
    assert found.recall_at_k[5] == pytest.approx(found.per_query("recall_at_5").mean())
    assert found.ndcg_at_k[10] == pytest.approx(found.per_query("ndcg_at_10").mean())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 7, 1024])
def test_exact_ranks_and_top_whatever_the_chunk(ties: bool, chunk_size: int) -> None:
    queries, pool, qrels = random_task(1, ties=ties)
    relevance = indexed(qrels, 150)
    found = ranking_metrics(queries, pool, relevance, ks=(1, 3), chunk_size=chunk_size)
    order = plain_order(queries, pool)
    assert found.top.tolist() == order[:, :3].tolist()
    for i in range(40):
        places = [order[i].tolist().index(j) for j in relevance.candidates[relevance.of(i)]]
        assert found.first_hit[i] == min(places) + 1
    assert found.median_rank == np.median(found.first_hit)
    assert found.first_hit.max() > 3  # beyond the list that is kept


def test_chunks_that_are_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, pool, qrels = random_task(2)
    whole = ranking_metrics(queries, pool, indexed(qrels, 150))
    monkeypatch.setattr(retrieval, "_MAX_SCORES", 700)
    assert (ranking_metrics(queries, pool, indexed(qrels, 150)).first_hit == whole.first_hit).all()


def test_ranks_of_single_columns() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]])
    rows, columns = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 2, 3, 0, 3])
    assert ranks_of(scores, rows, columns).tolist() == [2, 3, 1, 1, 4]


def test_the_query_does_not_find_itself() -> None:
    a, b = Path("a.png"), Path("b.png")
    queries = [Query(Item("4:1", image=a)), Query(Item("4:2", image=b)), Query(Item("4:3", "red", a))]
    pool = [Item("4:1", image=b), Item("4:9", image=a), Item("4:2", "red", a), Item("4:3", "a text")]
    qrels = {"4:1": {"4:1": 1.0}, "4:2": {"4:1": 1.0, "4:9": 1.0}, "4:3": {"4:9": 1.0}}
    relevance = index_relevance("nights", (q.id for q in queries), (c.id for c in pool), qrels)
    rows, columns = self_matches(queries, pool, relevance)
    # query 4:2's own picture is relevant to it: it stays
    assert list(zip(rows, columns, strict=True)) == [(0, 1), (2, 2)]
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [1.0, 0.0]])
    candidates = torch.tensor([[0.8, 0.2], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert ranking_metrics(embeddings, candidates, relevance).first_hit.tolist() == [3, 1, 1]
    found = ranking_metrics(embeddings, candidates, relevance, excluded=(rows, columns))
    assert found.first_hit.tolist() == [2, 1, 1]
    assert found.top[0].tolist() == [2, 0, 3, -1] and found.top_scores[0, 3] == -np.inf
    with pytest.raises(ValueError, match="excluded for query 0, but it is relevant"):
        ranking_metrics(embeddings, candidates, relevance, excluded=(np.array([0]), np.array([0])))


def test_interval_takes_the_generator_and_moves_it() -> None:
    queries, pool, qrels = random_task(3)
    found = ranking_metrics(queries, pool, indexed(qrels, 150), ks=(10,))
    generator = np.random.default_rng(0)
    first, second = (found.interval("recall_at_10", generator) for _ in range(2))
    again = found.interval("recall_at_10", np.random.default_rng(0))
    assert first == again != second
    assert first.low <= first.mean <= first.high and first.mean == pytest.approx(found.recall_at_k[10])


def test_k_beyond_the_pool_counts_the_whole_pool() -> None:
    relevance = index_relevance("task", ["q"], ["a", "b"], {"q": {"b": 2.0}})
    found = ranking_metrics(torch.ones(1, 2), torch.tensor([[1.0, 0], [0, 1]]), relevance, ks=(10,), ndcg_ks=(10,))
    assert found.recall_at_k == {10: 1.0} and found.first_hit.tolist() == [2]
    assert found.ndcg_at_k[10] == pytest.approx(1 / np.log2(3))


@pytest.mark.parametrize(
    ("query_ids", "pool", "qrels", "named"),
    [
        (["q", "q"], ["a"], {"q": {"a": 1.0}}, "query id 'q' stands twice"),
        (["q"], ["a", "a"], {"q": {"a": 1.0}}, "candidate id 'a' stands twice"),
        (["q", "p"], ["a"], {"q": {"a": 1.0}}, "query 'p' has no relevant candidate"),
        (["q"], ["a"], {"q": {"b": 1.0}}, "'b' is relevant to query 'q', but it is not in the pool of 1"),
        (["q"], ["a"], {"q": {"a": 0.0}}, "grades 'a' 0.0"),
    ],
)
def test_bad_relevance(query_ids: list[str], pool: list[str], qrels: dict[str, dict[str, float]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        index_relevance("task", query_ids, pool, qrels)


def test_relevant_candidates_that_are_not_in_the_pool_count_as_never_found() -> None:
    qrels = {"q": {"gone": 1.0, "b": 1.0}, "p": {"gone": 2.0}}
    relevance = index_relevance("task", qrels, ["a", "b"], qrels, absent="count")
    found = ranking_metrics(torch.eye(2), torch.eye(2), relevance, ks=(1, 2), ndcg_ks=(2,))
    assert found.first_hit.tolist() == [2, 0] and found.recall_at_k == {1: 0.0, 2: 0.5}
    assert found.mrr == 0.25 and found.per_query("recall_at_2").tolist() == [1.0, 0.0]
    assert found.query_ndcg[2].tolist() == pytest.approx([1 / np.log2(3) / (1 + 1 / np.log2(3)), 0.0])
    assert found.median_rank == np.inf


def test_embeddings_of_length_1_are_not_copied() -> None:
    queries, pool, qrels = random_task(5)
    queries, pool = (torch.nn.functional.normalize(one, dim=1) for one in (queries, pool))
    relevance = indexed(qrels, 150)
    found = ranking_metrics(queries, pool, relevance, normalised=True)
    assert (found.first_hit == ranking_metrics(queries, pool, relevance).first_hit).all()
    assert retrieval.unit_rows(pool, "pool", normalised=True).data_ptr() == pool.data_ptr()
    with pytest.raises(ValueError, match="said to have length 1"):
        ranking_metrics(queries, 2 * pool, relevance, normalised=True)


def test_bad_embeddings() -> None:
    relevance = index_relevance("task", ["q"], ["a", "b"], {"q": {"b": 2.0}})
    with pytest.raises(ValueError, match="different models"):
        ranking_metrics(torch.ones(1, 3), torch.ones(2, 2), relevance)
    with pytest.raises(ValueError, match="the relevance is about 1 and 2"):
        ranking_metrics(torch.ones(1, 2), torch.ones(3, 2), relevance)
    with pytest.raises(ValueError, match="not finite"):
        ranking_metrics(torch.ones(1, 2), torch.tensor([[1.0, 0], [torch.nan, 1]]), relevance)
    with pytest.raises(ValueError, match="ks are"):
        ranking_metrics(torch.ones(1, 2), torch.eye(2), relevance, ks=(0,))
    with pytest.raises(ValueError, match="choose from recall_at_K, mrr"):
        ranking_metrics(torch.ones(1, 2), torch.eye(2), relevance).per_query("ndcg_at_5")


def test_only_missed_rows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, pool, qrels = random_task(4)
    counted: list[int] = []

    def count(scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        counted.append(len(rows))
        return ranks_of(scores, rows, columns)

    monkeypatch.setattr(ranking, "ranks_of", count)
    found = ranking_metrics(queries, pool, indexed(qrels, 150), ks=(20,))
    assert sum(counted) == (found.first_hit > 20).sum() > 0
