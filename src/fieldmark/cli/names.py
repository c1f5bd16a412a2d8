"""Names that were mistyped, and the nearest ones that exist."""

import difflib
from collections.abc import Collection


class UsageError(ValueError):
    """The command line, or a file given with --config, says something that the command does not know."""


def nearest_names(name: str, known: Collection[str]) -> list[str]:
    """Names that were probably meant, best first, three at most.

    A dotted name that ends alike comes first: "batch_size" means "data.batch_size".
    """
    by_leaf: dict[str, list[str]] = {}
    for one in known:
        by_leaf.setdefault(one.rsplit(".", 1)[-1], []).append(one)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in by_leaf:
        # of equal leaves, the one whose whole name is nearest comes first
        return sorted(by_leaf[leaf], key=lambda one: -difflib.SequenceMatcher(None, name, one).ratio())[:3]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return close
    leaves = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.7)
    return by_leaf[leaves[0]][:3] if leaves else []


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """ ": did you mean 'x'?", or "" if nothing is near."""
    found = [f"{prefix}{one}" for one in nearest_names(name, known)]
    return f": did you mean {' or '.join(map(repr, found))}?" if found else ""
