"""Summaries that a model writes about training data are what it writes greedily, and can be rehearsed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir
from fieldmark.data.retrieval import RetrievalTask
from fieldmark.data.summaries import KnownSummary, read_summaries
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.experiments.summarising import SummariesConfig, WritingConfig, write_summaries
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.training.rehearsal import Rehearsal, RehearsalConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task

PROMPTS = EmbedderConfig(mode="generative", image_size=16, max_new_tokens=6)


@pytest.fixture
def config(tmp_path: Path) -> SummariesConfig:
    return SummariesConfig(
        embedder=str(save_tiny(tmp_path / "checkpoint")),
        out=str(tmp_path / "out" / "summaries.jsonl"),
        data=RetrievalDataConfig(path=str(write_squares(tmp_path / "mbeir")), workers=0),
        prompts=WritingConfig(image_size=16, max_new_tokens=6),
        queries=7,
        candidates=5,
        encoding=EncodingConfig(workers=0),
    )


def assert_written_by(model: UniversalEmbedder, task: RetrievalTask, known: Sequence[KnownSummary]) -> None:
    queries, candidates = {q.id: q for q in task.queries}, {c.id: c for c in task.candidates}
    for one in known:
        query = queries.get(one.id) if one.of == "query" else None
        request = Request(candidates[one.id]) if query is None else Request(query.item, query.instruction)
        assert model.encode([request]).summaries == (one.summary,)


def test_greedy_summaries_are_written_once_and_fit_their_data(config: SummariesConfig):
    report = write_summaries(config)
    known = read_summaries(report.file)
    assert report.written == len(known) and report.written + report.empty == 12 and str(report.file) in report.as_text()
    task, model = load_training_task(config.data), load_embedder(config.embedder, config=PROMPTS)
    assert_written_by(model, task, known)
    assert len(Rehearsal(RehearsalConfig(path=str(report.file)), task, seed=0)) == len(known)
    with pytest.raises(ValueError, match="exists already"):
        write_summaries(config)


def test_a_saved_embedder_is_asked_in_its_own_words(config: SummariesConfig, tmp_path: Path):
    """Its prompt, picture size and budget; what is said wins."""
    saved = EmbedderConfig(image_size=16, max_new_tokens=6, generative_prompt="Of {text} and {instruction} say: ")
    model = load_embedder(config.embedder, config=saved)
    model.save_pretrained(tmp_path / "saved")
    own = replace(config, embedder=str(tmp_path / "saved"), prompts=WritingConfig())
    known = read_summaries(write_summaries(own).file)
    model.config = replace(saved, mode="generative")
    assert_written_by(model, load_training_task(config.data), known)
    other = replace(
        own, out=str(tmp_path / "other.jsonl"), prompts=WritingConfig(generative_prompt="{text}{instruction}")
    )
    assert read_summaries(write_summaries(other).file) != known


def test_summaries_of_other_data_are_refused(config: SummariesConfig, tmp_path: Path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"qid": "99:1", "summary": "a bird"}\n')
    with pytest.raises(ValueError, match="sums up no query"):
        Rehearsal(RehearsalConfig(path=str(file)), load_training_task(config.data), seed=0)


def write_annotated(root: Path) -> Path:
    """Two queries with grains and one without; candidate 3 answers none, and 2 lacks a grain of what it answers."""
    (root / "mbeir_images").mkdir(parents=True)
    queries = [
        NewQuery(1, "train", 1, {1: 2, 2: 1}, text="hooked and red", grains=("hooked", "red")),
        NewQuery(2, "train", 1, {1: 2}, text="barred", grains=("barred",)),
        NewQuery(3, "train", 1, {2: 2}, text="something else"),
    ]
    facts = {2: ("hooked", "blue")}
    pool = [NewCandidate(number, text=f"bird {number}", facts=facts.get(number, ())) for number in (1, 2, 3)]
    write_mbeir(root, NewCollection("birds", 10, queries, {(1, "train"): pool}, {1: ("Find it.",)}))
    return root


def test_grains_are_the_summaries_of_queries_and_of_what_answers_them(tmp_path: Path):
    config = SummariesConfig(
        annotated=True,
        drafts=20,
        out=str(tmp_path / "summaries.jsonl"),
        data=RetrievalDataConfig(path=str(write_annotated(tmp_path / "mbeir"))),
    )
    report = write_summaries(config)
    known = set(read_summaries(report.file))
    both = ("hooked, red", "red, hooked")
    assert known == {
        *(KnownSummary("query", "10:1", text) for text in both),
        KnownSummary("query", "10:2", "barred"),
        *(KnownSummary("candidate", "10:1", text) for text in (*both, "barred")),
        KnownSummary("candidate", "10:2", "hooked"),
    }
    assert report.written == 7 and report.empty == 2 and "of 2 more no grains are known" in report.as_text()
    again = replace(config, out=str(tmp_path / "again.jsonl"))
    assert write_summaries(again).file.read_bytes() == report.file.read_bytes()


def test_a_collection_without_grains_needs_a_model(config: SummariesConfig):
    with pytest.raises(ValueError, match="lists no grains"):
        write_summaries(replace(config, embedder="", annotated=True))
    with pytest.raises(ValueError, match="need no model"):
        replace(config, annotated=True)
    with pytest.raises(ValueError, match="drafts"):
        replace(config, drafts=2)


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
