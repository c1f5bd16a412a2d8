from pathlib import Path

import numpy as np
import pytest

from fieldmark.data.retrieval import Item, Query, RetrievalTask, share_of_grains


def test_modality_is_named_as_in_mbeir() -> None:
    picture = Path("a.jpg")
    assert [Item("0:1", "x").modality, Item("0:1", None, picture).modality, Item("0:1", "x", picture).modality] == [
        "text",
        "image",
        "image,text",
    ]
    assert Item("0:1", "", picture).modality == "image"


@pytest.mark.parametrize(("arguments", "named"), [(("", "x"), "empty"), (("0:7", ""), "0:7"), (("0:7",), "0:7")])
def test_an_item_needs_an_id_and_something_to_embed(arguments: tuple[str, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Item(*arguments)


@pytest.mark.parametrize(
    ("queries", "pool", "cutoff", "named"), [(0, 1, 5, "no queries"), (1, 0, 5, "empty pool"), (1, 1, 0, "cutoff")]
)
def test_a_task_needs_queries_a_pool_and_a_cutoff(queries: int, pool: int, cutoff: int, named: str) -> None:
    item = Item("9:1", "a dog")
    with pytest.raises(ValueError, match=named):
        RetrievalTask("coco", [Query(item)] * queries, [item] * pool, {}, cutoff)


def test_a_video_stands_alone() -> None:
    assert Item("v", video=Path("a.mp4")).modality == "video"
    with pytest.raises(ValueError, match="'v' has a video and something else"):
        Item("v", "text", video=Path("a.mp4"))


def test_a_query_is_reworded_with_the_generator_that_is_given() -> None:
    query = Query(Item("1", "a dog"), "first", ("first", "second"))
    drawn = [query.reworded(np.random.default_rng(seed)).instruction for seed in range(20)]
    assert set(drawn) == {"first", "second"} and query.instruction == "first"
    assert drawn == [query.reworded(np.random.default_rng(seed)).instruction for seed in range(20)]
    alone = Query(Item("1", "a dog"), "only")
    assert alone.reworded(np.random.default_rng(0)) is alone


def test_share_of_grains() -> None:
    query = Query(Item("1", "x"), grains=("bill red", "wing barred"))
    facts = [(), ("bill red", "leg blue"), ("wing barred", "bill red")]
    assert [share_of_grains(query, Item("c", "x", facts=one)) for one in facts] == [0, 0.5, 1]
    with pytest.raises(ValueError, match="'1' has no grains"):
        share_of_grains(Query(Item("1", "x")), Item("c", "x"))
