"""A plain supervised loop with exact resume, and what it keeps on disk: under both bundled models' recipes."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fieldmark.experiments.tiny_model.pictures import PicturePool, draw_pool
from fieldmark.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from fieldmark.training.log import TrainingLog
from fieldmark.training.optimiser import OptimiserConfig, build_optimiser, check_losses, clip_gradients


def fit(
    folder: Path,
    modules: Mapping[str, nn.Module | Mapping[str, nn.Parameter]],
    steps: int,
    lr: float,
    loss_of: Callable[[int], Tensor],
    generator: torch.Generator,
    every: int,
) -> None:
    """Train ``modules`` (or parameters by name) in ``folder``; ``loss_of`` a step depends on nothing but the step.

    Raises:
        NonFiniteLoss: a loss that is no finite number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for m in modules.values() for p in (m.parameters() if isinstance(m, nn.Module) else m.values())]
    optimiser, scheduler = build_optimiser(
        OptimiserConfig(tower_lr=lr, weight_decay=0.02, betas=(0.9, 0.98), warmup_fraction=0.06),
        parameters,
        (),
        (),
        steps,
    )
    start, last = 0, latest_checkpoint(folder / "checkpoints")
    if last is not None:
        start = load_checkpoint(last, modules, optimiser, scheduler, {"main": generator}).step
    with TrainingLog(folder / "log.jsonl", resume_from=start or None, total_steps=steps, shown=("loss",)) as log:
        for step in range(start, steps):
            began = time.perf_counter()
            loss = loss_of(step)
            check_losses(step, loss=loss)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            clip_gradients(parameters, 1.0)
            optimiser.step()
            scheduler.step()
            log.write(step + 1, {"loss": float(loss.detach()), "step_seconds": time.perf_counter() - began})
            if (step + 1) % every == 0 and step + 1 < steps:
                save_checkpoint(
                    folder / "checkpoints", step + 1, modules, optimiser, scheduler, {"main": generator}, keep=1
                )


def kept_pool(path: Path, genera: int, nuisance: float, habitats: float, seed: int) -> PicturePool:
    """The pool, drawn once and kept beside the run (uncompressed arrays)."""
    names = ("images", "masks", "values", "species", "genus")
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return PicturePool(**{name: stored[name] for name in names})
    pool = draw_pool(genera, 4, 4, nuisance, habitats, seed)
    temporary = path.with_suffix(".writing.npz")
    np.savez(temporary, **{name: getattr(pool, name) for name in names})  # type: ignore[arg-type]
    os.replace(temporary, path)
    return pool


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_suffix(".writing")
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary)
    os.replace(temporary, path)
