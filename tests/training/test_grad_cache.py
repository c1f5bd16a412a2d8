"""GradCache against one plain graph of the whole batch: every gradient, dropout and adapters included."""

import pytest
import torch
from tests.fixtures_models import tiny_backbone
from torch import nn

from fieldmark.losses.contrastive import info_nce
from fieldmark.training.grad_cache import RandomState, backward_in_chunks

CPU = torch.device("cpu")
TARGETS = torch.tensor([4, 5, 6, 7])


class Encoder(nn.Module):
    """A frozen layer with a low-rank adapter whose input is dropped out, as peft builds them, and a plain head."""

    def __init__(self, dropout: float, size: int = 6) -> None:
        super().__init__()
        self.base = nn.Linear(size, 16).requires_grad_(False)
        self.down, self.up = nn.Linear(size, 2, bias=False), nn.Linear(2, 16, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5))

    def forward(self, rows):
        return self.head(self.base(rows) + self.up(self.down(self.dropout(rows))))


def encoder(dropout: float = 0.3) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(dropout).train()


def contrast(embeddings):
    """The first four rows are queries, the other six their candidates."""
    found = info_nce(embeddings[:4], embeddings[4:], TARGETS - 4)
    return found.loss, float(found.loss.detach())


def plain(model, chunks, loss):
    """The twin: all chunks with graph at once, one backward."""
    value, found = loss(torch.cat([model(chunk) for chunk in chunks]))
    value.backward()
    return found


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [[10], [5, 5], [3, 4, 3], [1] * 10])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("keep_graphs", [False, True])
def test_equals_the_plain_batch_in_every_gradient(sizes, dropout, keep_graphs):
    found = []
    for way in (plain, lambda m, c, f: backward_in_chunks(m, c, f, CPU, keep_graphs=keep_graphs)):
        model = encoder(dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            value = way(model, rows().split(sizes), contrast)
            found.append((value, gradients(model), torch.get_rng_state()))
    (value, slow, state), (fast_value, fast, fast_state) = found
    assert fast_value == value
    assert fast.keys() == slow.keys() == {"down.weight", "up.weight", "head.2.weight", "head.2.bias"}
    for name in slow:
        assert slow[name].abs().max() > 0
        assert torch.allclose(fast[name], slow[name], rtol=1e-4, atol=1e-6), name
    assert torch.equal(fast_state, state), "the next step would drop other units than after the plain way"


def test_without_the_restored_random_state_the_gradients_differ(monkeypatch):
    """The test above can fail: dropout is what it is about."""
    found = []
    for restored in (True, False):
        if not restored:
            monkeypatch.setattr(RandomState, "restore", lambda self: None)
        model = encoder(0.3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            backward_in_chunks(model, rows().split(5), contrast, CPU)
        found.append(gradients(model))
    assert not torch.allclose(found[0]["up.weight"], found[1]["up.weight"], rtol=1e-2)


def test_gradients_are_added_to_those_that_are_there():
    model = encoder(0.0)
    backward_in_chunks(model, rows().split(5), contrast, CPU)
    once = gradients(model)
    backward_in_chunks(model, rows().split(5), contrast, CPU)
    assert all(torch.allclose(p, 2 * once[name], rtol=1e-5) for name, p in gradients(model).items())


def test_parameters_of_the_loss_get_their_gradient():
    scale = nn.Parameter(torch.tensor(2.0))

    def loss(embeddings):
        return scale * embeddings.square().mean(), None

    model = encoder(0.0)
    backward_in_chunks(model, rows().split(5), loss, CPU)
    fast = scale.grad.clone()
    scale.grad = None
    plain(encoder(0.0), rows().split(5), loss)
    assert fast == pytest.approx(scale.grad.item(), rel=1e-5)


def test_graph_of_one_chunk_at_a_time():
    """No two chunks have a graph at once: that is the memory that is saved."""
    model, alive, most = encoder(0.0), [0], [0]

    def encode(chunk):
        result = model(chunk)
        if result.requires_grad:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            result.register_hook(lambda gradient: alive.__setitem__(0, alive[0] - 1))
        return result

    backward_in_chunks(encode, rows().split(2), contrast, CPU)
    assert alive[0] == 0 and most[0] == 1


def test_each_chunk_is_encoded_once_if_graphs_are_kept():
    model, encoded = encoder(0.0), []

    def encode(chunk):
        encoded.append(len(chunk))
        return model(chunk)

    for keep_graphs, passes in ((False, 2), (True, 1)):
        encoded.clear()
        backward_in_chunks(encode, rows().split(4), contrast, CPU, keep_graphs=keep_graphs)
        assert encoded == [4, 4, 2] * passes


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_equals_the_plain_batch_through_a_vision_language_model(keep_graphs):
    """A tiny random Qwen3-VL with pictures and attention dropout, its language model trained."""
    found = []
    pixels = torch.randint(0, 256, (4, 16, 16, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    for way in (plain, lambda m, c, f: backward_in_chunks(m, c, f, CPU, keep_graphs=keep_graphs)):
        backbone = tiny_backbone()
        backbone.model.requires_grad_(True)
        backbone.train()
        for module in backbone.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.2
        prompts = [backbone.chat_prompt(text, 1) for text in ("a", "bird", "a red bird", "so")]

        def encode(chunk, backbone=backbone, prompts=prompts):
            vision = backbone.vision(backbone.pixels(pixels[list(chunk)]))
            batch = backbone.embed([prompts[i] for i in chunk], vision, [[k] for k in range(len(chunk))])
            return backbone.decode_prompts(batch)[:, -1]

        def loss(embeddings):
            result = info_nce(embeddings[:2], embeddings[2:], torch.tensor([0, 1]))
            return result.loss, result.loss.item()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            value = way(encode, [(0, 1), (2, 3)], loss)
        found.append((value, gradients(backbone)))
    (value, slow), (fast_value, fast) = found
    assert fast_value == pytest.approx(value, rel=1e-5) and fast.keys() == slow.keys() and len(fast) > 60
    for name in slow:
        assert torch.allclose(fast[name], slow[name], rtol=1e-3, atol=1e-5 * float(slow[name].abs().max()) + 1e-8), name
