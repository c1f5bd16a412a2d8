"""Recipes with fields changed."""

import pytest

from fieldmark.experiments.fieldguide import load_recipe
from fieldmark.experiments.tables.changes import override, value_of


def test_override_replaces_the_fields_of_one_part_together_and_knows_its_fields():
    recipe = load_recipe()
    # one after the other, the first of these would be refused: the recipe asks about three attributes
    changed = override(recipe, {"rollouts.style": "generic", "rollouts.attributes_per_prompt": None})
    assert (changed.rollouts.style, changed.rollouts.attributes_per_prompt) == ("generic", None)
    back = {"rollouts.attributes_per_prompt": recipe.rollouts.attributes_per_prompt}
    assert override(changed, {**back, "rollouts.style": recipe.rollouts.style}) == recipe
    with pytest.raises(ValueError, match="did you mean 'embedding_size'"):
        override(recipe, {"model.embeding_size": 3})
    with pytest.raises(ValueError, match="seed has no fields"):
        override(recipe, {"seed.x": 3})


def test_value_of_a_dotted_field():
    recipe = load_recipe()
    assert value_of(recipe, "schedule.steps") == recipe.schedule.steps
    with pytest.raises(ValueError, match=r"schedule.stepps: unknown field 'stepps': did you mean 'steps'"):
        value_of(recipe, "schedule.stepps")
