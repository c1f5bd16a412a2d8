import pytest
import torch

from fieldmark.data.collection import load_collection
from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
from fieldmark.data.loader import load_all
from fieldmark.data.samplers import Pair
from fieldmark.evaluation.judging import HeardDescription, heard_descriptions, judge_pairs
from fieldmark.evaluation.layer_choice import layer_pointing, propose_layer
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.policy.adjudication import Adjudicator, RolloutConfig


def heard(picture, attention, own=0.9, item=0):
    return HeardDescription(picture, item, "bill", own, torch.tensor(attention))


POINTING = [heard(1, [0.9, 0.1, 0.0, 0.0]), heard(1, [0.8, 0.2, 0.0, 0.0]), heard(2, [0.0, 0.0, 0.1, 0.9])]
SINK = [heard(p, [1.0, 0.0, 0.0, 0.0]) for p in (1, 1, 2)]
FLAT = [heard(p, [0.25] * 4) for p in (1, 1, 2)]


def test_without_masks_sharp_sinks_and_flat_maps_score_nothing():
    layers = [layer_pointing(i, maps) for i, maps in enumerate((SINK, POINTING, FLAT))]
    assert [round(one.score, 6) for one in layers] == [0, 0.9, 0] and layers[1].own_share == pytest.approx(0.9)
    assert layers[0].entropy == 0 and layers[2].entropy == pytest.approx(1)
    assert propose_layer(layers) == 1
    with pytest.raises(ValueError, match="no layer points"):
        propose_layer([layers[0], layers[2]])


def test_with_masks_the_described_part_decides():
    coverage = {(1, "bill"): torch.tensor([1.0, 0, 0, 0]), (2, "bill"): torch.tensor([0, 0, 0, 1.0])}
    good, sink = layer_pointing(3, POINTING, coverage), layer_pointing(4, SINK, coverage)
    assert good.part_lift == pytest.approx((0.9 + 0.8 + 0.9) / 3 - 0.25)
    assert sink.part_lift == pytest.approx(2 / 3 - 0.25)
    assert propose_layer([good, sink]) == 3
    hidden = {**coverage, (2, "bill"): torch.zeros(4)}  # the part is not seen: nothing to point at
    assert layer_pointing(3, POINTING, hidden).part_lift == pytest.approx(0.85 - 0.25)
    with pytest.raises(ValueError, match="do not compare"):
        propose_layer([good, layer_pointing(4, SINK)])
    with pytest.raises(ValueError, match="differ in patches"):
        layer_pointing(3, POINTING, {(1, "bill"): torch.ones(3)})


def test_equal_layers_propose_the_later_and_no_maps_are_refused():
    assert propose_layer([layer_pointing(2, POINTING), layer_pointing(5, POINTING)]) == 5
    with pytest.raises(ValueError, match="layer 7 has no maps"):
        layer_pointing(7, [])


def test_maps_of_different_places_in_the_prompt_are_not_compared():
    moved = [heard(1, [1.0, 0, 0, 0]), heard(1, [1.0, 0, 0, 0]), heard(2, [0, 1.0, 0, 0], item=1)]
    assert layer_pointing(0, moved).specificity is None


def test_heard_descriptions_of_the_bundled_model(tmp_path):
    folder = write_fieldguide(FieldguideConfig(species=4, per=3, seed=3), tmp_path / "w", workers=1)
    images = load_collection(folder)
    backbone = load_backbone(bundled_path())
    adjudicator = Adjudicator(
        backbone,
        RolloutConfig(vocabulary="fieldguide", attributes_per_prompt=2, group_size=2, top_p=1.0, max_new_tokens=48),
    )
    pictures = torch.cat([b.images for b in load_all(images, 96, workers=0, batch_size=64)])
    pairs = [Pair(0, 1, True), Pair(0, 4, False), Pair(5, 9, False)]
    with torch.no_grad():
        batches = list(
            judge_pairs(backbone, adjudicator, pictures, pairs, "random", torch.Generator().manual_seed(0), 4)
        )
    assert [b.index for b in batches] == [(0, 1, 4), (5, 9)]
    assert [g.pair for b in batches for g in b.global_groups] == [(0, 1), (0, 4), (5, 9)]
    found = heard_descriptions(backbone, batches[0], 2, right_only=False)
    assert {f.picture for f in found} <= {0, 1, 4} and found
    for one in found:
        assert one.attention.shape == (64,) and float(one.attention.sum()) == pytest.approx(1, abs=1e-4)
        assert 0 <= one.own_share <= 1
    assert len(heard_descriptions(backbone, batches[0], 2)) <= len(found)
