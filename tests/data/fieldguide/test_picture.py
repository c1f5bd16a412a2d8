import numpy as np
import pytest

from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.picture import take_image, take_picture
from fieldmark.data.fieldguide.species import FIELD_MARKS, PLUMAGE

PLAIN = {**{n: v[0] for n, v in FIELD_MARKS.items()}, **{n: v[0] for n, v in PLUMAGE.items()}}


def picture(attributes, *, nuisance=0.0, habitat=None, seed=3, size=64):
    return take_picture(attributes, habitat, nuisance, np.random.default_rng(seed), size)


def test_same_seed_same_bytes_and_other_seed_other_picture():
    one, two = picture(PLAIN, nuisance=0.5, habitat=4), picture(PLAIN, nuisance=0.5, habitat=4)
    assert np.array_equal(one.image, two.image) and np.array_equal(one.mask, two.mask)
    assert not np.array_equal(one.image, picture(PLAIN, nuisance=0.5, habitat=4, seed=4).image)


@pytest.mark.parametrize("name", [*FIELD_MARKS, *PLUMAGE])
def test_every_attribute_shows_at_64_pixels_and_only_in_its_part(name):
    """Two birds that differ in one attribute differ visibly there, and nowhere far from it."""
    values = {**FIELD_MARKS, **PLUMAGE}[name]
    for value in values[1:]:
        base, other = picture(PLAIN), picture({**PLAIN, name: value})
        part = PARTS.index(PART_OF_ATTRIBUTE[name])
        region = (base.mask == part) | (other.mask == part)
        least = 60 if name in FIELD_MARKS else 20  # plumage may be subtle, marks may not
        changed = np.abs(base.image.astype(int) - other.image.astype(int)).sum(-1) > least
        assert (changed & region).sum() >= 8, f"{name}: {values[0]} and {value} look alike at 64 pixels"
        grown = region.copy()
        for _ in range(2):  # outlines and antialiasing reach a little further
            grown = grown | np.roll(grown, 1, 0) | np.roll(grown, -1, 0) | np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
        shades = name in (
            "back color",
            "belly color",
        )  # wing and tail are shades of the back; the breast is on the belly
        assert shades or (changed & ~grown).sum() <= 0.1 * changed.sum()


def test_every_part_is_in_the_mask_of_a_plate():
    present = set(np.unique(picture(PLAIN).mask))
    assert present == set(range(len(PARTS))) - {PARTS.index("occluder")}


def test_nuisance_dial_changes_more_the_higher_it_is():
    calm = picture(PLAIN, nuisance=0.0, habitat=5)
    little, much = (
        np.mean(
            [
                np.abs(picture(PLAIN, nuisance=n, habitat=5, seed=s).image.astype(int) - calm.image).mean()
                for s in range(6)
            ]
        )
        for n in (0.1, 0.9)
    )
    assert much > little > 0


def test_plates_have_plain_paper_and_habitats_do_not():
    def background(habitat):
        p = picture(PLAIN, habitat=habitat)
        return len(np.unique(p.image[p.mask == 0][:600], axis=0))

    assert background(11) > background(None)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_image_alone_is_the_same(seed):
    alone = take_image(PLAIN, 5, 0.7, np.random.default_rng(seed), 64)
    assert np.array_equal(alone, picture(PLAIN, nuisance=0.7, habitat=5, seed=seed).image)
