import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fieldmark.training import checkpoint
from fieldmark.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from fieldmark.training.optimiser import OptimiserConfig, build_optimiser


@dataclass
class Run:
    """A small training whose steps depend on weights, moments, learning rate and the generator."""

    tower: nn.Module
    pooler: nn.Module
    centre: Tensor
    optimiser: torch.optim.AdamW
    scheduler: torch.optim.lr_scheduler.LambdaLR
    generator: torch.Generator

    @classmethod
    def new(cls, seed: int = 0, dtype: torch.dtype = torch.float32) -> "Run":
        torch.manual_seed(seed)
        tower = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).to(dtype)
        pooler = nn.Linear(4, 3, bias=False).to(dtype)
        config = OptimiserConfig(tower_lr=3e-3, pooler_lr=1e-2, warmup_fraction=0.3)
        optimiser, scheduler = build_optimiser(config, tower.parameters(), pooler.parameters(), [], 12)
        return cls(tower, pooler, torch.zeros(3), optimiser, scheduler, torch.Generator().manual_seed(seed + 100))

    def steps(self, number: int) -> None:
        for _ in range(number):
            dtype = self.pooler.weight.dtype
            images = torch.randn(5, 6, generator=self.generator).to(dtype)
            z = self.pooler(self.tower(images))
            self.optimiser.zero_grad()
            ((z - self.centre.to(dtype)) ** 2).sum().backward()
            self.optimiser.step()
            self.scheduler.step()
            self.centre.lerp_(z.detach().float().mean(0), 0.1)

    def modules(self) -> dict[str, nn.Module | dict[str, Tensor]]:
        return {"tower": self.tower, "pooler": self.pooler, "average": {"centre": self.centre}}

    def save(self, folder: Path, step: int, **more: object) -> Path:
        return save_checkpoint(
            folder, step, self.modules(), self.optimiser, self.scheduler, {"pairs": self.generator}, **more
        )

    def load(self, folder: Path) -> checkpoint.Checkpoint:
        return load_checkpoint(folder, self.modules(), self.optimiser, self.scheduler, {"pairs": self.generator})

    def everything(self) -> dict[str, object]:
        found: dict[str, object] = {"generator": self.generator.get_state(), "centre": self.centre}
        for name in ("tower", "pooler"):
            found |= {f"{name}.{k}": v for k, v in getattr(self, name).state_dict().items()}
        state = self.optimiser.state_dict()
        found |= {f"{i}.{k}": v for i, entry in state["state"].items() for k, v in entry.items()}
        return found | {"groups": state["param_groups"], "scheduler": self.scheduler.state_dict()}


def assert_identical(a: Run, b: Run) -> None:
    left, right = a.everything(), b.everything()
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name]
        if isinstance(value, Tensor):
            assert isinstance(other, Tensor) and value.dtype == other.dtype and torch.equal(value, other), name
        else:
            assert value == other, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    unbroken = Run.new(dtype=dtype)
    unbroken.steps(5)
    unbroken.save(tmp_path, 5, extra={"best": {"recall_at_1": 0.1 + 0.2}, "seen": [1, 2]})

    resumed = Run.new(seed=7, dtype=dtype)  # every value differs until it is loaded
    resumed.steps(2)
    found = resumed.load(tmp_path / "step-00000005")
    assert (found.step, found.extra) == (5, {"best": {"recall_at_1": 0.1 + 0.2}, "seen": [1, 2]})
    assert_identical(resumed, unbroken)

    unbroken.steps(6)
    resumed.steps(6)
    assert_identical(resumed, unbroken)


def test_comparison_of_the_test_above_can_fail(tmp_path: Path) -> None:
    a, b = Run.new(), Run.new()
    a.steps(3)
    b.steps(3)
    torch.rand(1, generator=b.generator)
    with pytest.raises(AssertionError, match="generator"):
        assert_identical(a, b)


def test_a_checkpoint_before_the_first_step_has_no_moments(tmp_path: Path) -> None:
    run, other = Run.new(), Run.new(seed=1)
    other.load(run.save(tmp_path, 0))
    run.steps(2)
    other.steps(2)
    assert_identical(run, other)


def test_tied_and_transposed_tensors_are_stored(tmp_path: Path) -> None:
    run = Run.new()
    base = torch.arange(6.0).reshape(2, 3)
    named = {"plain": base, "tied": base, "transposed": base.T}
    path = save_checkpoint(tmp_path, 1, {"x": named}, run.optimiser, run.scheduler, {})
    empty = {name: torch.zeros_like(tensor) for name, tensor in named.items()}
    load_checkpoint(path, {"x": empty}, run.optimiser, run.scheduler, {})
    assert all(torch.equal(empty[name], tensor) for name, tensor in named.items())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run = Run.new()
    for step in (1, 2, 10, 9_999_999_999):
        run.save(tmp_path, step, keep=3)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-00000002", "step-00000010", "step-9999999999"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert latest_checkpoint(tmp_path) == tmp_path / "step-9999999999"


