"""8-bit moments: near the float ones, resumed bit for bit, refused where they would silently be something else."""

import sys

import pytest
import torch
from torch import nn

from fieldmark.training.checkpoint import load_checkpoint, save_checkpoint
from fieldmark.training.optimiser import OptimiserConfig, build_optimiser, learning_rates

WIDTH = 96  # 96 x 96 numbers are more than the 4,096 below which moments stay float32


class Run:
    def __init__(self, kind: str, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.tower, self.pooler = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)
        config = OptimiserConfig(tower_lr=1e-3, pooler_lr=2e-3, warmup_fraction=0.2, weight_decay=0.1, kind=kind)
        self.optimiser, self.scheduler = build_optimiser(
            config, self.tower.parameters(), self.pooler.parameters(), [], 20
        )
        self.generator = torch.Generator().manual_seed(3)

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.optimiser.zero_grad()
            inputs = torch.randn(16, WIDTH, generator=self.generator)
            self.pooler(self.tower(inputs).tanh()).square().mean().backward()
            self.optimiser.step()
            self.scheduler.step()

    def parts(self):
        modules = {"tower": self.tower, "pooler": self.pooler}
        return modules, self.optimiser, self.scheduler, {"data": self.generator}

    def weights(self) -> list[torch.Tensor]:
        return [*self.tower.parameters(), *self.pooler.parameters()]


@pytest.fixture(scope="module", autouse=True)
def library():
    pytest.importorskip("bitsandbytes")


def test_steps_are_near_those_of_float_moments():
    start, exact, small = Run("adamw").weights(), Run("adamw"), Run("adamw_8bit")
    exact.steps(10)
    small.steps(10)
    for before, a, b in zip(start, exact.weights(), small.weights(), strict=True):
        assert (a - b).norm() < 0.05 * (a - before).norm()
    state = small.optimiser.state[small.tower.weight]
    assert state["state1"].dtype == torch.uint8 and state["state1"].numel() == WIDTH**2
    assert small.optimiser.state[small.pooler.weight]["state1"].dtype == torch.float32
    assert learning_rates(small.optimiser) == learning_rates(exact.optimiser)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path):
    unbroken = Run("adamw_8bit")
    unbroken.steps(4)
    folder = save_checkpoint(tmp_path, 4, *unbroken.parts())
    resumed = Run("adamw_8bit", seed=5)
    resumed.steps(1)
    load_checkpoint(folder, *resumed.parts())
    unbroken.steps(5)
    resumed.steps(5)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.weights(), resumed.weights(), strict=True))
    for a, b in zip(unbroken.weights(), resumed.weights(), strict=True):
        one, other = unbroken.optimiser.state[a], resumed.optimiser.state[b]
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]) if torch.is_tensor(value) else value == other[key], key


def test_what_would_silently_be_something_else_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="choose one of adamw, adamw_8bit, adamw_8bit_paged"):
        OptimiserConfig(kind="lion")
    with pytest.raises(ValueError, match="needs a CUDA device, not cpu"):
        Run("adamw_8bit_paged")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModuleNotFoundError, match=r"fieldmark\[eight-bit\]"):
        Run("adamw_8bit")
