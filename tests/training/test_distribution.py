"""Two gloo processes give the loss and the gradients of one: dropout, chunks, false negatives across processes."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file, save_file
from tests.training.test_grad_cache import Encoder

from fieldmark.training.contrastive_loss import BatchIds, contrastive_loss
from fieldmark.training.distribution import (
    World,
    gather_rows,
    process_group,
    require_same,
    sum_gradients,
    sum_numbers,
    world,
)
from fieldmark.training.grad_cache import backward_in_chunks

CPU = torch.device("cpu")
SIZES = (3, 2)
"""Queries of each process: not the same number."""
EXTRA = (1, 4)
"""Hard negatives of each process."""


def model(dropout: float) -> Encoder:
    torch.manual_seed(0)
    return Encoder(dropout).train()


def part(rank: int) -> tuple[torch.Tensor, BatchIds]:
    """Rows and ids of one process. Candidate 1 is process 0's second and process 1's first positive; process 1's
    hard negatives repeat it, and hold a positive (9) of process 0's third query."""
    queries, extra = SIZES[rank], EXTRA[rank]
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(2 * queries + extra, 6, generator=generator)
    ids = ([0, 1, 2, 7], [1, 3, 9, 1, 5, 6])[rank]
    positives = ([[0, -1], [1, -1], [2, 9]], [[1, -1], [3, 0]])[rank]
    return rows, BatchIds(queries, torch.tensor(ids), torch.tensor(positives))


def gradients(encoder) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def one_process(dropout: float) -> tuple[float, int, dict[str, torch.Tensor]]:
    """The twin: all rows in one graph, false negatives by an obvious loop over the whole batch, one backward."""
    encoder = model(dropout)
    rows, ids = zip(*(part(rank) for rank in (0, 1)), strict=True)
    embeddings = []
    for rank in (0, 1):
        torch.manual_seed(100 + rank)
        embeddings += [torch.cat([encoder(chunk) for chunk in rows[rank].split(2)])]
    queries = torch.cat([e[:n] for e, n in zip(embeddings, SIZES, strict=True)])
    candidates = torch.cat([e[n:] for e, n in zip(embeddings, SIZES, strict=True)])
    candidate_ids = [int(i) for one in ids for i in one.candidates]
    total, correct, row = torch.zeros(()), 0, 0
    for rank in (0, 1):
        for own in range(SIZES[rank]):
            target = own if rank == 0 else SIZES[0] + EXTRA[0] + own
            known = ids[rank].positives[own].tolist()
            kept = [
                j
                for j, one in enumerate(candidate_ids)
                if j == target or (one not in known and one not in candidate_ids[:j])
            ]
            scores = torch.cosine_similarity(queries[row][None], candidates[kept]) / 0.05
            total = total - scores.log_softmax(0)[kept.index(target)]
            correct += int(scores.argmax()) == kept.index(target)
            row += 1
    loss = total / row
    loss.backward()
    return loss.item(), correct, gradients(encoder)


def _one_of_two(rank: int, port: int, dropout: float, chunk_size: int, out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group("cpu") as here:
        assert here == world() == World(rank, 2)
        encoder = model(dropout)
        rows, ids = part(rank)
        torch.manual_seed(100 + rank)
        found = backward_in_chunks(
            encoder, rows.split(chunk_size), lambda embeddings: contrastive_loss(embeddings, ids, 0.05), CPU
        )
        sum_gradients(encoder.parameters())
        tensors = gradients(encoder)
        tensors["found"] = torch.tensor([found.loss, found.correct], dtype=torch.float64)
        save_file(tensors, Path(out) / f"{rank}.safetensors")


def start_two(function, *arguments) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(function, (port, *arguments), nprocs=2)


@pytest.mark.distributed
@pytest.mark.parametrize(("dropout", "chunk_size"), [(0.0, 100), (0.0, 1), (0.3, 2)])
def test_two_processes_give_the_gradients_of_one(tmp_path, dropout, chunk_size):
    """With dropout the twin must draw it for the same rows together: chunks of two."""
    start_two(_one_of_two, dropout, chunk_size, str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        loss, correct, expected = one_process(dropout)
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.pop("found").tolist() == [pytest.approx(loss, rel=1e-5), correct]
        assert found.keys() == expected.keys()
        for name in expected:
            assert expected[name].abs().max() > 0
            assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name


def _collectives(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group("cpu") as here:
        rows = torch.full((rank + 1, 2), float(rank + 1), requires_grad=True)
        whole = gather_rows(rows)
        assert whole[:, 0].tolist() == [1, 2, 2]
        (whole * torch.tensor([[1.0], [2.0], [3.0]]) * (rank + 1)).sum().backward()
        # every process says how its loss depends on each row: 1 + 2 times the row's own factor
        assert rows.grad[:, 0].tolist() == ([3.0], [6.0, 9.0])[rank]
        assert gather_rows(torch.tensor([rank])).tolist() == [0, 1]
        assert sum_numbers(1.0, float(rank)) == (2.0, 1.0)
        assert here.share("abcde") == ("ace", "bd")[rank]

        both, second, nobody = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad = torch.full((2,), float(rank + 1))
        if rank == 1:
            second.grad = torch.ones(2)
        sum_gradients([both, second, nobody])
        assert both.grad.tolist() == [3, 3] and second.grad.tolist() == [1, 1] and nobody.grad is None

        require_same("seed", "7")
        with pytest.raises(ValueError, match="'0' in process 0, '1' in process 1"):
            require_same("seed", str(rank))


@pytest.mark.distributed
def test_collectives_of_two_processes():
    start_two(_collectives)


def test_one_process_is_left_as_it_is():
    rows = torch.ones(2, 3, requires_grad=True)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    assert world() == World(0, 1) and world().first and gather_rows(rows) is rows
    sum_gradients([parameter])
    require_same("anything", "x")
    assert parameter.grad.item() == 1 and sum_numbers(2.0) == (2.0,) and world().share("ab") == "ab"


def test_a_launcher_that_says_half_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RANK, MASTER_ADDR, MASTER_PORT"), process_group("cpu"):
        pass
