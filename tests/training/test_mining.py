"""After-verdict mining: what is remembered, what it weighs, that wrong pairs come more often, and exact resume."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tests.training.crashes import crash_in_step_three_and_resume

from fieldmark.data.samplers import sample_pairs
from fieldmark.losses.registry import MetricLossConfig
from fieldmark.training import saga
from fieldmark.training.config import PairConfig, ScheduleConfig
from fieldmark.training.metric import train_metric
from fieldmark.training.mining import VerdictMemory, embedding_difficulty, pair_weights
from fieldmark.training.saga import Saga, train_saga

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def group(a, b, *correct):
    return SimpleNamespace(pair=(a, b), same=bool(LABELS[a] == LABELS[b]), correct=correct)


# ---- memory


def test_difficulty_before_any_verdict_is_one_half():
    assert torch.equal(VerdictMemory(3, 0.9).difficulty(LABELS), torch.full((6, 6), 0.5, dtype=torch.float64))


def test_difficulty_by_hand():
    memory = VerdictMemory(3, 0.5)
    memory.update([group(0, 2, False, False), group(3, 1, True, False)], LABELS)
    # classes 0 and 1 met twice: first all wrong, then half wrong, the first counting half
    w, n = 0.5 * 1 + 0.5, 1.5
    r = (w + 0.5) / (n + 1)
    known = (w + r) / (n + 1)
    d = memory.difficulty(LABELS)
    assert float(d[0, 2]) == float(d[3, 1]) == pytest.approx((w + known) / (n + 1))
    assert float(d[0, 4]) == pytest.approx((known + r) / 2)  # 0 with 2: never met
    assert float(d[0, 1]) == 0.5  # same-class verdicts are another kind
    assert torch.equal(d, d.T)
    memory.update([group(4, 5, True, True)], LABELS)
    e = memory.difficulty(LABELS)
    assert float(e[0, 1]) == pytest.approx(0.25) and float(e[4, 5]) == pytest.approx(0.125)
    assert float(e[0, 2]) == float(d[0, 2])


def test_forgets():
    slow, fast = VerdictMemory(3, 1.0), VerdictMemory(3, 0.1)
    for memory in (slow, fast):
        memory.update([group(0, 2, False)] * 20 + [group(0, 2, True)] * 3, LABELS)
    assert float(slow.difficulty(LABELS)[0, 2]) > 0.8 > 0.3 > float(fast.difficulty(LABELS)[0, 2])


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match=r"set pairs\.mining to embedding"):
        VerdictMemory(8001, 0.9)


def test_embedding_difficulty_ranks_within_a_kind():
    angles = torch.tensor([0.0, 1.0, 0.1, 0.2, 2.0, 2.05])
    z = torch.stack([angles.cos(), angles.sin()], 1) * 3
    d = embedding_difficulty(z, LABELS)
    assert torch.equal(d, d.T) and float(d.min()) == 0 and float(d.max()) == 1
    assert float(d[0, 1]) == 1 and float(d[4, 5]) == 0 and float(d[2, 3]) == 0.5  # far apart is confused
    assert float(d[0, 2]) == 1 and float(d[0, 5]) == 0  # close together is confused
    with pytest.raises(ValueError, match="diverged"):
        embedding_difficulty(z * torch.nan, LABELS)


# ---- sampler


def test_weights_decide_how_often_a_pair_is_drawn():
    weights = torch.ones(6, 6)
    weights[0, 2] = weights[2, 0] = 9.0
    weights[4, 5] = weights[5, 4] = 3.0
    generator = torch.Generator().manual_seed(0)
    seen: Counter[frozenset[int]] = Counter()
    for _ in range(1500):
        seen.update(frozenset((p.a, p.b)) for p in sample_pairs(LABELS, 2, generator, weights=weights))
    # one of 12 different pairs (weights 9 + 11 × 1) and one of 3 same pairs (3 + 2 × 1) each time
    assert seen[frozenset((0, 2))] / 1500 == pytest.approx(9 / 20, abs=0.05)
    assert seen[frozenset((4, 5))] / 1500 == pytest.approx(3 / 5, abs=0.05)


def test_weighted_pairs_are_balanced_distinct_and_a_function_of_the_generator():
    weights = pair_weights(LABELS, 4.0, VerdictMemory(3, 0.9), torch.randn(6, 3))
    assert torch.equal(weights, weights.T) and float(weights.min()) >= 1

    def draw(seed):
        return sample_pairs(LABELS, 6, torch.Generator().manual_seed(seed), weights=weights)

    pairs = draw(1)
    assert sum(p.same for p in pairs) == 3 and len({frozenset((p.a, p.b)) for p in pairs}) == 6
    assert all(p.same == bool(LABELS[p.a] == LABELS[p.b]) for p in pairs)
    assert pairs == draw(1) and any(pairs != draw(seed) for seed in (2, 3, 4))


@pytest.mark.parametrize(
    ("weights", "different", "message"),
    [
        (torch.ones(5, 5), "random", r"\(6, 6\)"),
        (torch.zeros(6, 6), "random", "positive"),
        (torch.full((6, 6), torch.nan), "random", "finite"),
        (torch.arange(1.0, 37.0).view(6, 6), "random", "symmetric"),
        (torch.ones(6, 6), "hard", "no effect"),
    ],
)
def test_bad_weights_are_refused(weights, different, message):
    with pytest.raises(ValueError, match=message):
        sample_pairs(LABELS, 2, torch.Generator(), different, torch.ones(6, 2), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mining": "hard"}, "one of none, verdict"),
        ({"mining": "verdict", "mining_strength": -1.0}, "mining_strength"),
        ({"mining": "verdict", "mining_memory": 0.0}, "mining_memory"),
        ({"mining": "embedding", "different": "hard"}, "different='random'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PairConfig(**options)


def test_mining_by_verdict_needs_verdicts(saga_config):
    config = replace(saga_config, supervision="oracle", pairs=replace(saga_config.pairs, mining="both"))
    with pytest.raises(ValueError, match="asks for no verdicts"):
        train_saga(config)


# ---- runs


def weights_of(run):
    return load_file(Path(run) / "encoder" / "model.safetensors")


def test_resume_with_mining_and_nested_sizes_is_exact_and_mining_matters(saga_config, tmp_path, monkeypatch):
    pairs = replace(saga_config.pairs, mining="both", mining_strength=20.0)
    config = replace(saga_config, pairs=pairs, metric=MetricLossConfig(dimensions=(8,)))
    drawn, weights = [], []
    judge, sample = Saga._adjudicate, saga.sample_pairs

    def record(self, current):
        groups = judge(self, current)
        drawn.append([g.pair for g in groups])
        return groups

    def weighted(*given, **options):
        weights.append(tuple(options["weights"].flatten().tolist()))
        return sample(*given, **options)

    monkeypatch.setattr(Saga, "_adjudicate", record)
    monkeypatch.setattr(saga, "sample_pairs", weighted)
    results = train_saga(config)
    whole, drawn[:] = list(drawn), []
    assert set(results["test"]["by_dimensions"]) == {"8"}
    tables = load_file(Path(config.run) / "checkpoints" / "step-00000002" / "verdicts.safetensors")
    assert float(tables["kind_seen"].sum()) > 0

    broken = replace(config, run=str(tmp_path / "broken"))
    crash_in_step_three_and_resume(broken, monkeypatch)
    assert drawn == whole
    one, two = weights_of(config.run), weights_of(broken.run)
    assert all(torch.equal(one[k], two[k]) for k in one)

    assert weights[:3] == weights[3:] and len(set(weights)) == 3  # every step asks for other pairs


def test_metric_run_with_nested_sizes_resumes_exactly_and_reports_each_size(metric_config, tmp_path):
    config = replace(metric_config, metric=MetricLossConfig(dimensions=(4, 16)))
    results = train_metric(config)
    assert set(results["test"]["by_dimensions"]) == {"4", "16"}
    assert all(0 <= cut["recall_at_1"] <= 1 for cut in results["test"]["by_dimensions"].values())
    stored = json.loads((Path(config.run) / "results.json").read_text())
    assert stored["test"]["by_dimensions"] == results["test"]["by_dimensions"]
    again = replace(config, run=str(tmp_path / "again"))
    train_metric(again)
    (Path(again.run) / "results.json").unlink()  # the run was killed after its last checkpoint
    train_metric(again, resume=True)
    one, two = weights_of(config.run), weights_of(again.run)
    assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(ValueError, match="the embedding has 32 numbers"):
        train_metric(
            replace(
                config,
                run=str(tmp_path / "wide"),
                metric=MetricLossConfig(dimensions=(64,)),
                schedule=ScheduleConfig(steps=1),
            )
        )
