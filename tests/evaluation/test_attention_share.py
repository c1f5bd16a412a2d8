"""Where the attention falls: against loops over pixels, and over a collection picture by picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures_models import tiny_backbone

from fieldmark.data.collection import LabelledImages, load_collection
from fieldmark.data.fieldguide.drawing import PARTS
from fieldmark.data.fieldguide.world import FieldguideConfig, read_mask, write_fieldguide
from fieldmark.evaluation.attention_share import (
    PART_GROUPS,
    attention_share,
    collection_attention_share,
    part_coverage,
)
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder


def coverage_by_loops(mask: np.ndarray, grid: tuple[int, int], num_parts: int) -> np.ndarray:
    """Every pixel is cut into grid-many pieces per side, so that each piece lies in one patch."""
    rows, columns = grid
    height, width = mask.shape
    covered = np.zeros((rows, columns, num_parts))
    for y in range(height * rows):
        for x in range(width * columns):
            covered[y // height, x // width, mask[y // rows, x // columns]] += 1
    return covered.reshape(rows * columns, num_parts) / (height * width)


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (4, 4)), ((10, 7), (4, 3)), ((5, 6), (7, 2)), ((3, 3), (1, 1))])
def test_coverage_equals_a_loop_over_pieces_of_pixels(size: tuple[int, int], grid: tuple[int, int]) -> None:
    masks = torch.randint(0, 4, (2, *size), generator=torch.Generator().manual_seed(0))
    covered = part_coverage(masks, grid, 4)
    for one, mask in zip(covered, masks, strict=True):
        np.testing.assert_allclose(one.numpy(), coverage_by_loops(mask.numpy(), grid, 4), atol=1e-12)
    torch.testing.assert_close(covered.sum(-1), torch.ones(2, grid[0] * grid[1], dtype=torch.float64))


def test_share_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    attention = torch.rand(3, 6, generator=generator).softmax(-1)
    coverage = torch.rand(3, 6, 4, generator=generator).double().softmax(-1)
    share = attention_share(attention, coverage)
    for n in range(3):
        for p in range(4):
            slow = sum(float(attention[n, k]) * float(coverage[n, k, p]) for k in range(6))
            assert float(share[n, p]) == pytest.approx(slow, abs=1e-6)


def test_uniform_attention_gives_the_area_and_one_patch_gives_that_patch() -> None:
    masks = torch.randint(0, 3, (1, 9, 9), generator=torch.Generator().manual_seed(2))
    coverage = part_coverage(masks, (4, 4), 3)
    area = torch.tensor([float((masks == p).double().mean()) for p in range(3)], dtype=torch.float64)
    torch.testing.assert_close(attention_share(torch.full((1, 16), 1 / 16), coverage)[0], area)
    one = torch.zeros(1, 16)
    one[0, 5] = 1
    torch.testing.assert_close(attention_share(one, coverage)[0], coverage[0, 5])


def test_groups_are_a_partition_of_all_parts() -> None:
    together = [part for parts in PART_GROUPS.values() for part in parts]
    assert sorted(together) == sorted(PARTS)
    assert PART_GROUPS["field marks"] == ("bill", "breast", "wing", "tail", "eye", "legs")
    assert PART_GROUPS["habitat"] == ("habitat", "occluder")


@pytest.mark.parametrize(
    ("attention", "coverage", "problem"),
    [
        (torch.full((1, 4), 0.5), torch.ones(1, 4, 2), "must be a distribution"),
        (torch.tensor([[1.5, -0.5]]), torch.ones(1, 2, 2), "must be a distribution"),
        (torch.ones(1, 1), torch.ones(1, 2, 2), "expected"),
    ],
)
def test_bad_shares_are_errors(attention: torch.Tensor, coverage: torch.Tensor, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        attention_share(attention, coverage)


def test_bad_masks_are_errors() -> None:
    with pytest.raises(ValueError, match=r"values 0\.\.7, but there are 3 parts"):
        part_coverage(torch.tensor([[[0, 7]]]), (1, 1), 3)
    with pytest.raises(ValueError, match="must be integers"):
        part_coverage(torch.rand(1, 4, 4), (2, 2), 3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    folder = tmp_path_factory.mktemp("share") / "world"
    write_fieldguide(FieldguideConfig(species=4, per=3, siblings=2, size=48), folder, workers=1)
    return load_collection(folder)


def encoder(kind: str) -> RetrievalEncoder:
    backbone = tiny_backbone()
    generator = torch.Generator().manual_seed(0)
    pooler = build_pooler(kind, backbone.hidden_size, 8, generator)  # type: ignore[arg-type]
    if kind == "attention":
        with torch.no_grad():
            pooler.query.mul_(200)
    return RetrievalEncoder(backbone.tower, pooler, 32)


def test_a_collection_equals_its_pictures_one_by_one(world: LabelledImages) -> None:
    model = encoder("attention")
    share = collection_attention_share(model, world, batch_size=5)
    assert share.attention.shape == share.area.shape == (len(world), len(PARTS))
    assert not share.uniform
    for i in range(len(world)):
        image = torch.from_numpy(np.asarray(world.decode(i).resize((32, 32), 3)).copy())
        attention = model(image[None]).attention
        mask = torch.from_numpy(read_mask(world.root, world.ids[i]).astype(np.int64))
        slow = attention_share(attention, part_coverage(mask[None], (4, 4), len(PARTS)))[0]
        np.testing.assert_allclose(share.attention[i], slow.numpy(), atol=1e-5)
    assert np.abs(share.attention - share.area).max() > 0.02  # this pooler does look somewhere
    attended, area = share.part("field marks")
    columns = [PARTS.index(part) for part in PART_GROUPS["field marks"]]
    assert attended == pytest.approx(share.attention[:, columns].sum() / len(world))
    assert area == pytest.approx(share.area[:, columns].sum() / len(world))
    assert sum(share.part(group)[0] for group in PART_GROUPS) == pytest.approx(1)
    with pytest.raises(ValueError, match="unknown part 'beak'"):
        share.part("beak")


def test_mean_pooling_looks_at_the_area_and_max_pooling_nowhere(world: LabelledImages) -> None:
    share = collection_attention_share(encoder("mean"), world)
    assert share.uniform
    np.testing.assert_array_equal(share.attention, share.area)
    with pytest.raises(ValueError, match="max pooling has no distribution"):
        collection_attention_share(encoder("max"), world)


def test_pictures_without_masks_are_an_error(world: LabelledImages, tmp_path: Path) -> None:
    elsewhere = LabelledImages(world.sources, world.ids, world.labels, world.class_names, tmp_path)
    with pytest.raises(ValueError, match="no part masks"):
        collection_attention_share(encoder("mean"), elsewhere)
