"""Retrieval metrics against a naive loop and pytorch-metric-learning; ties, duplicates and lone classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fieldmark.evaluation import bootstrap_interval, retrieval_metrics, top_k
from fieldmark.evaluation import retrieval as module


def naive(embeddings, labels, ks, gallery=None, gallery_labels=None):
    """One query at a time, sorted in Python by (similarity, index)."""
    unit = F.normalize(embeddings, dim=1)
    other = unit if gallery is None else F.normalize(gallery, dim=1)
    other_labels = (labels if gallery_labels is None else gallery_labels).tolist()
    scores = (unit @ other.T).tolist()
    recall, map_at_r, r_precision, skipped = {k: [] for k in ks}, [], [], 0
    for i, row in enumerate(scores):
        ranked = sorted((-s, j) for j, s in enumerate(row) if gallery is not None or j != i)
        hits = [other_labels[j] == labels[i] for _, j in ranked]
        positives = sum(hits)
        if positives == 0:
            skipped += 1
            continue
        for k in ks:
            recall[k].append(any(hits[:k]))
        r_precision.append(sum(hits[:positives]) / positives)
        precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(positives) if hits[rank]]
        map_at_r.append(sum(precisions) / positives)
    return {k: np.mean(v) for k, v in recall.items()}, np.mean(map_at_r), np.mean(r_precision), skipped


def make(n=150, width=16, classes=11, seed=0, noise=1.5, lone=3):
    """Class centres plus noise, unequal class sizes, `lone` classes of one image at the end."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.arange(1, classes + 1).float()
    labels = torch.multinomial(weights, n - lone, replacement=True, generator=generator)
    labels = torch.cat([labels, classes + torch.arange(lone)])
    centres = torch.randn(classes + lone, width, generator=generator)
    return centres[labels] + noise * torch.randn(n, width, generator=generator), labels


def check(metrics, expected):
    recall, map_at_r, r_precision, skipped = expected
    assert metrics.recall_at_k == pytest.approx(recall, abs=1e-12)
    assert metrics.map_at_r == pytest.approx(map_at_r, abs=1e-6)
    assert metrics.r_precision == pytest.approx(r_precision, abs=1e-6)
    assert metrics.num_skipped == skipped


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk_size", [1, 37, 1024])
def test_equals_naive_loop(seed, chunk_size):
    embeddings, labels = make(seed=seed)
    ks = (1, 2, 4, 8, 200)
    metrics = retrieval_metrics(embeddings, labels, ks, chunk_size)
    check(metrics, naive(embeddings, labels, ks))
    assert metrics.num_skipped >= 3 and metrics.num_queries + metrics.num_skipped == 150
    assert 0.2 < metrics.recall_at_k[1] < 0.95  # neither trivial nor hopeless: the comparison can fail


@pytest.fixture
def grouped(monkeypatch):
    """Make the coarse pass of the search take part at the sizes of these tests; count how often it does."""
    taken = []

    def largest(scores, count):
        taken.append(scores.shape[1] // 2 >= 4 * count)
        return original(scores, count)

    original = module._largest
    monkeypatch.setattr(module, "_GROUP", 2)
    monkeypatch.setattr(module, "_largest", largest)
    return taken


def test_grouped_search_equals_naive_loop(grouped):
    embeddings, labels = make(n=403, classes=80, width=8, noise=1.0)
    metrics = retrieval_metrics(embeddings, labels, chunk_size=100)
    check(metrics, naive(embeddings, labels, (1, 2, 4, 8)))
    assert all(grouped)


def test_separate_gallery_equals_naive_loop():
    embeddings, labels = make(n=260, seed=4)
    split = torch.arange(260) % 2 == 0
    parts = embeddings[split], labels[split], (1, 3), embeddings[~split], labels[~split]
    queries, query_labels, ks, gallery, gallery_labels = parts
    metrics = retrieval_metrics(queries, query_labels, ks, 64, gallery=gallery, gallery_labels=gallery_labels)
    check(metrics, naive(*parts))
    assert metrics.num_skipped > 0  # lone classes: the query's class is absent from the gallery


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("separate", [False, True])
def test_equals_pytorch_metric_learning(seed, separate):
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        kmeans_func=lambda *_: None,  # unused; the default needs faiss
        device=torch.device("cpu"),
    )
    embeddings, labels = make(n=400, seed=seed)
    if separate:
        queries, gallery, query_labels, gallery_labels = (
            embeddings[::2],
            embeddings[1::2],
            labels[::2],
            labels[1::2],
        )
        peer = calculator.get_accuracy(queries, query_labels, gallery, gallery_labels)
        ours = retrieval_metrics(queries, query_labels, gallery=gallery, gallery_labels=gallery_labels)
    else:
        peer = calculator.get_accuracy(embeddings, labels)
        ours = retrieval_metrics(embeddings, labels)
    assert ours.num_skipped > 0
    assert ours.recall_at_k[1] == pytest.approx(peer["precision_at_1"], abs=1e-9)
    assert ours.r_precision == pytest.approx(peer["r_precision"], abs=1e-6)
    assert ours.map_at_r == pytest.approx(peer["mean_average_precision_at_r"], abs=1e-6)


