"""Runs the command line in the test's own process."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fieldmark.cli import main


@dataclasses.dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def fieldmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs the command line in this process."""
    monkeypatch.delenv("FIELDMARK_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> Said:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return Said(code, told.out, told.err)

    return run


def printed(fieldmark: Callable[..., Said], *words: str | Path) -> dict[str, Any]:
    said = fieldmark(*words, "--print_config")
    assert said.code == 0, said.err
    return yaml.safe_load(said.out)
