"""Teacher maps for the attention alignment: where the supervisor looked while it described an attribute.

SAGA (arXiv 2606.15134, Algorithm 1, block D): for a rollout with the right verdict, the head-averaged
attention of one decoder layer from each attribute-description token of image a onto the patches of image a,
renormalised over those patches; mean over the tokens. Likewise b. The loss itself is ``losses.alignment``.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fieldmark.policy.rollouts import Rollout


def teacher_map(attention: Tensor, tokens: Iterable[range], patches: Tensor) -> Tensor | None:
    """Mean renormalised attention from some tokens onto the patches of one image.

    Args:
        attention: (T, L_prompt) attention probabilities; row t belongs to the completion's token t as the
            query, columns are positions of the prompt.
        tokens: ranges of completion tokens; a token in several ranges counts once.
        patches: int64 (N,) positions of the image's patch tokens in the prompt.

    Returns:
        (N,) float32, sums to 1, detached; None if there is no token, or none that looks at the image at all.

    Raises:
        ValueError: if tokens or patches lie outside of ``attention``, or there are no patches.
    """
    if attention.ndim != 2:
        raise ValueError(f"attention must be (T, L_prompt), got shape {tuple(attention.shape)}")
    if patches.numel() == 0 or int(patches.min()) < 0 or int(patches.max()) >= attention.shape[1]:
        raise ValueError(f"patch positions must be some of 0..{attention.shape[1] - 1}, got {patches.tolist()[:8]}")
    positions = sorted({position for span in tokens for position in span})
    if not positions:
        return None
    if positions[0] < 0 or positions[-1] >= attention.shape[0]:
        raise ValueError(f"token positions {positions[0]}..{positions[-1]} exceed the {attention.shape[0]} rows")
    rows = torch.tensor(positions, device=attention.device)
    onto = attention.detach()[rows][:, patches.to(attention.device)].float()
    mass = onto.sum(dim=1, keepdim=True)
    looking = mass[:, 0] > 0
    if not bool(looking.any()):
        return None
    average = (onto[looking] / mass[looking]).mean(dim=0)
    return average / average.sum()


def teacher_maps(
    attention: Tensor, rollout: Rollout, patches_a: Tensor, patches_b: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """``ᾱ_a`` (N_a,) and ``ᾱ_b`` (N_b,) of one rollout; None where nothing was described.

    Args:
        attention: (T, L_prompt) of this rollout, see ``teacher_map``.
        patches_a, patches_b: positions of the patches of item 1's and item 2's picture in the prompt.
    """
    first, second = rollout.attribute_tokens
    return (
        teacher_map(attention, first.values(), patches_a),
        teacher_map(attention, second.values(), patches_b),
    )


def attribute_maps(
    attention: Tensor, rollout: Rollout, patches_a: Tensor, patches_b: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As ``teacher_maps``, but one map per attribute, for looking at: attribute → (N,), item 1 and item 2."""
    maps = []
    for spans, patches in zip(rollout.attribute_tokens, (patches_a, patches_b), strict=True):
        found = {name: teacher_map(attention, [span], patches) for name, span in spans.items()}
        maps.append({name: one for name, one in found.items() if one is not None})
    return maps[0], maps[1]
