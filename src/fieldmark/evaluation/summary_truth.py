"""Are the summaries true? For collections that know what holds of every item, in the words of its summaries."""

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

_SPACE = re.compile(r"[\s:]+")  # "bill shape: hooked" says what "bill shape hooked" says


@dataclass(frozen=True)
class SummaryTruth:
    """How far summaries agree with what is known.

    Attributes:
        true: of all statements, the share that is known to hold of what was summarised; 0 if nothing was stated.
        named: share of what is known that the summary states, mean over summaries.
        statements: different statements of a summary, mean.
        unreadable: of all parts between commas, the share that is no statement that the collection knows.
        num_summaries: how many.
    """

    true: float
    named: float
    statements: float
    unreadable: float
    num_summaries: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def summary_truth(
    summaries: Sequence[str], known: Sequence[Collection[str]], vocabulary: Collection[str]
) -> SummaryTruth:
    """Compare summaries with facts. A statement that a summary repeats counts once.

    Args:
        summaries: statements with commas between them, as "bill shape hooked, leg color red".
        known: of each, what holds of its item: the facts of a candidate, or the grains of a query. Not empty.
        vocabulary: every statement that the collection can make.

    Raises:
        ValueError: no summaries, of another number than what is known, or nothing is known of one.
    """
    if not summaries or len(summaries) != len(known):
        raise ValueError(f"{len(summaries)} summaries of {len(known)} items: need as many, and one at least")
    if not all(known):
        raise ValueError(f"nothing is known of item {next(i for i, one in enumerate(known) if not one)}: leave it out")
    readable = {_plain(one) for one in vocabulary}
    stated = true = parts = unreadable = 0
    named = 0.0
    for summary, facts in zip(summaries, known, strict=True):
        said = [plain for one in summary.split(",") if (plain := _plain(one))]
        statements, holds = set(said) & readable, {_plain(one) for one in facts}
        parts += len(said)
        unreadable += sum(one not in readable for one in said)
        stated += len(statements)
        true += len(statements & holds)
        named += len(statements & holds) / len(holds)
    count = len(summaries)
    return SummaryTruth(
        true=true / stated if stated else 0.0,
        named=named / count,
        statements=stated / count,
        unreadable=unreadable / parts if parts else 0.0,
        num_summaries=count,
    )


def _plain(statement: str) -> str:
    return _SPACE.sub(" ", statement).strip(" .\n").lower()
