"""One process: the loss of its rows, and what is left out. Several: test_distribution.py."""

import pytest
import torch

from fieldmark.losses.contrastive import NO_ID, info_nce
from fieldmark.training.contrastive_loss import BatchFigures, BatchIds, contrastive_loss


def test_rows_are_queries_then_positives_then_hard_negatives():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    ids = BatchIds(2, torch.tensor([4, 8, 1, 2, 3]), torch.tensor([[4], [8]]))
    loss, figures = contrastive_loss(rows, ids, 0.1)
    expected = info_nce(rows[:2], rows[2:], torch.tensor([0, 1]), temperature=0.1)
    assert loss.item() == expected.loss.item()
    assert figures == BatchFigures(pytest.approx(loss.item()), expected.correct, 2, 5)


def test_false_negatives_are_left_out():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ids = BatchIds(2, torch.tensor([4, 8, 8, 2, 4]), torch.tensor([[4, 2], [8, NO_ID]]))
    contrastive_loss(rows, ids, 0.1)[0].backward()
    # 8 again and 2, which the first query wants too, and 4 again: only the second query's 2 has a say
    assert rows.grad[4].abs().sum() == 0 and rows.grad[6].abs().sum() == 0 and rows.grad[5].abs().sum() > 0
