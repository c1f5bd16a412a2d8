"""What Prometheus reads from /metrics. Every label has a bounded number of values."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service; each has its own registry, so that several can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fieldmark_requests", "Answered requests", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "fieldmark_request_seconds",
            "Time to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._active = Gauge("fieldmark_requests_active", "Requests that are worked on", registry=self._registry)
        self._batch_size = Histogram(
            "fieldmark_batch_size",
            "Inputs that were embedded together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self._registry,
        )
        self._encoder_seconds = Counter("fieldmark_encoder_seconds", "Time the encoder worked", registry=self._registry)

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A number that is asked for when Prometheus asks."""
        Gauge(name, help, registry=self._registry).set_function(value)

    def request_began(self) -> None:
        self._active.inc()

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        self._active.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._batch_size.observe(size)
        self._encoder_seconds.inc(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
