import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldmark.training.log import TrainingLog, read_log


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with TrainingLog(path) as log:
        log.write(1, {"loss": torch.tensor(0.5), "mixed": np.int64(3), "note": "ä", "rate": None})
        assert json.loads(path.read_text(encoding="utf-8")) == {
            "step": 1,
            "kind": "train",
            "loss": 0.5,
            "mixed": 3,
            "note": "ä",
            "rate": None,
            "seconds": {},
        }
        log.write(1, {"recall_at_k": {"1": 0.25}}, kind="validation")
    assert read_log(path)[1] == {"step": 1, "kind": "validation", "recall_at_k": {"1": 0.25}}


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "log.jsonl") as log:
        log.write(1, {"a": math.nan, "b": torch.tensor(math.inf), "c": [1.0, -math.inf], "d": {"e": math.nan}})
    (line,) = read_log(tmp_path / "log.jsonl")
    assert (line["a"], line["b"], line["c"], line["d"]) == (None, None, [1.0, None], {"e": None})


def test_phases_add_up_to_the_time_spent(tmp_path: Path) -> None:
    clock = Clock()
    with TrainingLog(tmp_path / "log.jsonl", clock=clock) as log:
        clock.now += 50  # outside of every phase: not counted
        with log.phase("embed"):
            clock.now += 1
        with log.phase("rollouts"):
            clock.now += 2
            with log.phase("embed"):
                clock.now += 4
            clock.now += 8
        log.write(1, {})
        with pytest.raises(KeyError), log.phase("update"):
            clock.now += 16
            raise KeyError
        log.write(2, {}, kind="validation")
        with log.phase("embed"):
            clock.now += 32
        log.write(2, {})
        assert log.total_seconds() == {"embed": 37.0, "rollouts": 10.0, "update": 16.0}
    first, validation, second = read_log(tmp_path / "log.jsonl")
    assert first["seconds"] == {"embed": 5.0, "rollouts": 10.0}
    assert "seconds" not in validation
    assert second["seconds"] == {"update": 16.0, "embed": 32.0}


def test_resume_leaves_every_line_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def run(log: TrainingLog, first: int, last: int) -> None:
        for step in range(first, last + 1):
            log.write(step, {"loss": 1 / step})
            if step % 2 == 0:
                log.write(step, {"recall": step / 10}, kind="validation")

    def without_times(path: Path) -> list[dict]:
        return [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(path)]

    with TrainingLog(tmp_path / "unbroken.jsonl") as log:
        run(log, 1, 6)
    with TrainingLog(path) as log:
        run(log, 1, 5)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "kind": "tr')  # killed in the middle of a line
    assert len(read_log(path)) == 7
    with TrainingLog(path, resume_from=4) as log:
        run(log, 5, 6)
    assert without_times(path) == without_times(tmp_path / "unbroken.jsonl")
    with (
        TrainingLog(path, resume_from=6) as log,
        pytest.raises(ValueError, match="already has a 'train' line"),
    ):
        log.write(6, {})


def test_without_a_checkpoint_the_log_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "kind": "validation"}\n')
    TrainingLog(path, resume_from=0).close()
    assert len(read_log(path)) == 1
    TrainingLog(path).close()
    assert read_log(path) == []


def test_a_log_that_is_gone_does_not_stop_a_resume(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "log.jsonl", resume_from=3) as log:
        log.write(4, {})
    assert len(read_log(tmp_path / "log.jsonl")) == 1


@pytest.mark.parametrize("damaged", ["not json\n", '{"loss": 1}\n', "[1]\n", '{"step": "x", "kind": "train"}\n'])
def test_a_damaged_line_is_named(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "log.jsonl"
    text = '{"step": 1, "kind": "train"}\n' + damaged + '{"step": 3, "kind": "train"}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match="line 2"):
        TrainingLog(path, resume_from=3)
    assert path.read_text() == text


def test_misuse_is_refused(tmp_path: Path) -> None:
    with TrainingLog(tmp_path / "log.jsonl") as log:
        log.write(2, {})
        for step in (1, 2):
            with pytest.raises(ValueError, match="already has"):
                log.write(step, {})
        log.write(2, {}, kind="validation")
        with pytest.raises(ValueError, match="seconds"):
            log.write(3, {"seconds": 1})
    assert len(read_log(tmp_path / "log.jsonl")) == 2


def test_without_a_terminal_a_line_comes_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    shown = ("reward", "validation/recall_at_1", "never")
    with TrainingLog(
        tmp_path / "log.jsonl", total_steps=600, shown=shown, stream=stream, line_every=10, clock=clock
    ) as log:
        for step in range(1, 601):
            clock.now += 2
            log.write(step, {"reward": step / 600, "loss": 1.0})
            if step == 2:
                log.write(step, {"recall_at_1": 0.123456}, kind="validation")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 120
    expected = "step 5/600 | 2.00 s/step | 19:50 left | reward 0.008333 | validation/recall_at_1 0.1235"
    assert lines[0] == expected
    assert lines[-1].startswith("step 600/600 | 2.00 s/step | 0:00 left | reward 1")
    assert "\r" not in stream.getvalue()


def test_a_resumed_run_counts_its_own_pace(tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    path = tmp_path / "log.jsonl"
    with TrainingLog(path, resume_from=90, total_steps=10_000, stream=stream, line_every=1, clock=clock) as log:
        clock.now += 10
        log.write(100, {})
    assert stream.getvalue() == "step 100/10000 | 1.00 s/step | 2 h 45 min left\n"


def test_on_a_terminal_a_bar_shows_the_chosen_figures(tmp_path: Path) -> None:
    stream = Terminal()
    with TrainingLog(tmp_path / "log.jsonl", total_steps=4, shown=("reward",), stream=stream) as log:
        for step in range(1, 5):
            log.write(step, {"reward": 0.75, "loss": 1.0})
        log.message("validation starts")
    text = stream.getvalue()
    assert "4/4" in text and "reward=0.75" in text and "loss" not in text and "validation starts" in text


def test_without_total_steps_nothing_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingLog(tmp_path / "log.jsonl") as log:
        log.write(1, {"loss": 1.0})
        assert capsys.readouterr() == ("", "")
        log.message("a word")
    assert capsys.readouterr() == ("", "a word\n")


def test_tensorboard_that_is_missing_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'fieldmark\[tensorboard\]'"):
        TrainingLog(tmp_path / "log.jsonl", tensorboard=tmp_path / "tensorboard")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TrainingLog(tmp_path / "log.jsonl", tensorboard=tmp_path / "tensorboard") as log:
        with log.phase("embed"):
            pass
        log.write(1, {"loss": 0.5, "note": "text"})
        log.write(2, {"loss": 0.25})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert "train/seconds/embed" in found.Tags()["scalars"]
    assert "train/note" not in found.Tags()["scalars"]
