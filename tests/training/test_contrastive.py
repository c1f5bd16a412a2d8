"""Contrastive training end to end on a tiny random model: gradients against a plain graph, exact resume, errors."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tests.training.contrastive_runs import gradients, one_step, without_dropout

from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.config import ScheduleConfig
from fieldmark.training.contrastive import Contrastive, train_contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.log import read_log
from fieldmark.training.rehearsal import RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig


@pytest.fixture
def config(contrastive_config) -> ContrastiveConfig:
    return contrastive_config


def test_a_step_is_the_gradient_of_a_plain_graph(config, monkeypatch):
    """The twin: one request at a time, one graph, InfoNCE as it stands, false negatives by ids in a loop."""
    run, figures = one_step(without_dropout(config), monkeypatch)
    fast = gradients(run)

    run.model.zero_grad()
    run.model.eval()
    task, embedded, wanted = run.train, {}, {}
    examples = run.batches.batch(0)
    asked, _ = run._requests(examples, [None] * 24, batch=0)  # for the wording that the step drew
    for e, request in zip(examples, asked[:8], strict=True):
        query = task.queries[e.query]
        assert request.item == query.item and request.instruction in query.wordings
        embedded[e.query] = run.model.embed_one_word([request])[0]
        wanted[e.query] = set(task.relevance[query.id])
    columns = {}
    for place in [e.positive for e in examples] + [n for e in examples for n in e.negatives]:
        if place not in columns:
            columns[place] = run.model.embed_one_word([Request(task.candidates[place])])[0]
    total, correct = 0.0, 0
    for e in examples:
        against = [p for p in columns if p == e.positive or task.candidates[p].id not in wanted[e.query]]
        scores = torch.stack([embedded[e.query] @ columns[p] for p in against]) / 0.05
        total = total - F.log_softmax(scores, 0)[against.index(e.positive)]
        correct += int(scores.argmax()) == against.index(e.positive)
    loss = total / len(examples)
    loss.backward()
    slow = gradients(run)

    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert figures["accuracy"] == correct / 8 and figures["candidates"] == 16
    assert fast.keys() == slow.keys() and len(fast) == 42
    for name in slow:
        scale = float(slow[name].abs().max())
        assert scale > 0 and torch.allclose(fast[name], slow[name], rtol=1e-3, atol=1e-4 * scale), name


def test_neither_chunks_nor_decoding_processes_change_the_gradient(config, monkeypatch):
    plain = gradients(one_step(replace(without_dropout(config), chunk_size=100), monkeypatch)[0])
    ahead = replace(config.data, workers=1)
    for change in ({"chunk_size": 1, "data": ahead}, {"chunk_size": 5, "keep_graphs": True}):
        chunked = gradients(one_step(replace(without_dropout(config), **change), monkeypatch)[0])
        assert plain.keys() == chunked.keys()
        for name in plain:
            scale = float(plain[name].abs().max())
            assert torch.allclose(plain[name], chunked[name], rtol=1e-3, atol=1e-4 * scale), name


def test_training_learns_and_the_saved_embedder_is_the_trained_one(config):
    config = replace(config, schedule=ScheduleConfig(steps=30, validate_every=15, checkpoint_every=100, select="last"))
    run = Contrastive(config)
    frozen = {n: p.clone() for n, p in run.model.named_parameters() if not p.requires_grad}
    with run:
        while run.progress.step < run.total_steps:
            run.after_step(run.step())
    results = run.finish()
    log = [line for line in read_log(Path(config.run) / "log.jsonl") if line["kind"] == "train"]
    first, last = (sum(line["loss"] for line in part) / 5 for part in (log[:5], log[-5:]))
    assert last < 0.7 * first
    assert all(torch.equal(p, frozen[n]) for n, p in run.model.named_parameters() if n in frozen)
    assert json.loads((Path(config.run) / "results.json").read_text()) == results
    assert results["steps"] == 30 and results["queries_seen"] == 240 and results["training_queries"] == 44
    assert set(log[14]) >= {"val_recall_at_1", "val_recall_at_5", "val_recall_at_10", "adapter_lr", "padding"}

    requests = [Request(q.item, q.instruction) for q in run.held_out.queries]
    saved = load_embedder(Path(config.run) / "encoder")
    assert torch.allclose(saved.encode(requests).embeddings, run.model.encode(requests).embeddings, atol=1e-6)


def test_resume_after_a_crash_is_exact(rehearsing, tmp_path, monkeypatch):
    """Dropout, wordings, positives, negatives and summaries are drawn again as they were."""
    config = replace(rehearsing, rehearsal=replace(rehearsing.rehearsal, contrasted=0.5))
    train_contrastive(config)
    broken = replace(config, run=str(tmp_path / "broken"))
    real, calls = Contrastive.step, []

    def crash(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Contrastive, "step", crash)
    with pytest.raises(KeyboardInterrupt):
        train_contrastive(broken)
    monkeypatch.setattr(Contrastive, "step", real)
    torch.manual_seed(99)  # another process has another random state
    train_contrastive(broken, resume=True)
    whole, resumed = (saved_adapter(run) for run in (config.run, broken.run))
    assert whole.keys() == resumed.keys() and len(whole) == 42
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [
        [(line["loss"], line["rehearsal"]) for line in read_log(Path(run) / "log.jsonl")]
        for run in (config.run, broken.run)
    ]
    assert logs[0] == logs[1]


def saved_adapter(run: str) -> dict[str, torch.Tensor]:
    files = list((Path(run) / "encoder").rglob("adapter_model.safetensors"))
    assert len(files) == 1
    return load_file(files[0])


def test_dropout_leaves_torchs_random_state_alone(config, monkeypatch):
    before = torch.get_rng_state()
    run, _ = one_step(config, monkeypatch)
    assert torch.equal(torch.get_rng_state(), before)
    with run._dropout():
        first = torch.rand(3)
    with run._dropout():
        assert torch.equal(torch.rand(3), first)
    run.progress.batches += 1
    with run._dropout():
        assert not torch.equal(torch.rand(3), first)


def test_stage_one_on_triplets_then_stage_two_on_top(config, tmp_path):
    triplets = tmp_path / "nli.csv"
    rows = "".join(f"a {c} bird,something {c},nothing {c}\n" for c in ("red", "blue", "grey", "green", "black") * 5)
    triplets.write_text("sent0,sent1,hard_neg\n" + rows)
    one = replace(config, data=RetrievalDataConfig(path=str(triplets), workers=0), run=str(tmp_path / "one"))
    results = train_contrastive(one)
    assert results["candidates"] == 50
    two = replace(
        config, model=replace(config.model, base=str(tmp_path / "one" / "encoder")), run=str(tmp_path / "two")
    )
    train_contrastive(two)
    assert (tmp_path / "two" / "results.json").is_file()


@pytest.mark.distributed
def test_two_processes_train_the_same_adapter_as_one(rehearsing, tmp_path):
    """Through torchrun's variables and the command line, dropout off: 3 steps, up to float noise."""
    config = without_dropout(rehearsing)
    config = replace(config, rehearsal=replace(config.rehearsal, contrasted=0.5))
    train_contrastive(config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    d, m = config.data, config.model
    options = {
        "run": tmp_path / "two", "seed": 1, "data": d.path, "data.workers": 0, "validation.queries": 4,
        "validation.candidates": 20, "base": m.base, "model.adapter.rank": 4, "model.adapter.alpha": 8,
        "model.adapter.dropout": 0, "model.embedder.image_size": 16, "batch_size": 8, "chunk_size": 5,
        "hard_negatives": 1, "optimiser.lr": 3e-3, "schedule.steps": 3, "schedule.validate_every": 3,
        "schedule.checkpoint_every": 1, "rehearsal": config.rehearsal.path, "rehearsal.per_step": 5,
        "rehearsal.weight": 0.5, "rehearsal.contrasted": 0.5,
    }  # fmt: skip
    command = [sys.executable, "-m", "fieldmark", "train", "contrastive", *(f"--{k}={v}" for k, v in options.items())]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(command, env={**os.environ, **where, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    one, two = saved_adapter(config.run), saved_adapter(str(tmp_path / "two"))
    assert all(torch.allclose(one[name], two[name], atol=3e-4) for name in one)
    logs = [read_log(Path(run) / "log.jsonl") for run in (config.run, str(tmp_path / "two"))]
    for name in ("loss", "rehearsal"):
        assert [line[name] for line in logs[0]] == pytest.approx([line[name] for line in logs[1]], rel=1e-3)
    assert logs[0][-1]["val_recall_at_1"] == logs[1][-1]["val_recall_at_1"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"run": ""}, "--run"),
        ({"data": RetrievalDataConfig()}, "--data"),
        ({"data": RetrievalDataConfig(path="nowhere")}, "nowhere is neither"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"batch_size": 1000}, "only 44 training queries"),
        ({"mined": "nowhere"}, "nowhere holds no mined negatives"),
        ({"rehearsal": RehearsalConfig(path="nowhere")}, "no file of summaries nowhere"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(config, change, named):
    with pytest.raises(ValueError, match=named):
        train_contrastive(replace(config, **change))
    assert not Path(config.run).exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chunk_size": 0}, "chunk_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"mined": "x", "hard_negatives": 0}, "hard_negatives is 0"),
    ],
)
def test_bad_configuration_is_named(config, change, named):
    with pytest.raises(ValueError, match=named):
        replace(config, **change)


def test_generative_mode_is_refused(config):
    embedder = replace(config.model.embedder, mode="generative")
    with pytest.raises(ValueError, match="one_word"):
        train_contrastive(replace(config, model=replace(config.model, embedder=embedder)))
