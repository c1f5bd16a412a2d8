"""The split of a published benchmark: which classes train, which test, and how many pictures there are of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Classes and pictures of both halves."""

    train_classes: int
    test_classes: int
    train_images: int
    test_images: int

    def differences(self, found: "Counts") -> tuple[str, ...]:
        """What `found` has otherwise, in words; empty if all four numbers are equal."""
        rows = (
            ("training classes", self.train_classes, found.train_classes),
            ("test classes", self.test_classes, found.test_classes),
            ("training pictures", self.train_images, found.train_images),
            ("test pictures", self.test_images, found.test_images),
        )
        return tuple(
            f"{name}: {own} instead of {wanted} ({own - wanted:+d})" for name, wanted, own in rows if own != wanted
        )


@dataclass(frozen=True)
class PublishedSplit:
    """The class-disjoint halves that a benchmark's protocol fixes. No fraction and no split.json changes them."""

    benchmark: str
    """"CUB-200-2011", …"""
    rule: str
    """How the halves are told apart, in words."""
    train: frozenset[str]
    """Names of the classes for training; validation classes are taken from these."""
    test: frozenset[str]
    counts: Counts
    """Of the complete data set, validation counted as training."""
