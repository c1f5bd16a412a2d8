"""Building a multi-grain benchmark: from annotations, and from a model that is asked."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fixtures_colors import write_colors

from fieldmark.data.retrieval import Item
from fieldmark.evaluation.mrbench import read_mrbench
from fieldmark.experiments.mrbench_building import MrbenchBuildConfig, build_mrbench


class Model:
    """Says two grains of texts, writes prose about pictures; counts."""

    def __init__(self, fails_after: int = 1000) -> None:
        self.asked: list[str] = []
        self.left = fails_after

    def __call__(self, items: Sequence[Item]) -> list[str]:
        if self.left <= 0:
            raise RuntimeError("out of memory")
        self.left -= 1
        self.asked += [item.id for item in items]
        return [json.dumps((item.text or "").split(", ")) if item.text else "a picture" for item in items]


def config(root: Path, **changes: object) -> MrbenchBuildConfig:
    return MrbenchBuildConfig(root=str(root), **changes)  # type: ignore[arg-type]


def test_from_annotations(tmp_path: Path) -> None:
    root, out = write_colors(tmp_path / "data"), tmp_path / "out"
    reports = build_mrbench(config(root, per_task=5), out)
    # the queries of task 4 have one grain each
    assert [(one.task, one.taken, one.too_few) for one in reports] == [
        ("tiny_task0", 5, 0), ("tiny_task3", 5, 0), ("tiny_task4", 0, 8)
    ]  # fmt: skip
    queries = read_mrbench(out / "mrbench.jsonl")
    assert len(queries) == 10 and {one.by for one in queries} == {"annotation"}
    words = next(one for one in queries if one.task == "tiny_task0")
    assert words.text == ", ".join(words.grains) and words.image is None
    picture = next(one for one in queries if one.task == "tiny_task3")
    assert picture.text is None and picture.image == f"images/tiny/{int(picture.qid[3:]) - 20}.png"
    assert not (out / "answers.jsonl").exists()


def test_the_seed_draws_the_queries(tmp_path: Path) -> None:
    root = write_colors(tmp_path / "data")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_mrbench(config(root, per_task=3, seed=seed), tmp_path / name)
    first, again, other = ((tmp_path / name / "mrbench.jsonl").read_text() for name in "abc")
    assert first == again != other


def test_asking_a_model(tmp_path: Path) -> None:
    root, out, model = write_colors(tmp_path / "data"), tmp_path / "out", Model()
    reports = build_mrbench(config(root, grains="model", tasks=("tiny_task0", "tiny_task3")), out, ask=model, by="m",
                            batch_size=3)  # fmt: skip
    assert [(one.taken, one.looked_at, one.unreadable) for one in reports] == [(8, 8, 0), (0, 8, 8)]
    assert len(model.asked) == 16
    queries = read_mrbench(out / "mrbench.jsonl")
    assert {one.by for one in queries} == {"m"} and all(len(one.grains) == 2 for one in queries)
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 16 and answers[0]["answer"].startswith("[")


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    root, out = write_colors(tmp_path / "data"), tmp_path / "out"
    asking = config(root, grains="model", tasks=("tiny_task0",))
    with pytest.raises(RuntimeError):
        build_mrbench(asking, out, ask=Model(fails_after=2), by="m", batch_size=3)
    assert not (out / "mrbench.jsonl").exists()
    second = Model()
    build_mrbench(asking, out, ask=second, by="m", batch_size=3)
    assert len(second.asked) == 2
    third, other = Model(), Model()
    build_mrbench(asking, out, ask=third, by="m", force=True)
    assert third.asked == []
    build_mrbench(asking, out, ask=other, by="other", force=True)
    assert len(other.asked) == 8


def test_an_edited_benchmark_is_not_overwritten(tmp_path: Path) -> None:
    root, out = write_colors(tmp_path / "data"), tmp_path / "out"
    build_mrbench(config(root), out)
    with pytest.raises(ValueError, match="may have been edited"):
        build_mrbench(config(root), out)


def test_bad_input(tmp_path: Path) -> None:
    root = write_colors(tmp_path / "data")
    with pytest.raises(ValueError, match=r"no query of .* has 2 grains.*Ask a model"):
        build_mrbench(config(root, tasks=("tiny_task4",)), tmp_path / "a")
    with pytest.raises(ValueError, match="needs a model"):
        build_mrbench(config(root, grains="model"), tmp_path / "b")
    with pytest.raises(ValueError, match="set root"):
        build_mrbench(MrbenchBuildConfig(), tmp_path / "c")
    with pytest.raises(ValueError, match="per_task"):
        MrbenchBuildConfig(per_task=0)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "answers.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no stored answer"):
        build_mrbench(config(root, grains="model"), tmp_path / "d", ask=Model(), by="m")
