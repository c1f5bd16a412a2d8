"""Summaries that a model writes about training data are what it writes greedily, and can be rehearsed."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

from fieldmark.data.summaries import read_summaries
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.experiments.summarising import SummariesConfig, write_summaries
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.rehearsal import Rehearsal, RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task

PROMPTS = EmbedderConfig(mode="generative", image_size=16, max_new_tokens=6)


@pytest.fixture
def config(tmp_path: Path) -> SummariesConfig:
    return SummariesConfig(
        embedder=str(save_tiny(tmp_path / "checkpoint")),
        out=str(tmp_path / "out" / "summaries.jsonl"),
        data=RetrievalDataConfig(path=str(write_squares(tmp_path / "mbeir")), workers=0),
        prompts=PROMPTS,
        queries=7,
        candidates=5,
        encoding=EncodingConfig(workers=0),
    )


def test_greedy_summaries_are_written_once_and_fit_their_data(config: SummariesConfig):
    report = write_summaries(config)
    known = read_summaries(report.file)
    assert report.written == len(known) and report.written + report.empty == 12 and str(report.file) in report.as_text()
    task, model = load_training_task(config.data), load_embedder(config.embedder, config=PROMPTS)
    queries, candidates = {q.id: q for q in task.queries}, {c.id: c for c in task.candidates}
    for one in known:
        query = queries.get(one.id) if one.of == "query" else None
        request = Request(candidates[one.id]) if query is None else Request(query.item, query.instruction)
        assert model.encode([request]).summaries == (one.summary,)
    assert len(Rehearsal(RehearsalConfig(path=str(report.file)), task, seed=0)) == len(known)
    with pytest.raises(ValueError, match="exists already"):
        write_summaries(config)


def test_summaries_of_other_data_are_refused(config: SummariesConfig, tmp_path: Path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"qid": "99:1", "summary": "a bird"}\n')
    with pytest.raises(ValueError, match="sums up no query"):
        Rehearsal(RehearsalConfig(path=str(file)), load_training_task(config.data), seed=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"embedder": ""}, "--embedder"),
        ({"out": ""}, "--out"),
        ({"data": RetrievalDataConfig()}, "--data"),
    ],
)
def test_bad_input_is_named(config: SummariesConfig, change: dict, named: str):
    with pytest.raises(ValueError, match=named):
        write_summaries(replace(config, **change))
    with pytest.raises(ValueError, match="need queries or candidates"):
        SummariesConfig(queries=0, candidates=0)
    with pytest.raises(ValueError, match="generative"):
        SummariesConfig(prompts=EmbedderConfig())
