import pytest
import torch
from PIL import Image
from tests.fixtures_models import PREPROCESSING, pictures, tiny_model
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fieldmark.models.vision_tokens import Preprocessing, VisionTokens, VisionTower


def make_tokens(grids=((1, 4, 4), (1, 2, 4), (1, 4, 2)), layers=2, width=3):
    generator = torch.Generator().manual_seed(0)
    total = sum(t * h * w // 4 for t, h, w in grids)
    features = [torch.randn(total, width, generator=generator) for _ in range(layers + 1)]
    return VisionTokens(features[0], tuple(features[1:]), torch.tensor(grids), 2)


@pytest.mark.parametrize("shape", [(16, 16), (24, 16)])
def test_patches_equal_the_image_processor(shape):
    images = torch.randint(0, 256, (3, *shape, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(
        do_resize=False,
        image_mean=PREPROCESSING.image_mean,
        image_std=PREPROCESSING.image_std,
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
    )
    expected = processor([Image.fromarray(i.numpy()) for i in images], return_tensors="pt")
    ours = PREPROCESSING(images)
    torch.testing.assert_close(ours.pixel_values, expected["pixel_values"], rtol=0, atol=1e-6)
    assert torch.equal(ours.grid_thw, expected["image_grid_thw"])


def test_pictures_of_different_sizes_are_concatenated():
    small, large = pictures(2, 16), pictures(1, 24)
    both = PREPROCESSING([small, large[0]])
    assert both.grid_thw.tolist() == [[1, 4, 4], [1, 4, 4], [1, 6, 6]]
    assert torch.equal(
        both.pixel_values, torch.cat([PREPROCESSING(small).pixel_values, PREPROCESSING(large).pixel_values])
    )


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(1, 20, 16, 3, dtype=torch.uint8), "20x16 is not a multiple of 8"),
        (torch.zeros(1, 16, 16, 3), "must be uint8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "must be uint8"),
        ([], "no pictures"),
    ],
)
def test_bad_pictures_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        PREPROCESSING(images)


def test_preprocessing_round_trip_and_missing_fields():
    assert Preprocessing.from_config(PREPROCESSING.to_config()) == PREPROCESSING
    with pytest.raises(ValueError, match="image_std"):
        Preprocessing.from_config({"image_mean": [0, 0, 0], "patch_size": 4, "merge_size": 2})
    with pytest.raises(ValueError, match="1/255"):
        Preprocessing.from_config({**PREPROCESSING.to_config(), "rescale_factor": 1.0})


def test_split_padded_and_select_agree():
    tokens = make_tokens()
    assert tokens.counts == [4, 2, 2] and tokens.num_images == 3
    padded, mask = tokens.padded()
    assert padded.shape == (3, 4, 3) and mask.sum(1).tolist() == [4, 2, 2]
    for row, keep, piece in zip(padded, mask, tokens.split(), strict=True):
        assert torch.equal(row[keep], piece) and not row[~keep].any()
    chosen = tokens.select([2, 0, 2])
    assert chosen.counts == [2, 4, 2]
    assert torch.equal(chosen.split()[1], tokens.split()[0])
    assert torch.equal(chosen.deepstack[1][:2], tokens.deepstack[1][6:])
    with pytest.raises(ValueError, match="3"):
        tokens.select([3])


def test_leaves_carry_gradients_back_once():
    source = torch.randn(8, 3, requires_grad=True)
    tokens = VisionTokens(source * 2, (source * 3,), torch.tensor([[1, 4, 8]]), 2)
    leaves = tokens.as_leaves()
    (leaves.merged.sum() + 5 * leaves.deepstack[0][0].sum()).backward()
    assert source.grad is None
    tokens.backward(leaves)
    expected = torch.full((8, 3), 2.0)
    expected[0] += 15
    assert torch.equal(source.grad, expected)


def test_unused_leaves_give_zeros_and_features_are_no_leaves():
    tokens = make_tokens()
    assert all(not g.any() for g in tokens.as_leaves().gradients())
    with pytest.raises(ValueError, match="as_leaves"):
        tokens.gradients()
    with pytest.raises(ValueError, match="8 tokens"):
        VisionTokens(torch.zeros(7, 3), (), torch.tensor([[1, 4, 8]]), 2)


def test_half_precision_tokens_have_float32_leaves():
    tokens = VisionTokens(torch.zeros(4, 3, dtype=torch.bfloat16), (), torch.tensor([[1, 4, 4]]), 2)
    assert tokens.as_leaves().merged.dtype == torch.float32


def test_the_tower_equals_transformers_own(monkeypatch):
    """Merged tokens, DeepStack and gradients, though the patch projection is computed as a matrix product."""
    theirs, ours = tiny_model().model.visual, tiny_model().model.visual
    pixels = PREPROCESSING([pictures(2), pictures(1, 24)])
    tower = VisionTower(ours, PREPROCESSING)
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda *_: pytest.fail("the tower still convolves its patches"))
    tokens = tower(pixels)
    monkeypatch.undo()
    output = theirs(pixels.pixel_values, grid_thw=pixels.grid_thw, return_dict=True)
    expected = [output.pooler_output, *output.deepstack_features]
    for a, b in zip((tokens.merged, *tokens.deepstack), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    (tokens.merged.square().sum() + tokens.deepstack[0].sum()).backward()
    (expected[0].square().sum() + expected[1].sum()).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if b.grad is not None:
            assert (a.grad - b.grad).norm() <= 2e-5 * b.grad.norm(), name
    assert list(ours.state_dict()) == list(theirs.state_dict())
