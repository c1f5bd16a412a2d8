"""NMI against its definition and scikit-learn."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from fieldmark.evaluation import clustering_nmi


def make(noise, n=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, 8, generator=generator)
    return centres[labels] + noise * torch.randn(n, 8, generator=generator), labels


def by_definition(a, b):
    """Mutual information over the arithmetic mean of the entropies."""
    n = len(a)
    joint, left, right = Counter(zip(a, b, strict=True)), Counter(a), Counter(b)
    mutual = sum(c / n * math.log(c * n / (left[x] * right[y])) for (x, y), c in joint.items())
    entropies = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (left, right)]
    return mutual / (sum(entropies) / 2)


def test_equals_scikit_learn_and_the_definition():
    embeddings, labels = make(noise=1.0)
    seeds = (3, 4, 5, 6)
    nmi = clustering_nmi(embeddings, labels, seeds)
    points = F.normalize(embeddings, dim=1).numpy()
    for seed, value in zip(seeds, nmi.values, strict=True):
        assigned = KMeans(5, n_init=1, random_state=seed).fit_predict(points)
        assert value == pytest.approx(normalized_mutual_info_score(labels.numpy(), assigned), abs=1e-12)
        assert value == pytest.approx(by_definition(labels.tolist(), assigned.tolist()), abs=1e-9)
    mean = sum(nmi.values) / 4
    assert nmi.mean == pytest.approx(mean)
    assert nmi.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in nmi.values) / 3))
    assert 0.2 < nmi.mean < 0.95


def test_separated_classes_score_one_whatever_the_lengths_and_label_names():
    embeddings, labels = make(noise=0.01)
    scale = torch.rand(len(labels), 1, generator=torch.Generator().manual_seed(0)) * 20 + 0.1
    nmi = clustering_nmi(embeddings * scale, (labels * 7 + 100).tolist(), seeds=range(5))
    assert max(nmi.values) == pytest.approx(1.0)  # a k-means start may still be unlucky


def test_noise_scores_low():
    generator = torch.Generator().manual_seed(0)
    assert clustering_nmi(torch.randn(400, 8, generator=generator), torch.arange(400) % 4).mean < 0.1


def test_deterministic_and_single_seed():
    embeddings, labels = make(noise=1.0)
    assert clustering_nmi(embeddings, labels) == clustering_nmi(embeddings, labels)
    assert clustering_nmi(embeddings, labels, (1,)).std == 0.0


@pytest.mark.parametrize(
    ("embeddings", "labels", "seeds", "message"),
    [
        (torch.ones(3, 2), [0, 0, 0], (0,), "at least two"),
        (torch.ones(3, 2), [0, 1], (0,), "expected"),
        (torch.ones(3, 2), [0.0, 1.0, 1.0], (0,), "expected"),
        (torch.ones(3, 2), [0, 1, 1], (), "seeds is empty"),
        (torch.full((3, 2), torch.nan), [0, 1, 1], (0,), "NaN"),
    ],
)
def test_bad_input_is_named(embeddings, labels, seeds, message):
    with pytest.raises(ValueError, match=message):
        clustering_nmi(embeddings, labels, seeds)
