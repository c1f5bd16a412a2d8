"""Gradient checkpointing of the tower: keep a block's input only, and compute the block again in the backward pass.

transformers has a switch for it that works in training mode only. Our towers stay in evaluation mode, where it would
silently do nothing; so the blocks are wrapped here, and recompute whenever a graph is built.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from fieldmark.models.tuning import tower_blocks
from fieldmark.models.vision_tokens import VisionTower


def checkpoint_blocks(tower: VisionTower) -> None:
    """Recompute each block of the tower in the backward pass, in place. Call once.

    Values and gradients stay the same; memory falls to one block's activations and every block's input, for one more
    forward pass. Names of weights do not change.

    Raises:
        ValueError: the tower's blocks are not found.
    """
    for block in tower_blocks(tower):
        block.forward = functools.partial(_recomputed, block.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
