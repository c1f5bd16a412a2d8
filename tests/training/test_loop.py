"""What every run does around its steps, on one number that is trained."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fieldmark.training.config import ScheduleConfig
from fieldmark.training.log import read_log
from fieldmark.training.loop import Loop
from fieldmark.training.optimiser import AdapterOptimiserConfig, NonFiniteLoss, build_adapter_optimiser


@dataclass(frozen=True)
class Config:
    run: str = ""
    seed: int = 0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    tensorboard: bool = False


class One(Loop):
    """Learns the number 3; its validation is best halfway."""

    def __init__(self, config: Config, *, resume: bool = False, overwrite: bool = False) -> None:
        self.number = nn.Parameter(torch.zeros(1))
        optimiser, scheduler = build_adapter_optimiser(AdapterOptimiserConfig(lr=0.1), [self.number], [], 8)
        super().__init__(
            config,
            schedule=config.schedule,
            total_steps=8,
            modules={"one": {"number": self.number}},
            generators={},
            optimiser=optimiser,
            scheduler=scheduler,
            clip_norm=1.0,
            rate_of="adapter",
            shown=(),
            resume=resume,
            overwrite=overwrite,
            began=time.perf_counter(),
        )

    def step(self) -> dict[str, float]:
        self.zero_grad()
        loss = (self.number - 3).square().sum()
        loss.backward()
        return {"loss": loss.item(), **self.update({"loss": loss.item()})}

    def validate(self) -> dict[str, float]:
        return {"recall_at_1": 1.0 - abs(self.progress.step - 4) / 10, "recall_at_5": 1.0}

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "number.json").write_text(json.dumps(self.number.item()))


@pytest.fixture
def config(tmp_path) -> Config:
    schedule = ScheduleConfig(validate_every=2, checkpoint_every=3, select="best")
    return Config(str(tmp_path / "run"), schedule=schedule)


def work(run: One, until: int = 8) -> One:
    with run:
        while run.progress.step < until:
            run.after_step(run.step())
    return run


def test_validates_selects_and_checkpoints_when_it_is_time(config):
    run = work(One(config))
    lines = read_log(run.run.log)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "val_recall_at_1" in line] == [2, 4, 6, 8]
    assert lines[0]["adapter_lr"] > lines[7]["adapter_lr"] and lines[0]["grad_norm"] == 6.0
    assert (run.progress.best_step, run.progress.best_recall_at_1) == (4, 1.0)
    assert [path.name for path in sorted(run.run.checkpoints.iterdir())] == ["step-00000003", "step-00000006"]


def test_the_best_weights_are_kept_and_the_last_are_left_to_the_caller(config):
    run = work(One(config), until=4)
    kept = json.loads((run.run.encoder / "number.json").read_text())
    assert kept == pytest.approx(run.number.item())
    last = replace(config, run=config.run + "2", schedule=replace(config.schedule, select="last"))
    assert not work(One(last)).run.encoder.exists()


def test_resumed_is_as_unbroken(config, tmp_path):
    whole = work(One(config))
    broken = replace(config, run=str(tmp_path / "broken"))
    work(One(broken), until=5)
    resumed = One(broken, resume=True)
    assert resumed.progress.step == 3 and resumed.seconds > resumed.progress.seconds > 0
    assert torch.equal(work(resumed).number, whole.number)
    plain = [[{**line, "seconds": 0} for line in read_log(run.run.log)] for run in (whole, resumed)]
    assert plain[0] == plain[1]


def test_a_loss_that_is_not_finite_changes_nothing(config):
    run = One(config)
    with run, pytest.raises(NonFiniteLoss, match="loss is nan"):
        run.update({"loss": float("nan")})
    assert run.number.item() == 0 and run.progress.step == 0