def test_no_checkpoint_is_found_where_none_is(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    run = Run.new()
    run.save(tmp_path, 3, extra={"turn": 1})
    run.save(tmp_path, 3, extra={"turn": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert run.load(tmp_path / "step-00000003").extra == {"turn": 2}


@pytest.mark.parametrize("moment", ["first file", "last file", "state", "rename"])
def test_an_interrupted_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run = Run.new()
    run.steps(2)
    run.save(tmp_path, 2)
    run.steps(2)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "first file":
            patch.setattr(checkpoint, "save_file", killed)
        elif moment == "last file":
            written = iter(range(100))

            def until_last(tensors: dict[str, Tensor], path: Path) -> None:
                if next(written) == 4:
                    path.write_bytes(b"half")
                    raise Killed
                real(tensors, path)

            real = checkpoint.save_file
            patch.setattr(checkpoint, "save_file", until_last)
        elif moment == "state":
            patch.setattr(Path, "write_text", killed)
        else:
            patch.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            run.save(tmp_path, 4)

    assert any(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]
    resumed = Run.new(seed=1)
    assert resumed.load(tmp_path / "step-00000002").step == 2
    resumed.steps(2)
    assert_identical(resumed, run)
    resumed.save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize(
    "name",
    [
        "tower.safetensors",
        "average.safetensors",
        "optimiser.safetensors",
        "generators.safetensors",
        "state.json",
    ],
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named_and_nothing_is_changed(tmp_path: Path, name: str, damage: str) -> None:
    run = Run.new()
    run.steps(2)
    folder = run.save(tmp_path, 2)
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        # inside a stored number, so that the file stays well-formed
        at = len(content) - 1 if name != "state.json" else content.index(b'"last_epoch": 2') + 14
        content[at] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()

    fresh, untouched = Run.new(seed=5), Run.new(seed=5)
    with pytest.raises(CheckpointError, match=rf"{name}.*Delete the folder .*step-00000002 and resume"):
        fresh.load(folder)
    assert_identical(fresh, untouched)


def test_another_model_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    run = Run.new()
    run.steps(1)
    folder = run.save(tmp_path, 1)
    parts = (run.optimiser, run.scheduler, {"pairs": run.generator})

    wider = {**run.modules(), "pooler": nn.Linear(4, 5, bias=False)}
    with pytest.raises(CheckpointError, match=r"pooler\.weight is \(3, 4\)"):
        load_checkpoint(folder, wider, *parts)
    with pytest.raises(CheckpointError, match=r"modules differ.*'average'"):
        load_checkpoint(folder, {"tower": run.tower, "pooler": run.pooler}, *parts)
    with pytest.raises(CheckpointError, match=r"tensors of pooler differ.*'bias'"):
        load_checkpoint(folder, {**run.modules(), "pooler": nn.Linear(4, 3)}, *parts)
    with pytest.raises(CheckpointError, match=r"generators differ.*'pairs'"):
        load_checkpoint(folder, run.modules(), run.optimiser, run.scheduler, {})
    half = torch.optim.AdamW(run.pooler.parameters())
    with pytest.raises(CheckpointError, match="optimiser's groups"):
        load_checkpoint(folder, run.modules(), half, run.scheduler, {"pairs": run.generator})


def test_another_format_is_refused(tmp_path: Path) -> None:
    run = Run.new()
    folder = run.save(tmp_path, 1)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        run.load(folder)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    run = Run.new()
    with pytest.raises(ValueError, match="step is -1"):
        run.save(tmp_path, -1)
    with pytest.raises(ValueError, match="keep is 0"):
        run.save(tmp_path, 1, keep=0)
    with pytest.raises(ValueError, match="JSON"):
        run.save(tmp_path, 1, extra={"labels": {1, 2}})
    for name in ("optimiser", "../tower", ""):
        with pytest.raises(ValueError, match="module name"):
            save_checkpoint(tmp_path, 1, {name: run.tower}, run.optimiser, run.scheduler, {})
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
import torch
from torch import nn
from fieldmark.training.checkpoint import save_checkpoint
model = nn.Linear(400, 400)
optimiser = torch.optim.AdamW(model.parameters())
scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
for step in range(1, 100_000):
    nn.init.constant_(model.weight, step)
    save_checkpoint(Path(sys.argv[1]), step, {"model": model}, optimiser, scheduler, {}, extra={"step": step})
    print(step, flush=True)
"""


@pytest.mark.fault
@pytest.mark.parametrize("delay", [0.0, 0.003, 0.007, 0.013, 0.029])
def test_a_checkpoint_is_whole_after_sigkill_at_any_moment(tmp_path: Path, delay: float) -> None:
    source = Path(checkpoint.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout is not None
    for _ in range(3):
        acknowledged = int(writer.stdout.readline())
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    writer.wait()

    newest = latest_checkpoint(tmp_path)
    assert newest is not None and int(newest.name[5:]) >= acknowledged
    for folder in list_checkpoints(tmp_path):
        model = nn.Linear(400, 400)
        optimiser = torch.optim.AdamW(model.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
        found = load_checkpoint(folder, {"model": model}, optimiser, scheduler, {})
        assert found.extra == {"step": found.step}
        assert torch.equal(model.weight, torch.full_like(model.weight, found.step))
    shutil.rmtree(tmp_path)
