from pathlib import Path

import pytest
import torch

from fieldmark.data.decode import BadImage
from fieldmark.data.multimodal.item_loader import ItemLoader
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.data.multimodal.mbeir import read_mbeir_task

BATCHES = [[0, 1, 2], [4, 3], [1], [5, 0, 5]]


@pytest.fixture
def pictures(mini: Path) -> ItemPictures:
    """Items 0 and 1 are text queries, 2 to 5 pictures of the pool."""
    task = read_mbeir_task(mini, "mscoco_task0")
    return ItemPictures(task.queries, task.candidates)


def test_numbers_run_on_from_queries_to_candidates(pictures: ItemPictures) -> None:
    assert len(pictures) == 6 and [pictures.item(i).id for i in range(6)] == ["9:1", "9:2", "9:1", "9:2", "9:3", "9:4"]
    with pytest.raises(ValueError, match="from 0 to 5, got 6"):
        pictures.item(6)


@pytest.mark.parametrize("cache", [0, 10**6])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_with_none_for_text(pictures: ItemPictures, workers: int, cache: int) -> None:
    with ItemLoader(pictures, 4, workers=workers, cache_bytes=cache) as loader:
        for _ in range(2):
            found = list(loader.iterate(BATCHES))
            shown = [[None if one is None else int(one[0, 0, 0]) for one in batch] for batch in found]
            assert shown == [[None, None, 20], [60, 40], [None], [80, None, 80]]
    assert found[0][2] is not None and found[0][2].shape == (4, 4, 3) and found[0][2].dtype == torch.uint8


def test_it_may_be_left_early(pictures: ItemPictures) -> None:
    with ItemLoader(pictures, 4, workers=1) as loader:
        next(iter(loader.iterate(BATCHES)))
        assert len(list(loader.iterate(BATCHES))) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_picture_is_named(mini: Path, pictures: ItemPictures, workers: int) -> None:
    (mini / "mbeir_images/mscoco_images/val2014/3.png").unlink()
    with ItemLoader(pictures, 4, workers=workers) as loader:
        batches = loader.iterate([[2], [4]])
        next(batches)
        with pytest.raises(BadImage, match=r"val2014/3\.png"):
            next(batches)


def test_numbers_out_of_range(pictures: ItemPictures) -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        ItemLoader(pictures, 0)
