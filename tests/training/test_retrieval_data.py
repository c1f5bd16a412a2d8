"""Which training data a path means."""

import pytest
from tests.fixtures_retrieval import write_squares

from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task


def test_a_folder_is_mbeir_and_a_csv_is_triplets(tmp_path):
    root = write_squares(tmp_path / "mbeir")
    assert len(load_training_task(RetrievalDataConfig(str(root))).queries) == 48
    assert len(load_training_task(RetrievalDataConfig(str(root), held_out_tasks=(3,))).queries) == 24
    assert len(load_training_task(RetrievalDataConfig(str(root), dataset="squares")).queries) == 48
    triplets = tmp_path / "some.csv"
    triplets.write_text("sent0,sent1,hard_neg\na bird,an animal,a plane\n")
    assert load_training_task(RetrievalDataConfig(str(triplets))).name == "some"
    with pytest.raises(ValueError, match="CSV of triplets"):
        load_training_task(RetrievalDataConfig(str(triplets), held_out_tasks=(3,)))


def test_what_is_neither_is_named(tmp_path):
    with pytest.raises(ValueError, match="--data"):
        load_training_task(RetrievalDataConfig())
    with pytest.raises(ValueError, match="neither a folder"):
        load_training_task(RetrievalDataConfig(str(tmp_path / "x.txt")))
