from pathlib import Path

import pytest

from fieldmark.data.retrieval import Item, Query, RetrievalTask


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
