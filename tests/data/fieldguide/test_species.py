import numpy as np
import pytest

from fieldmark.data.fieldguide.species import (
    FIELD_MARKS,
    PLUMAGE,
    draw_species,
    is_reserved,
    random_marks,
    sibling_marks,
)


def test_about_a_third_of_all_combinations_is_reserved_and_by_combination_only():
    rng = np.random.default_rng(0)
    drawn = [{n: v[rng.integers(len(v))] for n, v in FIELD_MARKS.items()} for _ in range(3000)]
    assert 0.30 < np.mean([is_reserved(m) for m in drawn]) < 0.37
    shuffled = dict(reversed(list(drawn[0].items())))
    assert is_reserved(shuffled) == is_reserved(drawn[0])


@pytest.mark.parametrize("reserved", [True, False])
def test_draws_stay_on_their_side_of_the_reservation(reserved):
    rng = np.random.default_rng(1)
    for _ in range(50):
        base = random_marks(rng, reserved=reserved)
        sibling = sibling_marks(rng, base, reserved=reserved)
        assert is_reserved(base) == is_reserved(sibling) == reserved
        assert 1 <= sum(base[n] != sibling[n] for n in FIELD_MARKS) <= 2


def test_species_are_distinct_and_genera_hold_look_alikes():
    species = draw_species(40, evaluation=True, siblings=4, rng=np.random.default_rng(2))
    assert len({tuple(s.marks.values()) for s in species}) == 40
    assert all(is_reserved(s.marks) for s in species)
    for s in species[1::4]:
        base = next(o for o in species if o.genus == s.genus)
        assert len(s.differing_marks(base)) <= 2
    assert len({s.name for s in species}) == 40


def test_evaluation_and_pretraining_combinations_never_meet_whatever_the_seed():
    evaluation = {
        tuple(s.marks.values())
        for seed in range(20)
        for s in draw_species(60, evaluation=True, siblings=4, rng=np.random.default_rng(seed))
    }
    rng = np.random.default_rng(99)
    free = {tuple(random_marks(rng, reserved=False).values()) for _ in range(5000)}
    assert not evaluation & free


def test_bad_counts_are_refused():
    with pytest.raises(ValueError, match="got 0 and 4"):
        draw_species(0, evaluation=True, siblings=4, rng=np.random.default_rng(0))


def test_marks_and_plumage_do_not_overlap():
    assert not set(FIELD_MARKS) & set(PLUMAGE)
    assert len(FIELD_MARKS) == 8
