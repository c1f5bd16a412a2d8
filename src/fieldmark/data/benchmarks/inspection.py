"""`fieldmark data inspect cub --root PATH`: a benchmark's counts against the published ones, then every picture."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fieldmark.data.benchmarks.catalogue import read_benchmark
from fieldmark.data.benchmarks.spec import Benchmark
from fieldmark.data.collection import LabelledImages, collect
from fieldmark.data.decode import DEFAULT_LIMITS, DecodeLimits
from fieldmark.data.inspection import Inspection, inspect_images
from fieldmark.data.published import Counts


@dataclass(frozen=True)
class BenchmarkInspection:
    """A complete benchmark, and what is odd about its files."""

    benchmark: str
    rule: str
    """How its protocol halves the classes."""
    counts: Counts
    """As found, which is as published."""
    inspection: Inspection

    def as_json(self) -> str:
        """Everything, as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    def as_text(self) -> str:
        """For people."""
        c = self.counts
        return (
            f"{self.benchmark}, complete: {c.train_images + c.test_images} pictures of "
            f"{c.train_classes + c.test_classes} classes, as published\n"
            f"  training half        {c.train_images} pictures of {c.train_classes} classes\n"
            f"  test half            {c.test_images} pictures of {c.test_classes} classes\n"
            f"  rule                 {self.rule}\n\n{self.inspection.as_text()}"
        )


def inspect_benchmark(
    benchmark: Benchmark,
    path: Path | str,
    limits: DecodeLimits = DEFAULT_LIMITS,
    workers: int = 0,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> BenchmarkInspection:
    """Holds a benchmark's files to `benchmark.counts`, then decodes every picture once.

    The counts are of the pictures that the archive lists and that lie where they belong; those that cannot be decoded
    are told in the inspection.

    Args:
        path: the folder or archive, as for `fieldmark.data.collection.load_collection`.
        limits: what decoding one picture may cost.
        workers: processes that decode; 0 decodes here.
        progress: called with (pictures done, pictures in all).

    Raises:
        ValueError: it is not there, incomplete, or another version; with the differences and what to download.
    """
    reading, published = read_benchmark(benchmark, Path(path))
    collection = collect(reading.root, reading.listing, limits=limits, published=published)
    found = _count(collection)
    differences = benchmark.counts.differences(found)
    if differences:
        raise ValueError(
            f"{path} is not the complete {benchmark.title}:" + "".join(f"\n  {line}" for line in differences) + "\n"
            f"{benchmark.download}"
        )
    inspection = inspect_images(collection, path, workers, progress=progress)
    return BenchmarkInspection(benchmark.title, benchmark.rule, found, inspection)


def _count(collection: LabelledImages) -> Counts:
    published = collection.published
    assert published is not None
    train = sum(split == "train" for split in collection.splits)
    return Counts(
        sum(name in published.train for name in collection.class_names),
        sum(name in published.test for name in collection.class_names),
        train,
        len(collection) - train,
    )
