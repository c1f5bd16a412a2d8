"""What stands in a table's cells."""

from collections.abc import Iterable
from statistics import mean, stdev


def spread(values: Iterable[float], sign: bool = False, digits: int = 1) -> str:
    """'45.0 ± 7.1', mean and sample standard deviation; without a spread where there is one value."""
    numbers = list(values)
    text = f"{mean(numbers):{'+' if sign else ''}.{digits}f}"
    return text + (f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else "")


def clock(seconds: float) -> str:
    """'357 s', '12 min', '3.1 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
