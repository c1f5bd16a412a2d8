"""What a run says while it runs: figures by step as JSON lines, seconds by phase, progress, TensorBoard if
asked for.

One JSON object a line: `{"step": 120, "kind": "train", "loss": 1.25, ..., "seconds": {"rollouts": 1.9,
...}}`. `step` is the number of optimiser steps that are done, as in a checkpoint: the first step of a run
logs 1. Write all lines of a step before its checkpoint; then a resumed run repeats none and misses none.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

_OWN_KEYS = frozenset({"step", "kind", "seconds"})


class TrainingLog:
    """Log of one run. Use it as a context manager, so that the file and the progress bar are closed.

    Args:
        path: the JSONL file; its folder exists.
        resume_from: steps done in the checkpoint that the run continues from: later lines are cut off. None
            starts anew and empties the file.
        total_steps: length of the run for the progress display; None shows none.
        shown: names of the figures of "train" lines, and of other kinds as "kind/name", that the progress
            shows.
        tensorboard: folder for TensorBoard's events, or None.
        stream: where the progress goes (standard error). On a terminal a bar, elsewhere one line now and
            then.
        line_every: seconds between those lines.
        clock: seconds from any fixed moment.

    Raises:
        ValueError: a line of the file that is to be continued is damaged, or TensorBoard is asked for and
            missing.
    """

    def __init__(
        self,
        path: Path,
        *,
        resume_from: int | None = None,
        total_steps: int | None = None,
        shown: Sequence[str] = (),
        tensorboard: Path | None = None,
        stream: TextIO | None = None,
        line_every: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path = path
        self._clock = clock
        self._writer = None if tensorboard is None else _open_tensorboard(tensorboard, resume_from)
        self._written: set[str] = set()
        self._last_step = -1
        if resume_from is not None and path.exists():
            self._cut_after(resume_from)
        self._file = path.open("w" if resume_from is None else "a", encoding="utf-8")

        self._phases: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._running: list[str] = []
        self._mark = 0.0

        self._shown = tuple(shown)
        self._figures: dict[str, Any] = {}
        self._progress = (
            None
            if total_steps is None
            else _Progress(resume_from or 0, total_steps, stream or sys.stderr, line_every, clock)
        )

    def write(self, step: int, figures: Mapping[str, Any], kind: str = "train") -> None:
        """Appends one line and shows the progress.

        Args:
            step: optimiser steps done; never less than in the line before.
            figures: numbers (scalar tensors too), strings, None, or lists and dicts of them. Numbers that are
                not finite become null. "train" lines also get the seconds by phase since the last one.
            kind: what the line is about; one line a step of each kind.

        Raises:
            ValueError: steps go backwards, the line is there already, or a figure has a reserved name.
        """
        if step < self._last_step or (step == self._last_step and kind in self._written):
            raise ValueError(
                f"the log already has a {kind!r} line of step {step} or a later one (last step "
                f"{self._last_step}); after a resume, give the checkpoint's step as resume_from"
            )
        reserved = _OWN_KEYS & set(figures)
        if reserved:
            raise ValueError(f"figures may not be called {sorted(reserved)}; choose another name")
        if step > self._last_step:
            self._written.clear()
            self._last_step = step
        self._written.add(kind)

        line = {"step": step, "kind": kind} | {name: _plain(value) for name, value in figures.items()}
        if kind == "train":
            line["seconds"] = self._take_phases()
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._writer is not None:
            self._to_tensorboard(self._writer, line)
        self._show(line)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time inside as seconds of phase `name`.

        Phases may nest; the outer one stands still meanwhile, so the seconds of all phases add up to the time
        spent. On an accelerator the time is that until the work is queued, unless the phase itself waits for
        a result.
        """
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def total_seconds(self) -> dict[str, float]:
        """Seconds by phase since this log was opened (those before a resume are in the file)."""
        self._count()
        names = self._totals | self._phases
        return {name: self._totals.get(name, 0.0) + self._phases.get(name, 0.0) for name in names}

    def message(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        if self._progress is not None:
            self._progress.message(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()
        if self._progress is not None:
            self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut_after(self, step: int) -> None:
        """Cuts off the lines of later steps, and a last line that a kill left unfinished."""
        keep = 0
        with self._path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    line = json.loads(raw)
                    line_step, kind = int(line["step"]), str(line["kind"])
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self._path}, line {number}, is not a line of this log; repair or remove it, then "
                        "resume again"
                    ) from error
                if line_step > step:
                    break
                if line_step > self._last_step:
                    self._written.clear()
                    self._last_step = line_step
                self._written.add(kind)
                keep += len(raw)
        with self._path.open("r+b") as file:
            file.truncate(keep)

    def _count(self) -> None:
        now = self._clock()
        if self._running:
            name = self._running[-1]
            self._phases[name] = self._phases.get(name, 0.0) + now - self._mark
        self._mark = now

    def _take_phases(self) -> dict[str, float]:
        self._count()
        taken, self._phases = self._phases, {}
        for name, seconds in taken.items():
            self._totals[name] = self._totals.get(name, 0.0) + seconds
        return {name: round(seconds, 6) for name, seconds in taken.items()}

    def _show(self, line: Mapping[str, Any]) -> None:
        if self._progress is None:
            return
        prefix = "" if line["kind"] == "train" else f"{line['kind']}/"
        self._figures |= {f"{prefix}{name}": value for name, value in line.items() if name not in _OWN_KEYS}
        shown = {name: self._figures[name] for name in self._shown if self._figures.get(name) is not None}
        self._progress.show(line["step"], shown)

    def _to_tensorboard(self, writer: Any, line: Mapping[str, Any]) -> None:
        seconds = {f"seconds/{phase}": value for phase, value in line.get("seconds", {}).items()}
        for name, value in {**line, **seconds}.items():
            if name != "step" and isinstance(value, int | float):
                writer.add_scalar(f"{line['kind']}/{name}", value, line["step"])


def read_log(path: Path) -> list[dict[str, Any]]:
    """All finished lines of a log, in order."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class _Progress:
    """A tqdm bar on a terminal; elsewhere a line every `line_every` seconds, and one at the end."""

    def __init__(self, start: int, total: int, stream: TextIO, line_every: float, clock: Callable[[], float]) -> None:
        self._start, self._total, self._stream = start, total, stream
        self._line_every, self._clock = line_every, clock
        self._began = self._last_line = clock()
        self._bar: tqdm | None = None
        if stream.isatty():
            self._bar = tqdm(total=total, initial=start, file=stream, unit="step", dynamic_ncols=True)

    def show(self, step: int, figures: Mapping[str, Any]) -> None:
        texts = {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(texts, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = self._clock()
        if now - self._last_line < self._line_every and step < self._total:
            return
        self._last_line = now
        parts = [f"step {step}/{self._total}"]
        if step > self._start:
            pace = (now - self._began) / (step - self._start)
            parts += [f"{pace:.2f} s/step", f"{_duration(pace * (self._total - step))} left"]
        self.message(" | ".join(parts + [f"{name} {text}" for name, text in texts.items()]))

    def message(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _open_tensorboard(folder: Path, resume_from: int | None) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "TensorBoard is asked for but not installed: pip install 'fieldmark[tensorboard]', or do without it"
        ) from error
    return SummaryWriter(str(folder), purge_step=None if resume_from is None else resume_from + 1)
