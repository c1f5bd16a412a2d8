"""Teacher maps against loops."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fieldmark.policy.alignment import attribute_maps, teacher_map, teacher_maps
from fieldmark.policy.rollouts import Rollout
from fieldmark.policy.verdicts import Verdict

PATCHES_A, PATCHES_B = torch.tensor([2, 3, 4, 5]), torch.tensor([7, 8, 9])


def attention(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(12, 15, generator=generator) * 2).softmax(-1) * 0.6  # the rest: completion


def rollout(first: dict[str, range], second: dict[str, range]) -> Rollout:
    nothing = torch.zeros(12)
    verdict = Verdict(True, None, ({}, {}), None)
    offsets: Any = torch.zeros(12, 2).numpy()
    return Rollout(nothing.long(), nothing, nothing, "", offsets, "stop", 1.0, verdict, (first, second), range(11, 12))


def loop(weights: torch.Tensor, tokens: list[int], patches: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(len(patches))
    for token in tokens:
        mass = sum(weights[token, p].item() for p in patches)
        for n, p in enumerate(patches):
            total[n] += weights[token, p].item() / mass / len(tokens)
    return total


def test_teacher_maps_equal_the_loop() -> None:
    weights = attention().requires_grad_()
    marks = rollout({"bill": range(1, 3), "tail": range(4, 5)}, {"bill": range(6, 9)})
    a, b = teacher_maps(weights, marks, PATCHES_A, PATCHES_B)
    assert a is not None and b is not None
    assert_close(a, loop(weights, [1, 2, 4], PATCHES_A))
    assert_close(b, loop(weights, [6, 7, 8], PATCHES_B))
    assert a.sum().item() == pytest.approx(1)
    assert not a.requires_grad
    first, second = attribute_maps(weights, marks, PATCHES_A, PATCHES_B)
    assert set(first) == {"bill", "tail"}
    assert_close(first["tail"], loop(weights, [4], PATCHES_A))
    assert_close(second["bill"], b)


def test_every_token_weighs_the_same_however_little_it_looks() -> None:
    weights = torch.zeros(2, 4)
    weights[0] = torch.tensor([0.0, 1e-6, 3e-6, 0.9])
    weights[1] = torch.tensor([0.0, 0.6, 0.2, 0.1])
    found = teacher_map(weights, [range(2)], torch.tensor([1, 2]))
    assert_close(found, torch.tensor([0.5, 0.5]))


def test_shared_tokens_count_once_and_blind_ones_not() -> None:
    weights = attention()
    weights[3] = 0
    found = teacher_map(weights, [range(1, 3), range(2, 4)], PATCHES_A)
    assert found is not None
    assert_close(found, loop(weights, [1, 2], PATCHES_A))
    assert teacher_map(weights, [range(3, 4)], PATCHES_A) is None
    assert teacher_map(weights, [], PATCHES_A) is None
    assert teacher_map(weights, [range(2, 2)], PATCHES_A) is None
    half = teacher_map(weights.bfloat16(), [range(1, 3)], PATCHES_A)
    assert half is not None
    assert half.dtype == torch.float32
    assert half.sum().item() == pytest.approx(1, abs=1e-6)


def test_nothing_described() -> None:
    empty = rollout({}, {})
    assert teacher_maps(attention(), empty, PATCHES_A, PATCHES_B) == (None, None)
    assert attribute_maps(attention(), empty, PATCHES_A, PATCHES_B) == ({}, {})


def test_refuses() -> None:
    with pytest.raises(ValueError, match="exceed the 12 rows"):
        teacher_map(attention(), [range(10, 13)], PATCHES_A)
    with pytest.raises(ValueError, match="patch positions"):
        teacher_map(attention(), [range(1)], torch.tensor([3, 15]))
    with pytest.raises(ValueError, match="patch positions"):
        teacher_map(attention(), [range(1)], torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="must be"):
        teacher_map(attention()[0], [range(1)], PATCHES_A)
