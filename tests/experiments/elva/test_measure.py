"""What `measure_embedder` says, against the commands that evaluate an embedder one question at a time."""

import json
from pathlib import Path

import numpy as np
import pytest

from fieldmark.data.multimodal.mbeir import read_mbeir_task
from fieldmark.evaluation.embedding import EncodingConfig, encode_all
from fieldmark.evaluation.mbeir import MbeirConfig, evaluate_mbeir
from fieldmark.evaluation.mrbench import MrbenchConfig, evaluate_mrbench
from fieldmark.experiments.elva.measure import ElvaFigures, measure_embedder, measure_mbeir
from fieldmark.experiments.mrbench_building import MrbenchBuildConfig, build_mrbench
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder

IN_LINE = EncodingConfig(batch_size=16, workers=0)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> UniversalEmbedder:
    prompt = "{text}\n{instruction}\nSum up: "
    return load_embedder(
        checkpoint,
        config=EmbedderConfig(mode="generative", image_size=16, max_new_tokens=3, generative_prompt=prompt),
    )


@pytest.fixture(scope="module")
def benchmark(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    build_mrbench(MrbenchBuildConfig(str(birds), per_task=6), out)
    return out / "mrbench.jsonl"


@pytest.fixture(scope="module")
def figures(model: UniversalEmbedder, birds: Path, benchmark: Path) -> ElvaFigures:
    return measure_embedder(model, birds, benchmark=benchmark, encoding=IN_LINE)


def test_recall_is_that_of_the_local_pools(figures: ElvaFigures, model: UniversalEmbedder, birds: Path) -> None:
    table = evaluate_mbeir(model, MbeirConfig(str(birds), pools=("local",)), IN_LINE, np.random.default_rng(0))
    assert {name: one.mean for name, one in figures.recall.items()} == {str(r.name): r.score for r in table.rows}
    assert figures.average == pytest.approx(table.average("local"))
    assert model.cache is None  # as before


def test_grains_of_text_queries(figures: ElvaFigures, model: UniversalEmbedder, birds: Path) -> None:
    task = read_mbeir_task(birds, "fieldguide_task0")
    counts = [len(query.grains) for query in task.queries]
    assert {level: one.queries for level, one in figures.by_grains.items()} == {n: counts.count(n) for n in set(counts)}
    assert figures.single_grain is not None and figures.single_grain.mean == figures.by_grains[1].mean
    several = [hit for hit, count in zip(figures.hits, counts, strict=True) if count > 1]
    assert figures.multi_grain is not None and figures.multi_grain.mean == np.mean(several)
    assert figures.multi_grain.low <= figures.multi_grain.mean <= figures.multi_grain.high
    assert figures.multi_grain_hits.tolist() == figures.as_json()["multi_grain_hits"] == several
    assert figures.hits.mean() == figures.recall["fieldguide_task0"].mean


def test_sensitivity_compliance_and_benchmark(
    figures: ElvaFigures, model: UniversalEmbedder, birds: Path, benchmark: Path
) -> None:
    config = MrbenchConfig(str(benchmark), str(birds))
    plain = evaluate_mrbench(model, config, IN_LINE, np.random.default_rng(0))
    assert figures.mrbench is not None and figures.mrbench.average == plain.average
    # the benchmark takes some of the queries of several grains; sensitivity here is of all of them
    assert figures.sensitivity is not None and figures.compliance is not None
    assert len(figures.sensitivity.distances) >= len(plain.sources[0].sensitivity.distances)
    assert 0 < figures.compliance.satisfied <= 1 and figures.compliance.num_with_both > 0


def test_summaries_are_counted_and_compared_with_the_facts(
    figures: ElvaFigures, model: UniversalEmbedder, birds: Path
) -> None:
    assert figures.queries.requests == sum(one.queries for one in figures.recall.values())
    pools = [read_mbeir_task(birds, name).candidates for name in figures.recall]
    assert figures.candidates.requests == len({one.id for pool in pools for one in pool})
    forced = encode_all(model, read_mbeir_task(birds, "fieldguide_task4").queries, IN_LINE).forced
    assert sum(forced) > 0 and 0 < figures.queries.forced <= 1 and 1 <= figures.queries.tokens <= 4 + 12
    assert set(figures.truth) == {*figures.recall, "candidates"}
    assert figures.truth["candidates"].unreadable == 1  # a random model writes nothing that could be read


def test_one_word_mode_has_no_summaries(checkpoint: Path, birds: Path) -> None:
    model = load_embedder(checkpoint, config=EmbedderConfig(mode="one_word", image_size=16))
    figures = measure_embedder(model, birds, encoding=IN_LINE)
    assert figures.truth == {} and figures.queries.tokens is None and figures.candidates.forced is None
    text = json.dumps(figures.as_json())
    assert json.loads(text)["mode"] == "one_word" and '"mrbench": null' in text


def test_some_of_the_queries_in_the_whole_pool(checkpoint: Path, birds: Path) -> None:
    model = load_embedder(checkpoint, config=EmbedderConfig(mode="one_word", image_size=16))
    some = measure_embedder(model, birds, most_queries=3, encoding=IN_LINE)
    assert {one.queries for one in some.recall.values()} == {3} and some.queries.requests == 12
    table = measure_mbeir(model, birds, encoding=IN_LINE)
    assert some.candidates.requests == len(read_mbeir_task(birds, "fieldguide_task0").candidates) + len(
        read_mbeir_task(birds, "fieldguide_task3").candidates
    )
    assert table["average"] == pytest.approx(np.mean([one["mean"] for one in table["recall"].values()]))
    assert table["recall"].keys() == some.recall.keys() and table["mrbench"] is None
