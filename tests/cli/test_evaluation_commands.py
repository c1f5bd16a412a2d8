"""The commands about universal embedders, once each, with the bundled model on coloured squares."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Said
from tests.fixtures_colors import COLORS, square, write_colors

Cli = Callable[..., Said]

SMALL = ("--embedder", "bundled", "--embedder.image_size", "24", "--encoding.workers", "0")


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colors(tmp_path_factory.mktemp("colors"))


def test_mbeir(fieldmark: Cli, colors: Path, tmp_path: Path) -> None:
    said = fieldmark("evaluate", "mbeir", *SMALL, "--root", colors, "--json", tmp_path / "out.json")
    assert said.code == 0, said.err
    assert "embedding 16 candidates of the global pool" in said.out and "Avg." in said.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["rows"]) == 6 and found["config"]["embedder"]["path"] == "bundled"
    shown = next(line for line in said.out.splitlines() if line.startswith("local"))
    assert shown.split()[-1] == f"{100 * found['average']['local']:.1f}"


def test_generative_mode_counts_summaries_that_were_ended(fieldmark: Cli, colors: Path) -> None:
    asked = ("--data.tasks", "[tiny_task0]", "--data.pools", "[local]")
    mode = ("--embedder.mode", "generative", "--embedder.max_new_tokens", "2")
    said = fieldmark("evaluate", "mbeir", *SMALL, *mode, "--root", colors, *asked)
    assert said.code == 0, said.err
    assert "16 of 16 summaries did not end by themselves" in said.out


def test_mrbench_is_built_and_evaluated(fieldmark: Cli, colors: Path, tmp_path: Path) -> None:
    built = fieldmark("data", "mrbench", "--root", colors, "--out", tmp_path)
    assert built.code == 0, built.err
    assert "tiny_task0: 8 queries taken of 8" in built.out
    path = tmp_path / "mrbench.jsonl"
    said = fieldmark(
        "evaluate", "mrbench", *SMALL, "--root", colors, "--benchmark", path, "--json", tmp_path / "o.json"
    )
    assert said.code == 0, said.err
    assert "average over sources" in said.out and "tiny_task0: a dropped grain moves" in said.out
    assert json.loads((tmp_path / "o.json").read_text())["by_grains"][0]["num_queries"] == 16
    again = fieldmark("data", "mrbench", "--root", colors, "--out", tmp_path)
    assert again.code == 2 and "may have been edited" in again.err


def test_a_model_whose_answers_cannot_be_read(fieldmark: Cli, colors: Path, tmp_path: Path) -> None:
    asked = ("--build.grains", "model", "--build.tasks", "[tiny_task0,tiny_task3]", "--asking.image_size", "24")
    limits = ("--asking.max_new_tokens", "4", "--build.most_asked", "3", "--asking.batch_size", "2")
    said = fieldmark("data", "mrbench", "--root", colors, "--out", tmp_path, *asked, *limits)
    assert said.code == 2 and "3 answers unreadable" in said.err
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 6 and {one["by"] for one in answers} == {"bundled"}
    assert not (tmp_path / "mrbench.jsonl").exists()


def test_video(fieldmark: Cli, tmp_path: Path) -> None:
    rows = ["video_id,sentence"]
    for color in COLORS:
        for i in range(2):
            square(tmp_path / "videos" / color / f"{i}.png", color, "light")
        rows.append(f"{color},something {color}")
    (tmp_path / "test.csv").write_text("\n".join(rows))
    words = ("--annotations", tmp_path / "test.csv", "--videos", tmp_path / "videos", "--encoding.frames", "2")
    said = fieldmark("evaluate", "video", *SMALL, *words, "--json", tmp_path / "out.json")
    assert said.code == 0, said.err
    assert "4 captions, 4 videos" in said.out and "MdR" in said.out
    assert json.loads((tmp_path / "out.json").read_text())["recall_at_5"] == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("evaluate", "mbeir"), "set --root"),
        (("evaluate", "mbeir", "--root", "x"), "set --embedder"),
        (("evaluate", "mrbench", "--root", "x"), "set --benchmark"),
        (("evaluate", "video"), "set --annotations"),
        (("data", "mrbench", "--out", "x"), "set root"),
    ],
)
def test_what_is_missing_is_named(fieldmark: Cli, tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    said = fieldmark(*(tmp_path / word if word == "x" else word for word in words))
    assert said.code == 2 and named in said.err
