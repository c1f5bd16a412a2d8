"""`fieldmark reproduce elva` from the command line; what it does is tested in tests/experiments/elva."""

from pathlib import Path

import pytest

from fieldmark.cli import main


def test_dry_run_lists_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["reproduce", "elva", "--table", "main", "--seeds", "[7]", "--out", str(out), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 runs to do" in said and "seed 7" in said and "tables in" not in said
    assert not out.exists()


def test_an_unknown_table_is_an_error_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "elva", "--table", "contrls"]) == 2
    assert "did you mean 'controls'" in capsys.readouterr().err
