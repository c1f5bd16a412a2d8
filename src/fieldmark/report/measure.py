"""Figures of every method with intervals, and differences between methods query by query."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldmark.evaluation.retrieval import Interval, bootstrap_interval
from fieldmark.evaluation.zero_shot import ZeroShotResult, evaluate_encoder
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.report.inputs import MethodReport, Report

INTERVAL_METRICS = ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r")
METRICS = (*INTERVAL_METRICS, "nmi")
METRIC_TITLES = {
    "recall_at_1": "R@1",
    "recall_at_2": "R@2",
    "recall_at_4": "R@4",
    "recall_at_8": "R@8",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
}


@dataclass(frozen=True)
class Figure:
    """A share, with its 95 % interval (retrieval, over classes) or spread (NMI, over k-means seeds) if
    known."""

    value: float
    low: float | None = None
    high: float | None = None
    spread: float | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """A method, its encoder and what it reaches on the test pictures."""

    method: MethodReport
    style: str
    """CSS class of its colour: role and number within the role."""
    encoder: RetrievalEncoder | None
    result: ZeroShotResult | None
    """None without an encoder."""
    figures: dict[str, Figure]
    remark: str = ""
    """Something that the reader must know about the figures."""

    @property
    def title(self) -> str:
        return self.method.title


def measure(report: Report) -> list[Measured]:
    """Load and evaluate every encoder once."""
    styles = role_styles([method.role for method in report.methods])
    return [_measure(report, method, style) for method, style in zip(report.methods, styles, strict=True)]


def role_styles(roles: Sequence[str]) -> list[str]:
    """CSS class of each row's colour: its role, and its number within the role (the third and later are alike)."""
    return [f"c-{role}-{min(roles[:i].count(role), 2)}" for i, role in enumerate(roles)]


def _measure(report: Report, method: MethodReport, style: str) -> Measured:
    encoder = (
        RetrievalEncoder.from_pretrained(method.encoder) if isinstance(method.encoder, str | Path) else method.encoder
    )
    result = None
    if encoder is not None:
        seeds = () if "nmi" in method.results or report.test.num_classes < 2 else (0, 1, 2)
        result = evaluate_encoder(encoder, report.test, workers=report.workers, nmi_seeds=seeds)
    figures = {name: figure for name in METRICS if (figure := _figure(method, result, name, report.seed)) is not None}
    remark = ""
    given = method.results.get("recall_at_1")
    if (
        result is not None
        and given is not None
        and abs(given - result.recall_at_k[1]) > 0.5 / result.metrics.num_queries
    ):
        remark = (
            f"its results say R@1 {100 * given:.1f} %, but on these pictures its encoder reaches "
            f"{100 * result.recall_at_k[1]:.1f} %: they belong to another test set or another encoder"
        )
    return Measured(method, style, encoder, result, figures, remark)


def _figure(method: MethodReport, result: ZeroShotResult | None, name: str, seed: int) -> Figure | None:
    """The recorded value if there is one, else the computed one; the interval is computed where possible."""
    given = method.results.get(name)
    if name == "nmi":
        if given is not None:
            return Figure(float(given), spread=method.results.get("nmi_std"))
        if result is not None and result.nmi is not None:
            return Figure(result.nmi.mean, spread=result.nmi.std)
        return None
    if result is not None:
        m = result.metrics
        interval = bootstrap_interval(m.per_query(name), seed, groups=result.labels[m.evaluated])
        return Figure(interval.mean if given is None else float(given), interval.low, interval.high)
    if given is None:
        return None
    low, high = method.results.get(f"{name}_interval") or (None, None)
    return Figure(float(given), low, high)


def baseline_of(report: Report, measured: Sequence[Measured]) -> Measured | None:
    """The row that others are compared with."""
    for one in measured:
        if one.method.name == report.baseline or (report.baseline is None and one.method.role == "baseline"):
            return one
    return None


def paired_difference(better: Measured, worse: Measured, metric: str, seed: int) -> Interval | None:
    """Mean over queries of ``better − worse``, with its bootstrap interval over whole classes; None if one of
    them has no encoder.
    """
    if better.result is None or worse.result is None:
        return None
    first, second = better.result.metrics, worse.result.metrics
    groups = better.result.labels[first.evaluated]
    return bootstrap_interval(first.per_query(metric) - second.per_query(metric), seed, groups=groups)


def points(value: float, digits: int = 1) -> str:
    """A share in percent, ``61.3``."""
    return f"{100 * value:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign: ``+3.2``, ``−0.4``."""
    text = f"{100 * value:+.{digits}f}"
    return "±" + text[1:] if float(text) == 0 else text.replace("-", "−")
