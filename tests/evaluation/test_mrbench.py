"""The multi-grain benchmark: reading, and scores on a miniature collection."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures_colors import COLORS, SIZES, ColorEncoder, write_colors

from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.mrbench import (
    GrainedQuery,
    MrbenchConfig,
    MrbenchResult,
    evaluate_mrbench,
    mrbench_lines,
    read_mrbench,
)

IN_LINE = EncodingConfig(batch_size=4, workers=0)
MARKS = [(color, size) for color in COLORS for size in SIZES]


def lines(task: int = 0, first: int = 0, extra: tuple[str, ...] = ()) -> list[GrainedQuery]:
    return [
        GrainedQuery(f"tiny_task{task}", f"10:{first + i}", None, None, (*marks, *extra[: i % 2]), "annotation")
        for i, marks in enumerate(MARKS)
    ]


def run(tmp_path: Path, queries: list[GrainedQuery], encoder: ColorEncoder | None = None) -> MrbenchResult:
    root = tmp_path / "data"
    if not root.exists():
        write_colors(root)
    path = tmp_path / "mrbench.jsonl"
    path.write_text(mrbench_lines(queries), encoding="utf-8")
    config = MrbenchConfig(benchmark=str(path), root=str(root))
    return evaluate_mrbench(encoder or ColorEncoder(), config, IN_LINE, np.random.default_rng(0))


def test_an_encoder_that_hears_everything(tmp_path: Path) -> None:
    found = run(tmp_path, lines() + lines(3, 20, ("square",)))
    assert [str(one.name) for one in found.sources] == ["tiny_task0", "tiny_task3"]
    assert found.average == found.pooled.mean == 1
    assert {count: number for count, (_, number) in found.by_grains.items()} == {2: 12, 3: 4}
    words, pictures = found.sources
    assert words.sensitivity is not None and words.sensitivity.relative > 0.2 and words.sensitivity.num_skipped == 0
    assert pictures.sensitivity is None and "tiny_task3: no grain sensitivity" in pictures.notes[0]
    assert words.compliance is not None and words.compliance.misordered == 0
    # of 8: itself with both grains, one of its colour, three of its brightness
    assert words.compliance.satisfied == pytest.approx((2 + 4) / 2 / 5)


def test_an_encoder_that_is_deaf_to_brightness(tmp_path: Path) -> None:
    found = run(tmp_path, lines(), ColorEncoder(deaf_to=SIZES)).sources[0]
    assert found.metrics.recall_at_k[1] == 0.5  # the lower place of two equal ones
    assert found.sensitivity is not None and found.compliance is not None
    assert (found.sensitivity.distances < 1e-6).sum() == 8
    assert found.compliance.near_miss_first == 0.5


def test_json_and_text(tmp_path: Path) -> None:
    found = run(tmp_path, lines() + lines(3, 20))
    plain = json.loads(json.dumps(found.as_json()))
    assert plain["average"] == 1 and plain["by_grains"] == [
        {"grains": 2, "recall_at_5": 1.0, "low": 1.0, "high": 1.0, "num_queries": 16}
    ]
    assert plain["by_source"][0]["sensitivity"]["num_dropped"] == 16
    assert plain["by_source"][1]["sensitivity"] is None
    text = found.as_text()
    assert "average over sources: 100.0" in text and "a dropped grain moves" in text


def test_lines_are_read_as_written_and_people_may_leave_some_out(tmp_path: Path) -> None:
    path = tmp_path / "mrbench.jsonl"
    path.write_text(mrbench_lines(lines()) + "\n", encoding="utf-8")
    assert read_mrbench(path) == lines()
    edited = path.read_text().splitlines()
    edited[0] = edited[0].replace('"keep": true', '"keep": false')
    path.write_text("\n".join(edited))
    assert read_mrbench(path) == lines()[1:]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("not json", "line 2 is no query"),
        ("[1]", "line 2 is no query"),
        ('{"task": "tiny_task0"}', "line 2 is no query"),
        (mrbench_lines(lines()[:1]), "stands twice"),
        (
            mrbench_lines([GrainedQuery("tiny_task0", "10:9", None, None, ("red", "red"), "x")]),
            "at least two different",
        ),
        (mrbench_lines(lines()[1:2]).replace("true", '"yes"'), "keep is true or false"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "mrbench.jsonl"
    path.write_text(mrbench_lines(lines()[:1]) + line, encoding="utf-8")
    with pytest.raises(ValueError, match=named):
        read_mrbench(path)


def test_bad_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fieldmark data mrbench"):
        read_mrbench(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="'10:99'"):
        run(tmp_path, [*lines(), GrainedQuery("tiny_task0", "10:99", None, None, ("a", "b"), "x")])
    (tmp_path / "mrbench.jsonl").write_text(mrbench_lines(lines()[:1]).replace("true", "false"))
    with pytest.raises(ValueError, match="keeps no query"):
        read_mrbench(tmp_path / "mrbench.jsonl")
    with pytest.raises(ValueError, match="set benchmark"):
        evaluate_mrbench(ColorEncoder(), MrbenchConfig(), IN_LINE, np.random.default_rng(0))
