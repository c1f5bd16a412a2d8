"""Steps of contrastive training whose gradients are looked at."""

from dataclasses import replace
from pathlib import Path

import torch

from fieldmark.training.contrastive import Contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig


def without_dropout(config: ContrastiveConfig) -> ContrastiveConfig:
    return replace(config, model=replace(config.model, adapter=replace(config.model.adapter, dropout=0.0)))


def adapter_away_from_zero(run: Contrastive) -> None:
    """A new adapter's second matrix is zero: its first one would have no gradient."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in run.model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)


def gradients(run: Contrastive) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


def one_step(config: ContrastiveConfig, monkeypatch) -> tuple[Contrastive, dict]:
    """The gradients that a step leaves; no weight is changed."""
    run = Contrastive(config, overwrite=Path(config.run).exists())
    adapter_away_from_zero(run)
    monkeypatch.setattr(Contrastive, "update", lambda self, losses: {})
    with run:
        return run, run.step()
