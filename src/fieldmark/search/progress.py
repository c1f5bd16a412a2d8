"""What a build says while it runs."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm

from fieldmark.search.build import BuildReport

_LINE_EVERY = 30.0


class BuildProgress:
    """Pictures done, pictures per second, time left and failures: a bar on a terminal, elsewhere a line now and then.

    Call it as the progress of `build_index`; use it as a context manager, so that the bar is closed.
    """

    def __init__(
        self, stream: TextIO | None = None, line_every: float = _LINE_EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._line_every, self._clock = line_every, clock
        self._last_line: float | None = None
        self._bar: tqdm | None = None

    def __call__(self, report: BuildReport, total: int) -> None:
        if self._stream.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, unit=" pictures", file=self._stream, dynamic_ncols=True)
            self._bar.set_postfix_str(f"{report.failed} failed" if report.failed else "", refresh=False)
            self._bar.update(report.done - self._bar.n)
            return
        now = self._clock()
        if self._last_line is None:  # no pace can be told from the first pictures, behind which things warm up
            self._last_line = now
        if now - self._last_line < self._line_every:
            return
        self._last_line = now
        pace = report.done / report.seconds if report.seconds > 0 else 0.0
        parts = [f"{report.done:,} of {total:,} pictures", f"{pace:.1f}/s"]
        if pace > 0:
            parts.append(f"{_duration(max(0, total - report.done) / pace)} left")
        if report.failed:
            parts.append(f"{report.failed} failed")
        print(" | ".join(parts), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{rest:02d}"
