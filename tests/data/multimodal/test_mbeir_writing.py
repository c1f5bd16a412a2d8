import json
from pathlib import Path

import pytest

from fieldmark.data.multimodal.mbeir import read_mbeir_task, read_mbeir_training
from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir

POOL = tuple(NewCandidate(n, text=f"text {n}") for n in range(4))
WORDINGS = {1: ("Find it.",)}


def collection(name: str, number: int, pool: tuple[NewCandidate, ...], candidates_of: int | None) -> NewCollection:
    queries = [
        NewQuery(0, "train", 1, {pool[0].number: 1}, text="a"),
        NewQuery(1, "test", 1, {pool[1].number: 1}, text="b"),
    ]
    pools = {(1, "train"): pool, (1, "test"): pool}
    return NewCollection(name, number, queries, pools, WORDINGS, candidates_of)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_data_sets_that_share_candidates(tmp_path: Path) -> None:
    write_mbeir(tmp_path, collection("one", 30, POOL[:3], 30), collection("two", 31, POOL[1:], 30))
    union = lines(tmp_path / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl")
    assert [one["did"] for one in union] == ["30:0", "30:1", "30:2", "30:3"]

    two = read_mbeir_task(tmp_path, "two_task1", "test")
    assert [one.id for one in two.candidates] == ["30:1", "30:2", "30:3"]
    assert two.relevance == {"31:1": {"30:2": 1.0}}
    assert two.queries[0].instruction == "Find it."

    training = read_mbeir_training(tmp_path)
    assert {query.id: dict(training.relevance[query.id]) for query in training.queries} == {
        "30:0": {"30:0": 1.0},
        "31:0": {"30:1": 1.0},
    }
    assert [query.id for query in read_mbeir_training(tmp_path, dataset="two").queries] == ["31:0"]


def test_data_sets_with_candidates_of_their_own(tmp_path: Path) -> None:
    write_mbeir(tmp_path, collection("one", 30, POOL[:2], None), collection("two", 31, POOL[:2], None))
    union = lines(tmp_path / "cand_pool" / "global" / "mbeir_union_train_cand_pool.jsonl")
    assert [one["did"] for one in union] == ["30:0", "30:1", "31:0", "31:1"]
    assert read_mbeir_task(tmp_path, "two_task1", "test").relevance == {"31:1": {"31:1": 1.0}}


@pytest.mark.parametrize(("name", "number", "expected"), [("one", 31, "own name"), ("two", 30, "own number")])
def test_one_name_and_one_number_each(tmp_path: Path, name: str, number: int, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        write_mbeir(tmp_path, collection("one", 30, POOL, None), collection(name, number, POOL, None))
    assert list(tmp_path.iterdir()) == []


def test_positive_outside_of_the_pool_is_refused(tmp_path: Path) -> None:
    bad = NewCollection("one", 30, [NewQuery(0, "test", 1, {9: 1}, text="a")], {(1, "test"): POOL}, WORDINGS)
    with pytest.raises(ValueError, match=r"one_task1 test: query 0 needs positives from its pool.*\[9\]"):
        write_mbeir(tmp_path, bad)
