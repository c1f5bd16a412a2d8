"""Recomputing the tower's blocks changes no value and no gradient, for every family and every tuning."""

import copy

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.models.test_tuning import features, gradients, random_like, tune

from fieldmark.models.gradient_checkpointing import checkpoint_blocks
from fieldmark.models.tower import load_tower
from fieldmark.models.tuning import tower_blocks


@pytest.fixture(scope="module", params=list(TINY))
def untouched(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    save_tiny_family(folder, request.param)
    return load_tower(folder)


@pytest.mark.parametrize("method", ["full", "lora", "last_blocks"])
def test_gradients_are_equal_and_blocks_run_twice(untouched, method):
    found = []
    for recompute in (False, True):
        tower = tune(copy.deepcopy(untouched), method, rank=2, blocks=2, dropout=0.3)
        if recompute:
            checkpoint_blocks(tower)
        calls = []
        inner = next(m for name, m in tower_blocks(tower)[-1].named_modules() if name.endswith("mlp"))
        inner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        weights = random_like(features(tower))
        calls.clear()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            found.append(gradients(tower, weights))
        passes = len(calls)
        calls.clear()
        with torch.no_grad():
            features(tower)
        assert passes == len(calls) * (2 if recompute else 1)
    plain, recomputed = found
    assert plain.keys() == recomputed.keys() and plain
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max() + 1))


def test_names_of_weights_stay(untouched):
    tower = copy.deepcopy(untouched)
    checkpoint_blocks(tower)
    assert tower.state_dict().keys() == untouched.state_dict().keys()
