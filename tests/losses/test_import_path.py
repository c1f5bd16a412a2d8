"""Functions by import path; messages for losses and rewards are tested beside these."""

import sys

import pytest

from fieldmark.losses.import_path import import_function

HERE = "def brief(rank):\n    return 1 / rank\n"


def test_a_file_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "rewards_beside_me.py").write_text("import helper_beside_me\n" + HERE)
    (tmp_path / "helper_beside_me.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert import_function("rewards_beside_me:brief", "reward")(4) == 0.25
    assert sys.path == before, "nothing else may be imported from there"


def test_the_working_directory_hides_no_library(tmp_path, monkeypatch):
    (tmp_path / "fractions.py").write_text("def gcd_of_mine():\n    raise AssertionError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "fractions", raising=False)
    with pytest.raises(ValueError, match="no function 'gcd_of_mine'"):
        import_function("fractions:gcd_of_mine", "reward")


def test_a_module_that_is_missing_within_stays_itself(tmp_path, monkeypatch):
    (tmp_path / "rewards_that_need_more.py").write_text("import no_such_library_at_all\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        import_function("rewards_that_need_more:brief", "reward")
