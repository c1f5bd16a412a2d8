"""What a build says while it runs."""

import io
from collections.abc import Iterator

from fieldmark.search.build import BuildReport
from fieldmark.search.progress import BuildProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal() -> None:
    times: Iterator[float] = iter([1.0, 31.0, 40.0, 70.0])
    stream = io.StringIO()
    with BuildProgress(stream, 30.0, lambda: next(times)) as progress:
        progress(BuildReport(uncommitted=10, seconds=1.0), 10_000)
        progress(BuildReport(added=600, uncommitted=20, seconds=31.0), 10_000)
        progress(BuildReport(added=700, seconds=40.0), 10_000)
        progress(BuildReport(added=4000, unchanged=2990, failed=10, seconds=70.0), 10_000)
    assert stream.getvalue().splitlines() == [
        "620 of 10,000 pictures | 20.0/s | 7:49 left",
        "7,000 of 10,000 pictures | 100.0/s | 0:30 left | 10 failed",
    ]


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    with BuildProgress(stream) as progress:
        progress(BuildReport(uncommitted=5, seconds=1.0), 10)
        progress(BuildReport(added=8, failed=2, seconds=2.0), 10)
    last = stream.getvalue().split("\r")[-1]
    assert "10/10" in last and "pictures/s" in last and "2 failed" in last
