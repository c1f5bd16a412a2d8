import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family

from fieldmark.models.backbone import load_backbone
from fieldmark.models.summary_token import add_summary_token


@pytest.mark.parametrize("name", sorted(TINY))
def test_only_its_own_row_is_different(name, tmp_path):
    save_tiny_family(tmp_path / name, name)
    backbone = load_backbone(tmp_path / name)
    ids = torch.arange(len(backbone.tokenizer))
    hidden = torch.randn(3, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    before, logits = backbone.token_embeddings(ids), backbone.logits(hidden)
    rows = backbone.vocab_size
    token = add_summary_token(backbone)
    assert backbone.vocab_size == rows and token.summary_id == len(ids)  # published matrices are padded
    assert add_summary_token(backbone) is token
    assert torch.equal(backbone.token_embeddings(ids), before)
    assert torch.equal(backbone.logits(hidden)[:, : len(ids)], logits[:, : len(ids)])
    end = backbone.stop_ids[0]
    torch.testing.assert_close(backbone.logits(hidden)[:, token.summary_id], 1.1 * logits[:, end])
    # trained: the row moves, neither the rest nor the head does
    backbone.model.requires_grad_(False)
    token.row.requires_grad_(True)
    asked = torch.tensor([[3, token.summary_id, 5], [token.summary_id, 4, 4]])
    (backbone.token_embeddings(asked) * torch.arange(6.0).view(2, 3, 1)).sum().backward()
    torch.testing.assert_close(token.row.grad, torch.full_like(token.row, 1.0 + 3.0))
    with torch.no_grad():
        token.row += 1
    torch.testing.assert_close(backbone.token_embeddings(asked)[0, 1], before[end] + 1)
    assert torch.equal(backbone.token_embeddings(ids), before)
    torch.testing.assert_close(backbone.logits(hidden)[:, token.summary_id], 1.1 * logits[:, end])
    token.use_reference = True
    torch.testing.assert_close(backbone.token_embeddings(asked)[0, 1], before[end])


def test_a_checkpoint_that_knows_it_keeps_its_rows(tmp_path):
    save_tiny_family(tmp_path / "base", "qwen3_vl")
    backbone = load_backbone(tmp_path / "base")
    backbone.tokenizer.add_tokens(["[RET]"], special_tokens=True)
    head = backbone.head.weight.detach().clone()
    row = backbone.model.get_input_embeddings().weight[-5].detach().clone()
    token = add_summary_token(backbone)
    assert token.summary_id == len(head) - 5
    assert torch.equal(backbone.head.weight, head) and torch.equal(token.row, row)
