"""The gradient of a loss on a large batch of embeddings, in the memory of a small chunk of it.

GradCache (Gao et al. 2021, arXiv 2101.06983, section 3.2): a contrastive loss couples all embeddings of a batch, but
given its gradient at the embeddings the encoder's part falls apart into chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

_Chunk = TypeVar("_Chunk")
_Found = TypeVar("_Found")


@dataclass(frozen=True, eq=False)
class RandomState:
    """What dropout draws from: torch's generators of the CPU and of accelerators."""

    cpu: Tensor
    accelerators: tuple[tuple[torch.device, Tensor], ...]

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        """The state at this moment, of the CPU and of ``device`` if that is a CUDA device."""
        found = () if device.type != "cuda" else ((device, torch.cuda.get_rng_state(device)),)
        return cls(torch.get_rng_state(), found)

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        for device, state in self.accelerators:
            torch.cuda.set_rng_state(state, device)


def backward_in_chunks(
    encode: Callable[[_Chunk], Tensor],
    chunks: Sequence[_Chunk],
    loss: Callable[[Tensor], tuple[Tensor, _Found]],
    device: torch.device,
    keep_graphs: bool = False,
) -> _Found:
    """Adds to every parameter the gradient of ``loss`` on the whole batch of embeddings.

    1. Each chunk is encoded without graph; the random state before it is kept.
    2. ``loss`` of all embeddings, as leaves, is differentiated down to them (and to parameters of its own).
    3. Each chunk is encoded again with its graph, from the random state it had, so that dropout drops the same; its
       part of the gradient at the embeddings goes back through it.

    Costs one more forward pass than the plain way. Afterwards torch's random state is what the plain way would have
    left, and all gradients are the plain way's: those of encoding the same chunks with graph and differentiating the
    loss once. A single chunk is encoded once, the plain way.

    With ``keep_graphs`` that plain way is taken for several chunks, too: no pass more, the memory of the whole batch.

    Args:
        encode: a chunk to its embeddings, (n, D) each. It may use dropout (from torch's own generators), and must
            otherwise give the same for the same chunk.
        chunks: at least one, in the order in which the loss wants its rows.
        loss: embeddings (sum of n, D) to a scalar, and to anything that one wants back. It may talk to other
            processes: it is called once, whatever the number of chunks.
        device: where the encoder draws its dropout.
        keep_graphs: encode each chunk once and keep the graphs of all of them.

    Returns:
        The loss's second value.
    """
    if keep_graphs or len(chunks) == 1:
        value, found = loss(torch.cat([encode(chunk) for chunk in chunks]))
        value.backward()
        return found
    states: list[RandomState] = []
    parts: list[Tensor] = []
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState.now(device))
            parts.append(encode(chunk))
    after = RandomState.now(device)
    leaf = torch.cat(parts).requires_grad_()
    value, found = loss(leaf)
    value.backward()
    assert leaf.grad is not None, "the loss does not depend on the embeddings"
    gradients = leaf.grad.split([len(part) for part in parts])
    for chunk, state, gradient in zip(chunks, states, gradients, strict=True):
        state.restore()
        encode(chunk).backward(gradient)
    after.restore()
    return found
