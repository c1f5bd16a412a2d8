"""A vocabulary proposed by the bundled model on a bundled world, and a training that uses it."""

import json

import pytest

from fieldmark.cli import main
from fieldmark.data.fieldguide.species import FIELD_MARKS, PLUMAGE
from fieldmark.experiments.fieldguide import load_recipe
from fieldmark.experiments.vocabulary import (
    VocabularyEvidenceConfig,
    VocabularyRun,
    evidence_text,
    run_vocabulary_proposal,
)
from fieldmark.policy.adjudication import Adjudicator, RolloutConfig
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.training.config import ModelConfig
from fieldmark.training.session import load_supervisor


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A world of 30 species, a proposal from 12 of them, and how good it is."""
    folder = tmp_path_factory.mktemp("vocabulary")
    words = "--seeds [5] --species 30 --per 3 --pairs 2 --classes 12 --pictures_per_class 3"
    assert main(["vocabulary", "evidence", "--out", str(folder), *words.split()]) == 0
    return folder


def test_evidence_on_a_small_world_and_what_the_supervisor_is_then_asked(out) -> None:
    result = json.loads((out / "result.json").read_text())
    said = evidence_text(result)
    assert "average precision" in said and "(0.50)" in said  # beside a ranking by lot
    (row,) = result["rows"]
    assert row["auc"] > 0.9 > row["random_auc"] and row["recall"] >= 0.75 and row["precision"] > row["random_precision"]
    proposed = load_vocabulary(out / "proposed-5.yaml")
    assert sorted(proposed.all_attributes) == sorted((*FIELD_MARKS, *PLUMAGE))
    rollouts = RolloutConfig(vocabulary=str(out / "proposed-5.yaml"))
    asked = Adjudicator(load_supervisor(ModelConfig()), rollouts)
    assert f"apart by these attributes: {', '.join(proposed.attributes)}." in asked.prompt(None).text  # type: ignore[arg-type]


def test_train_saga_takes_the_file(out, tmp_path) -> None:
    path = out / "proposed-5.yaml"
    run = tmp_path / "run"
    recipe = (
        "--data.image_size 96 --data.batch_size 8 --data.images_per_class 2 --data.workers 0 --model.embedding_size 8"
    )
    steps = "--schedule.steps 1 --pairs.pairs_per_round 2 --rollouts.group_size 2 --rollouts.attributes_per_prompt 2"
    words = f"{recipe} {steps} --rollouts.max_new_tokens 48 --pairs.max_rounds 1 --rollouts.vocabulary {path}"
    assert main(["train", "saga", "--data", str(out / "world-5"), "--run", str(run), *words.split()]) == 0
    assert str(path) in (run / "config.yaml").read_text()


def test_a_file_that_may_have_been_edited_is_kept(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("attributes: [mine]\n")
    with pytest.raises(ValueError, match="--force"):
        run_vocabulary_proposal(VocabularyRun(), path)
    with pytest.raises(ValueError, match=r"end in \.yaml"):
        run_vocabulary_proposal(VocabularyRun(), tmp_path / "mine.txt")
    assert path.read_text() == "attributes: [mine]\n"


def test_evidence_is_not_made_on_the_seeds_of_development() -> None:
    assert load_recipe().seed not in VocabularyEvidenceConfig().seeds
