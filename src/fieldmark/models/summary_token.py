"""[RET], the token that ends a summary and at which its embedding is read."""

from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from fieldmark.models.backbone import Backbone
from fieldmark.models.embedding_prompts import SUMMARY_TOKEN

# How much likelier than the end-of-sequence token an untrained [RET] is to be written, by its logit.
_PREFERENCE = 1.1


class SummaryTokenEmbedding(nn.Embedding):
    """Token embeddings, one row of which is a parameter of its own.

    Only that row is trained: a gradient of the whole matrix would cost as much memory as the matrix, and where the
    output head shares the matrix, training it would train the head. The head's row for [RET] stays as it is.

    row: (D,) float32. summary_id: which row it stands for.
    """

    row: nn.Parameter
    reference_row: Tensor
    summary_id: int
    use_reference: bool

    def forward(self, input: Tensor) -> Tensor:
        embedded = super().forward(input)
        row = self.reference_row if self.use_reference else self.row
        return torch.where((input == self.summary_id)[..., None], row.to(embedded.dtype), embedded)

    def set_reference(self) -> None:
        """What the row is now, it is for the reference policy from here on."""
        self.reference_row.copy_(self.row.detach())


def add_summary_token(backbone: Backbone) -> SummaryTokenEmbedding:
    """Give the backbone's tokenizer and model the token [RET]; a second call changes nothing.

    Its row is taken from the matrices' padding, which published models have, else they grow by one row. It starts as
    a copy of the end-of-sequence token's: the model reads it as the end of its turn, and writes it, slightly
    preferred, where it would have ended its turn. A checkpoint that knows [RET] keeps its row.
    """
    embedding: Any = backbone.model.get_input_embeddings()
    if isinstance(embedding, SummaryTokenEmbedding):
        return embedding
    tokenizer = backbone.tokenizer
    known = tokenizer.get_vocab().get(SUMMARY_TOKEN, backbone.vocab_size) < backbone.vocab_size
    if not known:
        tokenizer.add_tokens([AddedToken(SUMMARY_TOKEN, special=True, normalized=False)], special_tokens=True)
    summary_id = tokenizer.convert_tokens_to_ids(SUMMARY_TOKEN)
    if summary_id >= backbone.vocab_size:
        # transformers seeds nothing here: without "mean resizing" the new row is random, and overwritten below
        with torch.random.fork_rng(devices=[]):
            backbone.model.resize_token_embeddings(summary_id + 1, mean_resizing=False)
        backbone.vocab_size = summary_id + 1
        embedding = backbone.model.get_input_embeddings()
    with torch.no_grad():
        end = backbone.stop_ids[0]
        row = embedding.weight[summary_id if known else end].float().clone()
        if not known:
            backbone.head.weight[summary_id] = backbone.head.weight[end] * _PREFERENCE
    embedding.__class__ = SummaryTokenEmbedding
    embedding.summary_id, embedding.use_reference = summary_id, False
    embedding.row = nn.Parameter(row)
    embedding.register_buffer("reference_row", row.clone(), persistent=False)
    return embedding
