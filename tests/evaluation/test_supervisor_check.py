import json
import math

import numpy as np
import pytest
import torch

from fieldmark.data.collection import load_collection
from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.world import FieldguideConfig, read_attributes, write_fieldguide
from fieldmark.evaluation.supervisor_check import (
    PairTypeReport,
    SupervisorCheckConfig,
    _advise,
    _entropy,
    check_supervisor,
    draw_check_pairs,
)
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.policy.adjudication import RolloutConfig


def test_pairs_are_of_their_type_and_look_alikes_are_nearest():
    labels = np.repeat(np.arange(5), 4)
    embeddings = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    pairs = draw_check_pairs(labels, embeddings, 10, torch.Generator().manual_seed(1))
    assert all(len(p) == 10 for p in pairs.values())
    assert all(labels[p.a] == labels[p.b] and p.a != p.b and p.same for p in pairs["same"])
    assert all(labels[p.a] != labels[p.b] and not p.same for k in ("random", "hard") for p in pairs[k])
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    for p in pairs["hard"]:
        others = [i for i in range(20) if labels[i] != labels[p.a]]
        assert p.b == max(others, key=lambda i: float(unit[i] @ unit[p.a]))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="no pairs"):
        draw_check_pairs(np.zeros(6, dtype=int), torch.randn(6, 3), 2, torch.Generator())


def test_entropy():
    assert _entropy(["a", "a", "a"]) == 0
    assert _entropy(["a", "b"]) == pytest.approx(math.log(2))


def report(**changes):
    base = {
        "pairs": 10,
        "accuracy": 0.7,
        "contributing": 0.5,
        "unparseable": 0.0,
        "tokens": 40.0,
        "value_entropy": 0.3,
        "value_accuracy": 0.8,
        "advantage_on_discriminating": 0.2,
        "advantage_on_shared": 0.1,
        "oracle_cosine": 0.3,
        "oracle_self_cosine": 0.4,
        "gradient_norm": 1.0,
    }
    return PairTypeReport(**{**base, **changes})


@pytest.mark.parametrize(
    ("changes", "mixture", "worth", "word"),
    [
        ({}, 0.3, True, "range that teaches"),
        ({"unparseable": 0.5}, 0.3, False, "cannot be read"),
        ({"contributing": 0.0}, 0.3, False, "next to no signal"),
        ({"accuracy": 0.05}, 0.3, False, "fewer attributes"),
        ({}, -0.1, False, "does not point"),
    ],
)
def test_advice(changes, mixture, worth, word):
    one = report(**changes)
    random = one if changes.get("accuracy") is None else report(accuracy=0.97)
    advice, verdict = _advise({"same": one, "random": random, "hard": one}, mixture, 0.02)
    assert verdict is worth and any(word in a for a in advice)


def test_check_runs_on_the_bundled_supervisor_and_is_deterministic(tmp_path):
    folder = write_fieldguide(FieldguideConfig(species=8, per=4, seed=3), tmp_path / "w", workers=1)
    images = load_collection(folder)
    known = read_attributes(folder)
    truth = [known[i] for i in images.ids]
    backbone = load_backbone(bundled_path())
    backbone.freeze_language()
    rollouts = RolloutConfig(
        vocabulary="fieldguide", attributes_per_prompt=2, group_size=4, temperature=1.0, top_p=1.0, max_new_tokens=48
    )
    config = SupervisorCheckConfig(pairs_per_type=6, pictures_per_batch=6)
    found = [
        check_supervisor(backbone, images, rollouts, config, 96, truth=truth, decisive=tuple(FIELD_MARKS))
        for _ in range(2)
    ]
    assert found[0] == found[1]
    one = found[0]
    assert set(one.by_type) == {"same", "random", "hard"}
    for r in one.by_type.values():
        assert r.pairs == 6 and 0 <= r.accuracy <= 1 and r.unparseable < 0.5 and 0.3 < r.value_accuracy <= 1
    assert one.mixture_cosine is None or -1 <= one.mixture_cosine <= 1
    json.dumps(one.as_json())
    assert "worth training" in one.as_text()
    blind = check_supervisor(backbone, images, rollouts, SupervisorCheckConfig(pairs_per_type=3, gradients=False), 96)
    assert blind.mixture_cosine is None and blind.by_type["same"].value_accuracy is None
