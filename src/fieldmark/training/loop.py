"""What every run does around its steps: folder, log, optimiser step, validation, checkpoints, exact resume."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fieldmark.training.checkpoint import Restorable, latest_checkpoint, load_checkpoint, save_checkpoint
from fieldmark.training.config import EARLIER, ScheduleConfig
from fieldmark.training.distribution import require_same, sum_numbers, world
from fieldmark.training.log import TrainingLog
from fieldmark.training.optimiser import check_losses, clip_gradients, learning_rates
from fieldmark.training.run_folder import RunFolder, prepare_run

MAY_DIFFER = ("data.workers", "schedule.checkpoint_every", "tensorboard", "run")


@dataclass
class Progress:
    """What a run must remember besides weights: it is stored in every checkpoint."""

    step: int = 0
    batches: int = 0
    best_recall_at_1: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    """Wall time up to the checkpoint, over all starts."""


class Loop(ABC):
    """One run's moving parts. Use as a context manager around the training loop.

    A method builds what it trains and calls ``__init__`` last: nothing is written before everything else is known to
    fit. It brings `validate` and `save`. Of several processes (`training.distribution`) only the first writes; all
    restore from the same checkpoint.

    Args:
        config: the run's dataclass, with ``run`` (its folder) and ``tensorboard``.
        total_steps: optimiser steps of the whole run.
        modules: what is trained or must be remembered, by name, as `save_checkpoint` takes it.
        clip_norm: largest global norm of the gradient.
        rate_of: the optimiser's group whose learning rate is logged.
        shown: figures that the progress shows.
        resume, overwrite: as `prepare_run`.
        began: `time.perf_counter` as this start began, loading included.

    Raises:
        ValueError: no folder is given, or `prepare_run` or `load_checkpoint` refuses.
    """

    def __init__(
        self,
        config: Any,
        *,
        schedule: ScheduleConfig,
        total_steps: int,
        modules: Mapping[str, Restorable],
        generators: Mapping[str, torch.Generator],
        optimiser: Optimizer,
        scheduler: LRScheduler,
        clip_norm: float,
        rate_of: str,
        shown: tuple[str, ...],
        resume: bool,
        overwrite: bool,
        began: float,
    ) -> None:
        self._began = began
        self.total_steps = total_steps
        self.optimiser, self.scheduler = optimiser, scheduler
        self._schedule, self._clip_norm, self._rate_of = schedule, clip_norm, rate_of
        self._modules, self._generators = modules, generators
        self._shown, self._tensorboard = shown, config.tensorboard
        self.run = _open_run(config, resume, overwrite)
        self.progress = Progress()
        last = latest_checkpoint(self.run.checkpoints) if self.run.resumed else None
        require_same("the checkpoint to resume from", last.name if last else "none")
        if last is not None:
            extra = load_checkpoint(last, modules, optimiser, scheduler, generators).extra
            self.progress = Progress(**extra)

    def __enter__(self) -> Self:
        if world().first:
            self.log = TrainingLog(
                self.run.log,
                resume_from=self.progress.step if self.run.resumed else None,
                total_steps=self.total_steps,
                shown=self._shown,
                tensorboard=self.run.tensorboard if self._tensorboard else None,
            )
        else:
            self.log = TrainingLog(Path(os.devnull))
        return self

    def __exit__(self, *exception: object) -> None:
        self.log.close()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.optimiser.zero_grad(set_to_none=True)

    def update(self, losses: dict[str, float]) -> dict[str, float]:
        """Check, clip, one step of the optimiser and of its schedule. Returns figures for the log.

        Raises:
            NonFiniteLoss: before any weight has changed.
        """
        check_losses(self.progress.step, **losses)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = clip_gradients(parameters, self._clip_norm)
        rates = learning_rates(self.optimiser)
        self.optimiser.step()
        self.scheduler.step()
        self.progress.step += 1
        return {"grad_norm": norm, f"{self._rate_of}_lr": rates.get(self._rate_of, 0.0)}

    def after_step(self, figures: dict[str, Any]) -> None:
        """Log, validate and checkpoint when it is time."""
        s, p = self._schedule, self.progress
        last = p.step == self.total_steps
        if p.step % s.validate_every == 0 or last:
            with self.log.phase("validation"):
                found = self.validate()
            figures = {**figures, **{f"val_{name}": value for name, value in found.items()}}
            if found["recall_at_1"] > p.best_recall_at_1:
                p.best_recall_at_1, p.best_step = found["recall_at_1"], p.step
                if s.select == "best" and world().first:
                    self.save(self.run.encoder)
        self.log.write(p.step, figures)
        if p.step % s.checkpoint_every == 0 and not last and world().first:
            extra = {**vars(p), "seconds": self.seconds}
            save_checkpoint(
                self.run.checkpoints, p.step, self._modules, self.optimiser, self.scheduler, self._generators, extra
            )

    @property
    def seconds(self) -> float:
        """Wall time of this start, and of earlier ones up to the checkpoint that it went on from."""
        return self.progress.seconds + time.perf_counter() - self._began

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures of the validation part; ``recall_at_1`` chooses the best step."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model as users load it."""


def how_measured(seed: int, seconds: float) -> dict[str, Any]:
    """What results.json says of every run besides its figures."""
    return {"seed": seed, "seconds": seconds, "threads": torch.get_num_threads()}


def _open_run(config: Any, resume: bool, overwrite: bool) -> RunFolder:
    """`prepare_run` by the first process; the others learn what it found."""
    here = world()
    if here.first:
        run = prepare_run(config.run, config, resume, overwrite=overwrite, may_differ=MAY_DIFFER, earlier=EARLIER)
        sum_numbers(float(run.resumed))
        return run
    (resumed,) = sum_numbers(0.0)
    return RunFolder(Path(config.run), bool(resumed))
