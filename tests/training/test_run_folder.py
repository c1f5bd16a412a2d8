import enum
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from fieldmark.training import run_folder
from fieldmark.training.run_folder import git_commit, prepare_run, to_plain, versions, write_text


@dataclass(frozen=True)
class Optimiser:
    tower_lr: float = 2e-5
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Config:
    data: Path = Path("birds")
    steps: int = 10
    workers: int = 2
    optimiser: Optimiser = field(default_factory=Optimiser)
    reward: str | None = None


def test_a_new_run_stores_what_was_asked_and_with_what(tmp_path: Path) -> None:
    run = prepare_run(tmp_path / "runs" / "a", Config())
    assert not run.resumed and not run.finished
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {
        "data": "birds",
        "steps": 10,
        "workers": 2,
        "optimiser": {"tower_lr": 2e-5, "betas": [0.9, 0.999]},
        "reward": None,
    }
    (start,) = json.loads((run.path / "run.json").read_text())["starts"]
    assert {"python", "torch", "transformers", "fieldmark"} <= start["versions"].keys()
    assert start["command"] and start["platform"] and "git_commit" in start
    assert not start["command"].startswith("/")
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "run.json"]
    assert run.checkpoints == run.path / "checkpoints" and run.log == run.path / "log.jsonl"


def test_a_second_start_needs_a_word(tmp_path: Path) -> None:
    prepare_run(tmp_path, Config())
    with pytest.raises(ValueError, match=r"an unfinished run .*--resume.*--overwrite"):
        prepare_run(tmp_path, Config())
    run = prepare_run(tmp_path, Config(), resume=True)
    assert run.resumed
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 2

    run.write_json("results.json", {"recall_at_1": 0.5})
    assert run.finished
    with pytest.raises(ValueError, match="a finished run"):
        prepare_run(tmp_path, Config())
    assert prepare_run(tmp_path, Config(), resume=True).finished


def test_resume_starts_a_run_that_is_not_there(tmp_path: Path) -> None:
    assert not prepare_run(tmp_path / "new", Config(), resume=True).resumed


def test_a_run_of_an_earlier_version_is_resumed_if_the_new_field_says_what_that_version_did(tmp_path: Path) -> None:
    prepare_run(tmp_path, Config())
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del stored["optimiser"]["betas"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(ValueError, match=r"optimiser\.betas"):
        prepare_run(tmp_path, Config(), resume=True)
    with pytest.raises(ValueError, match=r"optimiser\.betas"):
        prepare_run(tmp_path, Config(), resume=True, earlier={"optimiser.betas": [0.5, 0.5]})
    earlier = {"optimiser.betas": [0.9, 0.999], "not.here": 1}
    assert prepare_run(tmp_path, Config(), resume=True, earlier=earlier).resumed


@pytest.mark.parametrize("resume", [False, True])
def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path: Path, resume: bool) -> None:
    prepare_run(tmp_path, Config())
    other = Config(steps=11, optimiser=Optimiser(tower_lr=1e-4), reward="binary")
    with pytest.raises(ValueError, match="another configuration") as caught:
        prepare_run(tmp_path, other, resume=resume)
    message = str(caught.value)
    assert "steps: 10 there, 11 now" in message
    assert "optimiser.tower_lr: 2e-05 there, 0.0001 now" in message
    assert "reward: None there, binary now" in message
    assert "betas" not in message and "data" not in message
    assert "--overwrite" in message
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


def test_new_and_missing_fields_differ_too(tmp_path: Path) -> None:
    prepare_run(tmp_path, {"a": 1, "b": {}})
    with pytest.raises(ValueError, match=r"a: 1 there, \(absent\) now\n.*b: {} there, \(absent\) now\n.*b\.c"):
        prepare_run(tmp_path, {"b": {"c": 1}}, resume=True)


def test_fields_without_influence_may_differ(tmp_path: Path) -> None:
    prepare_run(tmp_path, Config())
    assert prepare_run(tmp_path, Config(workers=0), resume=True, may_differ=["workers"]).resumed
    other = Config(optimiser=Optimiser(tower_lr=1.0))
    assert prepare_run(tmp_path, other, resume=True, may_differ=["optimiser"]).resumed
    with pytest.raises(ValueError, match=r"optimiser\.tower_lr"):
        prepare_run(tmp_path, other, resume=True, may_differ=["optim", "optimiser.tower"])


def test_overwrite_removes_the_run_and_only_the_run(tmp_path: Path) -> None:
    run = prepare_run(tmp_path, Config())
    run.write_json("results.json", {})
    run.log.write_text("{}\n")
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    run.encoder.mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    again = prepare_run(tmp_path, Config(steps=3), overwrite=True)
    assert not again.resumed and not again.finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "notes.txt", "run.json"]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["steps"] == 3
    with pytest.raises(ValueError, match="exclude"):
        prepare_run(tmp_path, Config(), resume=True, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds no run \(found thesis\.tex\)"):
        prepare_run(tmp_path, Config(), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "run"):
        with pytest.raises(ValueError, match=r"cannot be written .*choose another"):
            prepare_run(folder, Config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        prepare_run(tmp_path, Config())


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    prepare_run(tmp_path, Config())
    for text in ("a: [", "just words"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"(?s)config\.yaml .*--overwrite"):
            prepare_run(tmp_path, Config(), resume=True)


def test_a_kill_between_the_two_files_does_not_block(tmp_path: Path) -> None:
    prepare_run(tmp_path, Config())
    (tmp_path / "run.json").unlink()
    assert prepare_run(tmp_path, Config(), resume=True).resumed


def test_other_versions_are_said_at_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_run(tmp_path, Config())
    changed = versions() | {"torch": "9.9"}
    monkeypatch.setattr(run_folder, "versions", lambda: changed)
    with pytest.warns(UserWarning, match=r"torch .* -> 9\.9"):
        prepare_run(tmp_path, Config(), resume=True)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare_run(tmp_path, Config())
    run.write_json("results.json", {"rows": [1]})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_json("results.json", {"rows": [1, 2]})
    assert json.loads(run.results.read_text()) == {"rows": [1]}
    with pytest.raises(ValueError, match=r"rows\[1\].scores is a set"):
        run.write_json("results.json", {"rows": [1, {"scores": {1}}]})


class Colour(enum.Enum):
    RED = "red"


def test_plain_values() -> None:
    value = {
        1: (np.float32(0.5), np.int64(3)),
        "c": Colour.RED,
        "p": Path("a/b"),
        "o": Optimiser(),
        "n": None,
    }
    assert to_plain(value) == {
        "1": [0.5, 3],
        "c": "red",
        "p": "a/b",
        "o": {"tower_lr": 2e-5, "betas": [0.9, 0.999]},
        "n": None,
    }
    with pytest.raises(ValueError, match=r"a\.b is a ndarray"):
        to_plain({"a": {"b": np.zeros(3)}})
    with pytest.raises(ValueError, match="must be a dataclass or a mapping, not list"):
        prepare_run("never-made", [1])


def test_commit_is_that_of_the_checkout_that_tracks_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    source = tmp_path / "source.py"
    write_text(source, "x = 1\n")
    monkeypatch.setattr(run_folder, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert git_commit() is None
    git("init", "-q")
    (tmp_path / "other.py").touch()
    git("add", "other.py")
    git("commit", "-qm", "someone else's project")
    assert git_commit() is None
    git("add", "source.py")
    git("commit", "-qm", "the source")
    assert git_commit() == git("rev-parse", "HEAD")
    source.write_text("x = 2\n")
    assert git_commit() == git("rev-parse", "HEAD") + "+changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
