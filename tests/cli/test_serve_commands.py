"""fieldmark serve says what is wrong before it listens."""

import socket
from pathlib import Path

import pytest
from tests.fixtures_search import colour_index

from fieldmark.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], "--index"),
        (["serve", "--index", "{tmp}"], "no index"),
        (["serve", "--index", "{tmp}", "--host", "0.0.0.0"], "--insecure"),
        (["serve", "--index", "{tmp}", "--token_file", "{tmp}/nothing"], "cannot be read"),
        (["serve", "--index", "{tmp}", "--limits.requests", "0"], "limits.requests"),
        (["demo", "serve", "--out", "{tmp}"], "make demo"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([one.format(tmp=tmp_path) for one in arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_said_before_the_encoder_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, _ = colour_index(tmp_path)  # whose encoder is nowhere
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--index", str(index.path), "--port", port]) == 2
    told = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in told and "Open http" not in told


def test_help_of_demo_and_demo_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--help"]) == 0
    assert "demo serve" not in capsys.readouterr().out.splitlines()[0]
    assert main(["demo", "serve", "--help"]) == 0
    assert "--method" in capsys.readouterr().out
