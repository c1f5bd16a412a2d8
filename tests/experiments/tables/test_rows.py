"""Rows of tables: what they change, their order, and files that say something unknown."""

import pytest
import yaml

from fieldmark.experiments.fieldguide import load_recipe
from fieldmark.experiments.tables.rows import Row, Table, TableFiles, row_changes

ROWS = [{"key": "a", "label": "A", "trains": "x"}, {"key": "b", "label": "B", "trains": "x", "only": ["home"]}]


def files(tmp_path, **content):
    rows = content.pop("rows", ROWS)
    (tmp_path / "main.yaml").write_text(yaml.safe_dump({"title": "T", "paper": "P", "rows": rows, **content}))
    return TableFiles(tmp_path, Row, Table, {"trains": ("x", "y")}, ("home", "away"))


def test_rows_of_a_benchmark_and_their_order(tmp_path):
    table = files(tmp_path, first=["b"]).read("main")
    assert [row.key for row in table.shown("home")] == ["a", "b"]
    assert [row.key for row in table.run_order("home")] == ["b", "a"]
    assert [row.key for row in table.run_order("away")] == ["a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"first": ["c"]}, "unknown row 'c'"),
        ({"rows": [ROWS[0], ROWS[0]]}, "two rows share a key"),
        ({"rows": [{**ROWS[0], "trains": "z"}]}, "row 1: unknown trains 'z'"),
        ({"rows": [{**ROWS[0], "only": ["hoem"]}]}, "did you mean 'home'"),
        ({"rows": [{**ROWS[0], "lable": "x"}]}, "unknown key 'lable': did you mean 'label'"),
        ({"rows": [{"key": "a", "trains": "x"}]}, "label"),
        ({"titel": "x"}, "unknown key 'titel'"),
    ],
)
def test_files_that_say_something_unknown(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        files(tmp_path, **content).read("main")


def test_no_such_table(tmp_path):
    with pytest.raises(ValueError, match="unknown table 'mian': did you mean 'main'"):
        files(tmp_path).read("mian")
    with pytest.raises(ValueError, match="run from a checkout"):
        TableFiles(tmp_path / "none", Row, Table, {}, ()).names()


def test_multiples_of_whole_numbers_stay_whole():
    recipe = load_recipe()
    row = Row("a", "A", "x", scale={"schedule.steps": 0.5, "weights.alignment": 10}, fieldguide={"seed": 3})
    changes = row_changes(row, recipe, on_fieldguide=True)
    assert changes["schedule.steps"] == recipe.schedule.steps // 2 and isinstance(changes["schedule.steps"], int)
    assert changes["weights.alignment"] == 10 * recipe.weights.alignment and changes["seed"] == 3
    assert "seed" not in row_changes(row, recipe, on_fieldguide=False)
    with pytest.raises(ValueError, match="is no whole number"):
        row_changes(Row("a", "A", "x", scale={"data.batch_size": 0.01}), recipe, on_fieldguide=True)