def test_duplicated_pictures_are_not_mistaken_for_the_query():
    """Images 0-2 are one picture, in classes 0, 1, 0. 'Rank 0 is the query itself' would miss this."""
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 0, 1, 1])
    neighbours = top_k(embeddings, k=4)
    assert neighbours.indices.tolist()[:3] == [[1, 2, 4, 3], [0, 2, 4, 3], [0, 1, 4, 3]]
    metrics = retrieval_metrics(embeddings, labels, (1, 2, 4))
    assert metrics.first_hit.tolist() == [2, 3, 1, 1, 1]
    assert metrics.recall_at_k == {1: 3 / 5, 2: 4 / 5, 4: 1.0}
    assert retrieval_metrics(embeddings, labels, (1, 2)).first_hit[1] == 0  # beyond the ranks searched


def test_two_equal_pictures_find_each_other():
    embeddings = torch.eye(4)[[0, 1, 0, 1]]
    assert retrieval_metrics(embeddings, torch.tensor([0, 1, 0, 1])).recall_at_k[1] == 1.0
    assert retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 1])).recall_at_k[1] == 0.0


@pytest.mark.parametrize("n", [50, 400])
def test_ties_are_broken_by_index(n, grouped):
    """Small integer coordinates of equal norm: scores are exact and heavily tied."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.eye(8)[torch.randint(8, (n,), generator=generator)]
    embeddings = embeddings + torch.eye(8)[torch.randint(8, (n,), generator=generator)]
    embeddings = embeddings[(embeddings == 2).sum(1) == 0]
    n = len(embeddings)
    unit = F.normalize(embeddings, dim=1)
    scores = (unit @ unit.T).tolist()
    for k in (1, 5, 30):
        neighbours = top_k(embeddings, k=k, chunk_size=97)
        for i in range(n):
            order = sorted((j for j in range(n) if j != i), key=lambda j: (-scores[i][j], j))
            assert neighbours.indices[i].tolist() == order[:k]
    assert any(grouped)


def test_collapsed_embeddings_earn_nothing_from_ties():
    """All scores equal: neighbours are the first images, whatever the class."""
    labels = torch.arange(100) // 10
    metrics = retrieval_metrics(torch.eye(1, 8).repeat(100, 1), labels)
    assert metrics.recall_at_k[1] == pytest.approx(0.1)


@pytest.mark.parametrize(("n", "k"), [(40, 39), (900, 3), (900, 899), (3000, 20)])
def test_top_k_equals_full_sort(n, k):
    embeddings = torch.randn(n, 12, generator=torch.Generator().manual_seed(1))
    found = top_k(embeddings, k=k, chunk_size=333)
    unit = F.normalize(embeddings, dim=1)
    scores = (unit @ unit.T).fill_diagonal_(-2.0)
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    assert found.indices.shape == found.scores.shape == (n, k)
    torch.testing.assert_close(found.scores, values[:, :k], atol=1e-6, rtol=0)
    assert (found.indices == indices[:, :k]).float().mean() > 0.999  # scores one rounding apart may swap
    assert (found.indices != torch.arange(n)[:, None]).all()


def test_top_k_with_gallery_and_with_self():
    embeddings = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(top_k(embeddings, embeddings, k=1).indices[:, 0], torch.arange(30))
    assert torch.equal(top_k(embeddings, k=1, exclude_self=False).indices[:, 0], torch.arange(30))
    assert top_k(embeddings[:2], embeddings, k=30).indices.sort(1).values.tolist() == [list(range(30))] * 2


def test_grouped_search_is_the_one_under_test():
    scores = torch.randn(5, 32 * 200, generator=torch.Generator().manual_seed(3))
    values, columns = module._largest(scores, 10)
    expected = scores.topk(10, dim=1)
    assert torch.equal(values, expected.values) and torch.equal(columns, expected.indices)


def test_per_query_values_are_what_the_means_are_of():
    embeddings, labels = make()
    metrics = retrieval_metrics(embeddings, labels, (1, 4))
    for k in (1, 4):
        values = metrics.per_query(f"recall_at_{k}")
        assert values.shape == (metrics.num_queries,) and values.mean() == pytest.approx(metrics.recall_at_k[k])
    assert metrics.per_query("map_at_r").mean() == pytest.approx(metrics.map_at_r)
    assert metrics.per_query("r_precision").mean() == pytest.approx(metrics.r_precision)
    assert metrics.evaluated.sum() == metrics.num_queries and len(metrics.evaluated) == 150
    assert np.isnan(metrics.query_map_at_r[~metrics.evaluated]).all()
    with pytest.raises(ValueError, match="recall_at_1, recall_at_4, map_at_r"):
        metrics.per_query("recall_at_2")


def test_scale_and_dtype_do_not_matter():
    embeddings, labels = make()
    expected = retrieval_metrics(embeddings, labels)
    scale = torch.rand(len(embeddings), 1, generator=torch.Generator().manual_seed(0)) * 9 + 0.1
    assert retrieval_metrics(embeddings * scale, labels.numpy()).recall_at_k == expected.recall_at_k
    assert retrieval_metrics(embeddings.double(), labels.tolist()).map_at_r == pytest.approx(expected.map_at_r)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(embeddings, labels).map_at_r == expected.map_at_r


def test_one_large_class_fits():
    """R reaches n - 1: rows are taken fewer at a time rather than storing (n, R)."""
    embeddings, _ = make(n=500)
    labels = torch.zeros(500, dtype=torch.int64)
    metrics = retrieval_metrics(embeddings, labels)
    assert metrics.map_at_r == pytest.approx(1.0) and metrics.r_precision == pytest.approx(1.0)


def test_memory_limit_shrinks_the_chunks(monkeypatch):
    embeddings, labels = make()
    expected = retrieval_metrics(embeddings, labels)
    monkeypatch.setattr(module, "_MAX_SCORES", 1000)
    unit = F.normalize(embeddings, dim=1)
    rows = [part[0] for part in module._search(unit, unit, 3, True, 64)]
    assert max(part.stop - part.start for part in rows) == 5 and rows[-1].stop == 150
    assert retrieval_metrics(embeddings, labels).map_at_r == pytest.approx(expected.map_at_r, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, y: retrieval_metrics(e, torch.arange(len(y))), "none of the 150 queries"),
        (lambda e, y: retrieval_metrics(e, y[:-1]), "expected 150 integers"),
        (lambda e, y: retrieval_metrics(e, y.float()), "expected 150 integers"),
        (lambda e, y: retrieval_metrics(e, y, (0, 1)), "ks is"),
        (lambda e, y: retrieval_metrics(e, y, ()), "ks is"),
        (lambda e, y: retrieval_metrics(e, y, chunk_size=0), "chunk_size is 0"),
        (lambda e, y: retrieval_metrics(e, y, gallery=e), "belong together"),
        (lambda e, y: retrieval_metrics(e * (y != 3)[:, None], y), "are zero or not finite"),
        (lambda e, y: retrieval_metrics(e / (y != 3)[:, None], y), "are zero or not finite"),
        (lambda e, y: top_k(e, k=150), "choose 1..149"),
        (lambda e, y: top_k(e, k=0), "choose 1..149"),
        (lambda e, y: top_k(e, e, k=1, exclude_self=True), "gallery=None"),
        (lambda e, y: top_k(e[0], k=1), "expected"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*make())


def test_bootstrap_covers_the_normal_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 1000)
    interval = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)
    assert interval == bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)
    narrow = bootstrap_interval(values, seed=0, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_bootstrap_by_class_is_wider_when_classes_succeed_together():
    groups = np.arange(400) // 20
    values = (groups % 2).astype(float)  # a class is all right or all wrong
    alone, by_class = bootstrap_interval(values, 0), bootstrap_interval(values, 0, groups=groups)
    assert by_class.mean == alone.mean == 0.5
    assert by_class.high - by_class.low > 3 * (alone.high - alone.low)


def test_bootstrap_by_class_weighs_classes_by_their_size():
    interval = bootstrap_interval([1.0] * 9 + [0.0], 0, groups=[0] * 9 + [1])
    assert (interval.mean, interval.low, interval.high) == (0.9, 0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "non-empty"),
        (([1.0, np.nan],), "finite"),
        (([1.0], 0, 1.5), "level is 1.5"),
    ],
)
def test_bootstrap_bad_input(arguments, message):
    values, *rest = arguments
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, *(rest or [0]))
    with pytest.raises(ValueError, match="one group per value"):
        bootstrap_interval([1.0, 2.0], 0, groups=[1])
