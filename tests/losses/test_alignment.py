"""Attention alignment against torch's own KL divergence."""

import pytest
import torch

from fieldmark.losses import attention_alignment


def make(n=4, width=9, seed=0, dtype=torch.float32):
    """Teacher of arbitrary mass, student log-softmax over ragged patches."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(width) < torch.tensor([[9], [5], [1], [7]])[:n]
    teacher = torch.rand(n, width, generator=generator, dtype=dtype) * 0.05
    scores = torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_()
    log_student = scores.masked_fill(~mask, -torch.inf).log_softmax(1)
    return teacher, scores, log_student, mask


def test_equals_torch_kl_div_per_image():
    teacher, _, log_student, mask = make()
    found = attention_alignment(teacher, log_student, mask)
    assert found.shape == (4,)
    for i in range(4):
        target = teacher[i, mask[i]] / teacher[i, mask[i]].sum()
        expected = torch.nn.functional.kl_div(log_student[i, mask[i]], target, reduction="sum")
        torch.testing.assert_close(found[i], expected)


def test_gradient_is_student_minus_teacher_and_none_reaches_the_teacher():
    teacher, scores, log_student, mask = make(dtype=torch.float64)
    teacher = teacher.requires_grad_()
    attention_alignment(teacher, log_student, mask).sum().backward()
    assert teacher.grad is None
    target = (teacher.detach() * mask) / (teacher.detach() * mask).sum(1, keepdim=True)
    expected = torch.where(mask, log_student.detach().exp() - target, 0.0)
    torch.testing.assert_close(scores.grad, expected)


def test_zero_teacher_mass_costs_nothing_and_leaks_no_nan():
    log_student = torch.tensor([[0.5, 0.5, 0.0]]).log().requires_grad_()
    teacher = torch.tensor([[1.0, 3.0, 0.0]])
    value = attention_alignment(teacher, log_student, torch.ones(1, 3, dtype=torch.bool))
    expected = 0.25 * torch.tensor(0.25 / 0.5).log() + 0.75 * torch.tensor(0.75 / 0.5).log()
    torch.testing.assert_close(value, expected[None])
    value.sum().backward()
    torch.testing.assert_close(log_student.grad, torch.tensor([[-0.25, -0.75, 0.0]]))


def test_student_without_mass_where_the_teacher_looks_costs_infinity():
    value = attention_alignment(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, -torch.inf]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert value.item() == torch.inf


def test_padding_may_hold_anything():
    teacher, _, log_student, mask = make()
    expected = attention_alignment(teacher, log_student, mask)
    noisy_teacher = teacher.masked_fill(~mask, torch.nan)
    noisy_student = log_student.detach().masked_fill(~mask, torch.nan)
    torch.testing.assert_close(attention_alignment(noisy_teacher, noisy_student, mask), expected, rtol=0, atol=0)


def test_equal_attention_costs_zero_whatever_the_teachers_mass():
    _, _, log_student, mask = make()
    for scale in (1.0, 0.01):
        value = attention_alignment(scale * log_student.detach().exp(), log_student, mask)
        torch.testing.assert_close(value, torch.zeros(4), atol=1e-6, rtol=0)


def test_half_precision_is_computed_in_float32():
    teacher, _, log_student, mask = make()
    assert attention_alignment(teacher.bfloat16(), log_student.bfloat16(), mask).dtype == torch.float32


def test_no_image_gives_an_empty_result():
    assert attention_alignment(torch.ones(0, 3), torch.ones(0, 3), torch.ones(0, 3, dtype=torch.bool)).shape == (0,)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "row 1"),
        (torch.tensor([[1.0, -0.1], [1.0, 1.0]]), "row 0"),
        (torch.tensor([[1.0, 1.0], [torch.nan, 1.0]]), "row 1"),
        (torch.ones(2, 3), "one shape"),
    ],
)
def test_bad_teacher_is_named(teacher, message):
    with pytest.raises(ValueError, match=message):
        attention_alignment(teacher, torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_mask_must_be_bool():
    with pytest.raises(ValueError, match="bool"):
        attention_alignment(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 2))
