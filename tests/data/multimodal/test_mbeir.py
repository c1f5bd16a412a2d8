import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.data.multimodal.conftest import candidate, change, query, write_lines, write_text

from fieldmark.data.multimodal.json_lines import JsonLines
from fieldmark.data.multimodal.mbeir import HeldOut, read_mbeir_task, read_mbeir_training, read_qrels
from fieldmark.data.multimodal.mbeir_layout import OFFICIAL, TaskName, find_tasks
from fieldmark.data.retrieval import RetrievalTask


@pytest.fixture(autouse=True)
def no_warnings():
    """Whatever is not expected to warn must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_text_to_image(mini: Path) -> None:
    task = read_mbeir_task(mini, "mscoco_task0")
    assert task.name == "mscoco_task0_test" and task.cutoff == 5
    assert [q.id for q in task.queries] == ["9:1", "9:2"]
    first = task.queries[0]
    assert first.item.text == "a dog" and first.item.image is None and first.item.modality == "text"
    assert first.instruction == "coco a" and first.wordings == ("coco a", "coco b", "coco c", "coco d")
    assert [c.id for c in task.candidates] == ["9:1", "9:2", "9:3", "9:4"]  # COCO's pool of its test split
    assert task.candidates[0].text is None and task.candidates[0].image == mini / (
        "mbeir_images/mscoco_images/val2014/1.png"
    )
    assert task.relevance == {"9:1": {"9:1": 1.0}, "9:2": {"9:2": 1.0, "9:3": 1.0}}


def test_picture_with_text_grains_and_negatives(mini: Path) -> None:
    task = read_mbeir_task(mini, TaskName("fashioniq", 7))
    one = task.queries[0]
    assert one.item.modality == "image,text" and one.grains == ("dress", "red") and one.negatives == ("7:10",)
    assert task.cutoff == 10  # FashionIQ and Fashion200K


def test_empty_wordings_are_passed_over(mini: Path) -> None:
    assert read_mbeir_task(mini, "mscoco_task3").queries[0].wordings == ("caption a", "caption b", "caption c")


def test_training_draws_a_wording_and_evaluation_does_not(mini: Path) -> None:
    one = read_mbeir_task(mini, "mscoco_task0").queries[0]
    drawn = [one.reworded(np.random.default_rng(seed)).instruction for seed in range(40)]
    assert set(drawn) == set(one.wordings)
    assert drawn == [one.reworded(np.random.default_rng(seed)).instruction for seed in range(40)]
    assert one.instruction == "coco a"


def test_global_pool_holds_everything(mini: Path) -> None:
    task = read_mbeir_task(mini, "nights_task4", pool="global")
    assert len(task.candidates) == 13 and {c.modality for c in task.candidates} == {"text", "image"}


def test_task_names() -> None:
    assert len(OFFICIAL) == 16 and str(OFFICIAL[0]) == "visualnews_task0"
    assert {str(n) for n in OFFICIAL if n.cutoff == 10} == {"fashion200k_task0", "fashion200k_task3", "fashioniq_task7"}
    with pytest.raises(ValueError, match=r"no task 5 \(5 is unused"):
        TaskName("x", 5)
    with pytest.raises(ValueError, match="named like cirr_task7, got 'cirr'"):
        TaskName.parse("cirr")


def test_tasks_that_are_there(mini: Path) -> None:
    (mini / "query" / "test" / "mbeir_my_shop_task1_test.jsonl").write_text("")
    names = [str(name) for name in find_tasks(mini, "test")]
    assert names == ["mscoco_task0", "mscoco_task3", "nights_task4", "fashioniq_task7", "my_shop_task1"]
    with pytest.raises(ValueError, match="has no queries"):
        find_tasks(mini, "val")


# --- training


def ids(task: RetrievalTask) -> list[str]:
    return [one.id for one in task.queries]


def test_union_training_file(mini: Path) -> None:
    task = read_mbeir_training(mini)
    assert ids(task) == ["9:21", "4:21", "7:21", "9:21"] and len(task.candidates) == 13
    assert [one.instruction for one in task.queries] == ["coco a", "same a", "change a", "coco a"]
    assert task.relevance["7:21"] == {"7:10": 1.0, "7:11": 1.0} and task.relevance["4:21"] == {"4:5": 1.0}
    assert list(task.relevance) == ["9:21", "4:21", "7:21"] and len(task.relevance) == 3
    with pytest.raises(KeyError):
        task.relevance["9:99"]


@pytest.mark.parametrize(
    ("held_out", "left"),
    [
        (HeldOut(tasks=(4,)), ["9:21", "7:21", "9:21"]),
        (HeldOut(datasets=("mscoco",)), ["4:21", "7:21"]),
        (HeldOut(tasks=(7,), datasets=("mscoco",)), ["4:21"]),
    ],
)
def test_held_out_tasks_and_data_sets(mini: Path, held_out: HeldOut, left: list[str]) -> None:
    assert ids(read_mbeir_training(mini, held_out=held_out)) == left


def test_held_out_names_are_checked(mini: Path) -> None:
    with pytest.raises(ValueError, match="held-out task 5"):
        HeldOut(tasks=(5,))
    with pytest.raises(ValueError, match="'coco' is none of fashioniq, mscoco, nights"):
        read_mbeir_training(mini, held_out=HeldOut(datasets=("coco",)))
    with pytest.raises(ValueError, match="no training query is left"):
        read_mbeir_training(mini, held_out=HeldOut(tasks=(0, 4, 7)))


def test_training_positives_that_are_absent(mini: Path) -> None:
    path = mini / "query" / "union_train" / "mbeir_union_up_train.jsonl"
    change(path, '"7:10", "7:11"', '"7:10", "7:99"')
    change(path, '{"did": "4:5"}', '{"did": "4:99"}')
    with pytest.raises(ValueError, match=r"2 positives are not in .*first: 4:21"):
        read_mbeir_training(mini)
    with pytest.warns(UserWarning, match="1 queries without any are left out"):
        task = read_mbeir_training(mini, absent="count")
    assert ids(task) == ["9:21", "7:21", "9:21"]


def test_training_queries_without_positives_are_counted(mini: Path) -> None:
    path = mini / "query" / "union_train" / "mbeir_union_up_train.jsonl"
    change(path, '["7:10", "7:11"]', "null")
    with pytest.warns(UserWarning, match="1 queries are left out, without a positive"):
        assert ids(read_mbeir_training(mini)) == ["9:21", "4:21", "9:21"]


# --- bad input


def test_qrels_that_name_absent_candidates(mini: Path) -> None:
    write_text(mini / "qrels/test/mbeir_mscoco_task0_test_qrels.txt", "9:1 0 9:1 1 0\n9:2 0 9:77 1 0\n")
    with pytest.raises(ValueError, match=r"names 1 candidates that .* does not have \(9:77\)"):
        read_mbeir_task(mini, "mscoco_task0")
    with pytest.warns(UserWarning, match="count as not found"):
        task = read_mbeir_task(mini, "mscoco_task0", absent="count")
    assert len(task.queries) == 2 and task.relevance["9:2"] == {"9:77": 1.0}


def test_a_query_without_positives_is_counted(mini: Path) -> None:
    write_text(mini / "qrels/test/mbeir_mscoco_task0_test_qrels.txt", "9:1 0 9:1 1 0\n9:2 0 9:2 0 0\n")
    with pytest.warns(UserWarning, match="1 queries have no positive and are left out"):
        assert [q.id for q in read_mbeir_task(mini, "mscoco_task0").queries] == ["9:1"]


def test_no_query_with_a_positive_is_an_error(mini: Path) -> None:
    write_text(mini / "qrels/test/mbeir_mscoco_task0_test_qrels.txt", "9:8 0 9:1 1 0\n")
    with pytest.raises(ValueError, match="no positive for any query"):
        read_mbeir_task(mini, "mscoco_task0")


def test_qrels_of_other_queries_are_counted(mini: Path) -> None:
    path = mini / "qrels/test/mbeir_mscoco_task0_test_qrels.txt"
    path.write_text(path.read_text() + "9:8 0 9:1 1 0\n")
    with pytest.warns(UserWarning, match="names 1 queries that"):
        read_mbeir_task(mini, "mscoco_task0")


def test_graded_and_malformed_qrels(tmp_path: Path) -> None:
    path = tmp_path / "qrels.txt"
    path.write_text("q Q0 a 3\n\nq Q0 b 0\nq Q0 c 1 7\n")
    assert read_qrels(path) == {"q": {"a": 3.0, "c": 1.0}}
    path.write_text("q Q0 a 3\nq a 1\n")
    with pytest.raises(ValueError, match="line 2: needs"):
        read_qrels(path)


POOL = "cand_pool/local/mbeir_nights_task4_cand_pool.jsonl"


def test_an_empty_pool_is_an_error(mini: Path) -> None:
    write_text(mini / POOL, "\n")
    with pytest.raises(ValueError, match="empty pool"):
        read_mbeir_task(mini, "nights_task4")


def test_duplicate_ids(mini: Path) -> None:
    first = (mini / POOL).read_text().splitlines()[0]
    (mini / POOL).write_text((mini / POOL).read_text() + first + "\n")
    with pytest.warns(UserWarning, match="1 lines repeat another one"):
        assert len(read_mbeir_task(mini, "nights_task4").candidates) == 2
    write_lines(mini / POOL, [candidate("4:5", "one", None), candidate("4:5", "other", None)])
    with pytest.raises(ValueError, match="'4:5' twice, with different contents"):
        read_mbeir_task(mini, "nights_task4")


def test_candidates_with_nothing_in_them_are_counted(mini: Path) -> None:
    with (mini / POOL).open("a") as file:
        file.write('{"did": "4:8", "txt": null, "img_path": null}\n{"did": "4:9", "img_path": "../../x.png"}\n')
    with pytest.warns(UserWarning, match="2 lines are left out .line 3, 4:8: neither text nor a picture"):
        assert len(read_mbeir_task(mini, "nights_task4").candidates) == 2


@pytest.mark.parametrize(
    "name",
    [
        "query/test/mbeir_nights_task4_test.jsonl",
        "qrels/test/mbeir_nights_task4_test_qrels.txt",
        POOL,
        "instructions/query_instructions.tsv",
    ],
)
def test_a_missing_file_is_named(mini: Path, name: str) -> None:
    (mini / name).unlink()
    with pytest.raises(ValueError, match=name.rsplit("/", 1)[1]):
        read_mbeir_task(mini, "nights_task4")


def test_positives_of_another_kind_are_refused(mini: Path) -> None:
    path = mini / "query/union_train/mbeir_union_up_train.jsonl"
    write_lines(path, [query("9:1", "a", None, [7])])
    with pytest.raises(ValueError, match="pos_cand_list holds 7"):
        read_mbeir_training(mini)


def test_a_missing_instruction_is_told_at_once(mini: Path) -> None:
    change(mini / "instructions/query_instructions.tsv", "image\timage\tNIGHTS", "image\ttext\tNIGHTS")
    with pytest.raises(ValueError, match="no instruction for data set 4 and image → image"):
        read_mbeir_task(mini, "nights_task4")
    change(mini / "instructions/query_instructions.tsv", "image\ttext\tNIGHTS", "sound\ttext\tNIGHTS")
    with pytest.raises(ValueError, match="got 'sound'"):
        read_mbeir_task(mini, "nights_task4")


def test_pools_stay_on_disk(mini: Path) -> None:
    assert isinstance(read_mbeir_task(mini, "nights_task4").candidates, JsonLines)
