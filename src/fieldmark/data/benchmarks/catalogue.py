"""The benchmarks by name; which of them lies at a path; its pictures with both halves marked."""

from dataclasses import replace
from pathlib import Path

from fieldmark.data.benchmarks.aircraft import AIRCRAFT
from fieldmark.data.benchmarks.archives import ENDINGS, archive_name
from fieldmark.data.benchmarks.cars import CARS
from fieldmark.data.benchmarks.cub import CUB
from fieldmark.data.benchmarks.inat import INAT
from fieldmark.data.benchmarks.spec import Benchmark, Reading
from fieldmark.data.published import PublishedSplit
from fieldmark.data.records import Listing

BENCHMARKS: dict[str, Benchmark] = {one.key: one for one in (CUB, CARS, AIRCRAFT, INAT)}
"""Name on the command line → benchmark."""


def find_benchmark(path: Path) -> Benchmark | None:
    """The benchmark that lies at a path, complete or not: a folder, or an archive by its official name.

    Looks at names only; nothing is unpacked. None for anything else.

    Raises:
        ValueError: several benchmarks lie there, or an archive that is none of theirs.
    """
    if path.is_file():
        name = archive_name(path)
        found = [one for one in BENCHMARKS.values() if name in one.archives]
        if name is not None and not found:
            known = ", ".join(f"{stem}{ENDINGS[0]}" for one in BENCHMARKS.values() for stem in one.archives)
            raise ValueError(
                f"{path} is an archive that is not known by its name (known: {known}, each also with "
                f"{' or '.join(ENDINGS[1:])}): rename it, or unpack it"
            )
    else:
        found = [one for one in BENCHMARKS.values() if path.is_dir() and one.recognise(path)]
    if len(found) > 1:
        raise ValueError(f"{path} holds {' and '.join(one.title for one in found)}: give the folder of one of them")
    return found[0] if found else None


def read_benchmark(benchmark: Benchmark, path: Path) -> tuple[Reading, PublishedSplit]:
    """The pictures of a benchmark, each marked "train" or "test" by its class, and the two halves.

    The halves are the first and second half of the *listed* classes in the protocol's order (class ids for CUB
    and Cars, bytewise names for Aircraft and iNat); of an odd number, the middle one trains.

    Args:
        path: a folder, or one of the benchmark's archives; where a folder out of the archive lies beside it, that
            is read.

    Raises:
        ValueError: something is missing, damaged or of another version; says what to download and where it belongs.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist. {benchmark.download}")
    reading = benchmark.read(path.parent if path.is_file() else path)
    listing = reading.listing
    names = listing.class_names
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{reading.root} names the class {twice!r} twice. {benchmark.download}")
    middle = (len(names) + 1) // 2
    train, test = frozenset(names[:middle]), frozenset(names[middle:])
    records = tuple(replace(r, split="train" if r.class_name in train else "test") for r in listing.records)
    split = PublishedSplit(benchmark.title, benchmark.rule, train, test, benchmark.counts)
    return Reading(reading.root, Listing(records, names, listing.ignored)), split
