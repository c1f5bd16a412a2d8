"""`fieldmark report` on runs of universal embedders."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.reading import Reader

from fieldmark.experiments.elva.run_reports import report_embedder_runs, shown_task
from fieldmark.experiments.saved_runs import are_embedder_runs
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.training.config import MetricConfig, ScheduleConfig
from fieldmark.training.contrastive import train_contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig, HeldOutConfig
from fieldmark.training.elva import train_elva
from fieldmark.training.elva_config import ElvaConfig, NegativesConfig, SummaryConfig
from fieldmark.training.embedder_model import EmbedderModelConfig
from fieldmark.training.retrieval_data import RetrievalDataConfig
from fieldmark.training.run_folder import prepare_run


@pytest.fixture(scope="module")
def runs(birds: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A contrastive run of one step, and a run of stage 3 that starts from it."""
    folder = tmp_path_factory.mktemp("runs")
    asked = EmbedderConfig(
        image_size=16,
        max_new_tokens=3,
        one_word_prompt="{text}\n{instruction}",
        generative_prompt="{text}{instruction}",
    )
    common = {
        "data": RetrievalDataConfig(path=str(birds), workers=0),
        "validation": HeldOutConfig(queries=3, candidates=8),
        "schedule": ScheduleConfig(steps=1, select="last"),
    }
    model = EmbedderModelConfig(base=str(checkpoint), adapter=AdapterConfig(rank=2, alpha=4), embedder=asked)
    train_contrastive(ContrastiveConfig(run=str(folder / "two"), model=model, batch_size=4, **common))
    generative = replace(model, base=str(folder / "two"), embedder=replace(asked, mode="generative"))
    train_elva(
        ElvaConfig(
            run=str(folder / "three"), model=generative, queries_per_step=2, summaries=SummaryConfig(group_size=2),
            negatives=NegativesConfig(hard=0, random=3), **common,
        )
    )  # fmt: skip
    return folder / "two", folder / "three"


def test_the_last_stage_three_is_compared_with_where_the_first_run_began(runs, tmp_path):
    said = []
    path = report_embedder_runs(runs, tmp_path / "report.html", say=said.append)
    text = " ".join(Reader(path.read_text(encoding="utf-8")).text.split())
    assert [one for one in said if one.startswith("measuring")] == [
        "measuring Where the first run began", "measuring Contrastive (two)", "measuring Stage 3 (three)"
    ]  # fmt: skip
    assert "Ranks before → after (Where the first run began → Stage 3 (three))" in text
    assert "of the queries of several grains" in text and "Groups with signal" in text
    assert "[RET]" in text and are_embedder_runs(runs)


def test_what_cannot_be_reported_is_named(runs, birds, tmp_path):
    assert shown_task(birds).name == "fieldguide_task0_test"
    with pytest.raises(ValueError, match="no run given"):
        report_embedder_runs([], tmp_path / "r.html")
    with pytest.raises(ValueError, match="'four' is none of the runs two, three"):
        report_embedder_runs(runs, tmp_path / "r.html", baseline="four")
    with pytest.raises(ValueError, match="two runs are called two"):
        report_embedder_runs([runs[0], runs[0]], tmp_path / "r.html")
    prepare_run(tmp_path / "saga", MetricConfig())
    with pytest.raises(ValueError, match="trained a universal embedder"):
        are_embedder_runs([runs[0], tmp_path / "saga"])
    assert not are_embedder_runs([tmp_path / "saga"])
    assert not (tmp_path / "r.html").exists()
