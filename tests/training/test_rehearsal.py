"""Summaries that are rehearsed and contrasted beside a batch: gradients against plain graphs, what is drawn, errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.training.contrastive_runs import gradients, one_step, without_dropout

from fieldmark.data.summaries import read_summaries
from fieldmark.models.embedding_prompts import Request
from fieldmark.training.contrastive import Contrastive
from fieldmark.training.contrastive_loss import contrastive_loss
from fieldmark.training.rehearsal import Rehearsal, RehearsalConfig


def test_rehearsal_adds_the_cross_entropy_of_summaries(rehearsing, monkeypatch):
    """The twin: one summary at a time, all logits, a plain softmax; [RET] is the last target."""
    config = without_dropout(rehearsing)
    plain = gradients(one_step(replace(config, rehearsal=RehearsalConfig()), monkeypatch)[0])
    run, figures = one_step(config, monkeypatch)
    fast = gradients(run)

    run.model.zero_grad()
    run.model.eval()
    assert run.rehearsal is not None and len(run.rehearsal) == len(run.train.queries) + len(run.train.candidates)
    known = {(one.of, one.id): one.summary for one in read_summaries(Path(config.rehearsal.path))}
    backbone, total, count, pictured = run.model.backbone, 0.0, 0, 0
    places = run.rehearsal.places(0)
    assert len(places) == 5 and places != run.rehearsal.places(1)
    rng = np.random.default_rng([1, 6, 0])
    for place in places:
        first = len(run.train.queries)
        if place < first:
            query = run.train.queries[place].reworded(rng)
            request = Request(query.item, query.instruction)
        else:
            request = Request(run.train.candidates[place - first])
        pictured += request.item.image is not None
        summary = known["query" if place < first else "candidate", request.item.id]
        ids = backbone.tokenizer(summary, add_special_tokens=False)["input_ids"]
        target = torch.tensor([*ids, run.model.summary_id])
        seen = run.model.pictures([request])
        batch = backbone.embed([run.model.prompt(request, "generative")], seen.vision, seen.of, suffixes=[ids])
        logits = backbone.logits(backbone.decode_prompts(batch))[0, -len(target) :]
        total = total + F.cross_entropy(logits, target, reduction="sum")
        count += len(target)
    assert 0 < pictured < 5
    loss = total / count
    (0.5 * loss).backward()
    slow = gradients(run)

    assert figures["rehearsal"] == pytest.approx(loss.item(), rel=1e-4)
    for name in fast:
        expected = plain[name] + slow.get(name, torch.zeros(()))
        scale = float(expected.abs().max())
        assert scale > 0 and torch.allclose(fast[name], expected, rtol=1e-3, atol=1e-4 * scale), name


def test_a_share_of_the_batch_is_contrasted_behind_its_summaries(rehearsing, monkeypatch):
    """The twin: one request at a time, behind its summary or in one word, in one graph."""
    config = without_dropout(rehearsing)
    config = replace(config, rehearsal=replace(config.rehearsal, contrasted=0.6, alone=0.4))
    monkeypatch.setattr(Rehearsal, "backward", lambda *_: 0.0)  # twinned above
    run, figures = one_step(config, monkeypatch)
    fast = gradients(run)

    run.model.zero_grad()
    run.model.eval()
    known = {(one.of, one.id): one.summary for one in read_summaries(Path(config.rehearsal.path))}
    examples = run.batches.batch(0)
    asked, summaries = run._requests(examples, [None] * 24, batch=0)
    rows, hidden = [], 0
    for number, (request, summary) in enumerate(zip(asked, summaries, strict=True)):
        if summary is None:
            rows.append(run.model.embed_one_word([request])[0])
            continue
        kind = "query" if number < len(examples) else "candidate"
        ids = run.model.backbone.tokenizer(known[kind, request.item.id], add_special_tokens=False)["input_ids"]
        assert summary.tolist() == [*ids, run.model.summary_id]
        if request.hidden:
            hidden += 1
            filled = run.model.config.generative_prompt.replace("{text}\n{instruction}\n", "")
            prompt = run.model.backbone.chat_prompt(filled.replace("{content}", ""), 0)
            seen = run.model.pictures([])
            batch = run.model.backbone.embed([prompt], seen.vision, [()], suffixes=[summary.tolist()])
        else:
            seen = run.model.pictures([request])
            prompt = run.model.prompt(request, "generative")
            batch = run.model.backbone.embed([prompt], seen.vision, seen.of, suffixes=[summary.tolist()])
        rows.append(F.normalize(run.model.backbone.decode_prompts(batch)[0, -1], dim=0))
    behind = [summary is not None for summary in summaries]
    assert 0 < sum(behind[:8]) < 8 and 0 < sum(behind[8:]) < len(behind) - 8, "both, of queries and of candidates"
    assert 0 < hidden < sum(behind)
    loss, _ = contrastive_loss(torch.stack(rows), run._ids(examples), config.temperature)
    loss.backward()

    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, gradient in gradients(run).items():
        scale = float(gradient.abs().max())
        assert scale > 0 and torch.allclose(fast[name], gradient, rtol=1e-3, atol=1e-4 * scale), name


def test_each_step_draws_its_summaries_anew_and_alike_in_every_process(rehearsing):
    config = replace(rehearsing, rehearsal=replace(rehearsing.rehearsal, contrasted=0.7, alone=0.5))
    run = Contrastive(config)
    with run:
        assert run.rehearsal is not None
        places = list(range(len(run.train.queries)))
        requests = [Request(q.item, q.instruction) for q in run.train.queries]

        def drawn(some: slice, batch: int) -> list[tuple[bool, bool]]:
            asked, summaries = run.rehearsal.behind_summaries(run.model, requests[some], places[some], batch)
            return [(s is not None, a.hidden) for a, s in zip(asked, summaries, strict=True)]

        first, later = drawn(slice(None), 0), drawn(slice(None), 1)
        assert first == drawn(slice(None), 0) != later
        assert drawn(slice(3, 6), 0) == first[3:6], "nothing depends on the others of the batch"
        behind, hidden = (sum(one[i] for one in first + later) for i in (0, 1))
        assert 0.5 < behind / (2 * len(places)) < 0.9 and 0.3 < hidden / behind < 0.7
        assert not any(h and not b for b, h in first + later), "in one word the prompt is all there is"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"per_step": 0}, "per_step of at least 1"),
        ({"weight": 0.0}, "a positive weight"),
        ({"path": "x", "contrasted": 1.5}, "from 0 to 1, got 1.5"),
        ({"contrasted": 0.5}, "set rehearsal.path"),
        ({"path": "x", "contrasted": 0.5, "alone": -0.1}, "from 0 to 1, got -0.1"),
        ({"path": "x", "alone": 0.5}, "set contrasted"),
    ],
)
def test_bad_rehearsal_is_named(settings, named):
    with pytest.raises(ValueError, match=named):
        RehearsalConfig(**settings)
