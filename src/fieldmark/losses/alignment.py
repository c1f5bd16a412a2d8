"""Attention alignment: the pooler learns to look where the supervisor looked (SAGA, arXiv 2606.15134)."""

import torch
from torch import Tensor


def attention_alignment(teacher: Tensor, log_student: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) over the patches of each image.

        L_KL(image) = sum_p t_p (log t_p - log s_p),   t = teacher renormalised over the image's patches

    Args:
        teacher: (n, N) attention mass per patch, not negative, of any total. A constant: no gradient reaches
            it.
        log_student: (n, N) log-probabilities of the pooler's attention, a distribution over the masked
            patches. Padding may hold anything, -inf included.
        mask: (n, N) bool, True on real patches.

    Returns:
        (n,) float32 (float64 if `log_student` is), in nats; average or weight it as the caller needs.
        0 log 0 = 0. A student that gives no mass to a patch the teacher looks at costs infinity, honestly.

    Raises:
        ValueError: shapes differ, or a teacher row is negative, not finite, or has no mass on the patches.
    """
    if not teacher.shape == log_student.shape == mask.shape or teacher.ndim != 2:
        raise ValueError(
            "teacher, log_student and mask must share one shape (n, N); got "
            f"{tuple(teacher.shape)}, {tuple(log_student.shape)}, {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; expected bool, True on real patches")
    dtype = torch.float64 if log_student.dtype == torch.float64 else torch.float32
    target = teacher.detach().to(dtype).masked_fill(~mask, 0.0)
    mass = target.sum(1, keepdim=True)
    bad = ~(mass.squeeze(1) > 0) | ~torch.isfinite(mass.squeeze(1)) | (target < 0).any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"teacher row {row} (sum over patches {float(mass[row]):g}) is not positive and finite: "
            "check that its tokens attend to the image's patches, or leave the image out"
        )
    target = target / mass
    # Patches without teacher mass leave the graph altogether: 0 * -inf would be NaN, forward and backward.
    log_student = torch.where(target > 0, log_student.to(dtype), 0.0)
    return (torch.xlogy(target, target) - target * log_student).sum(1)
