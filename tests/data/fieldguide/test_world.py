import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from fieldmark.data.fieldguide.drawing import PARTS
from fieldmark.data.fieldguide.species import FIELD_MARKS, is_reserved
from fieldmark.data.fieldguide.world import (
    FieldguideConfig,
    plan_sightings,
    read_attributes,
    read_mask,
    world_species,
    write_fieldguide,
)

SMALL = FieldguideConfig(species=8, per=3, seed=5, siblings=2, size=48)


def digest(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_same_settings_same_bytes_whatever_the_workers(tmp_path):
    one = write_fieldguide(SMALL, tmp_path / "a", workers=1)
    two = write_fieldguide(SMALL, tmp_path / "b", workers=2)
    assert digest(one) == digest(two)
    assert not list(tmp_path.glob("*.writing"))


def test_layout_attributes_and_masks(tmp_path):
    folder = write_fieldguide(SMALL, tmp_path / "w", workers=1)
    attributes = read_attributes(folder)
    assert len(attributes) == 24
    split = json.loads((folder / "split.json").read_text())
    assert len(split["train"]) == len(split["test"]) == 4 and not set(split["train"]) & set(split["test"])
    for picture_id, values in attributes.items():
        assert (folder / picture_id).is_file()
        assert is_reserved({n: values[n] for n in FIELD_MARKS}) == (picture_id.split("/")[0] in split["test"])
        assert read_mask(folder, picture_id).max() < len(PARTS)
    assert Image.open(folder / "contact_sheet.png").width == 12 * 48


def test_habitat_dial_binds_training_species_only():
    def places(rho):
        planned = plan_sightings(FieldguideConfig(species=8, per=20, habitat=rho, seed=1))
        by = {}
        for s in planned:
            by.setdefault((s.split, s.species), []).append(s.habitat)
        return {
            split: np.mean([max(map(v.count, v)) / len(v) for (part, _), v in by.items() if part == split])
            for split in ("train", "test")
        }

    assert places(1.0)["train"] == 1.0 and places(1.0)["test"] < 0.2
    assert places(0.0)["train"] < 0.2
    assert 0.3 < places(0.5)["train"] < 0.75


def test_plumage_varies_within_species_and_marks_do_not():
    planned = plan_sightings(SMALL)
    species = {s.name: s for s in world_species(SMALL)}
    for s in planned:
        assert all(s.attributes[n] == species[s.species].marks[n] for n in FIELD_MARKS)
    assert len({s.attributes["back color"] for s in planned if s.species == planned[0].species}) > 1


def test_an_existing_folder_is_not_overwritten_silently(tmp_path):
    write_fieldguide(SMALL, tmp_path / "w", workers=1)
    with pytest.raises(ValueError, match="--force"):
        write_fieldguide(SMALL, tmp_path / "w", workers=1)


@pytest.mark.parametrize(
    "wrong", [{"species": 1}, {"habitat": 1.5}, {"nuisance": -0.1}, {"train_share": 0.0}, {"per": 0}]
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        FieldguideConfig(**wrong)


def test_not_a_fieldguide_says_so(tmp_path):
    with pytest.raises(ValueError, match="not a Fieldguide"):
        read_attributes(tmp_path)
