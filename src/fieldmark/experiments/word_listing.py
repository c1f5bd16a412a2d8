"""`fieldmark data words`: the frequent words of training data, to become tokens of their own (`models.new_words`)."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fieldmark.data.retrieval import RetrievalTask
from fieldmark.models.new_words import MOST_WORDS
from fieldmark.training.retrieval_data import RetrievalDataConfig, load_training_task
from fieldmark.training.run_folder import write_text

_WORD = re.compile(r"\w(?:[\w'’.-]*\w)?")


@dataclass(frozen=True)
class WordsConfig:
    """Which words of what.

    Raises:
        ValueError: a number out of range.
    """

    out: str = ""
    """Text file to write, a word a line, the most frequent first."""
    data: RetrievalDataConfig = field(default_factory=RetrievalDataConfig)
    most: int = 4000
    """Words at most."""
    at_least: int = 5
    """How often a word must stand there."""

    def __post_init__(self) -> None:
        if not 1 <= self.most <= MOST_WORDS:
            raise ValueError(f"most must lie between 1 and {MOST_WORDS:,}, got {self.most}")
        if self.at_least < 1:
            raise ValueError(f"at_least must be at least 1, got {self.at_least}")


def write_words(config: WordsConfig) -> str:
    """Count, and write at once; returns what was written, for people.

    Raises:
        ValueError: no file or data given, the file exists, or no word is that frequent.
    """
    if not config.out:
        raise ValueError("set --out to the file")
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out, or remove it")
    task = load_training_task(config.data)
    counted = Counter(word for text in _texts(task) for word in _WORD.findall(text))
    frequent = [word for word, count in counted.items() if count >= config.at_least]
    words = sorted(frequent, key=lambda word: (-counted[word], word))[: config.most]
    if not words:
        raise ValueError(f"no word stands in {task.name} {config.at_least} times: lower --at_least")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "\n".join(words) + "\n")
    share = sum(counted[word] for word in words) / counted.total()
    return f"{len(words)} of {len(counted)} words in {out}: {share:.0%} of all that stand in {task.name}"


def _texts(task: RetrievalTask) -> Iterator[str]:
    """What is read and what may be written: texts, instructions in all wordings, grains."""
    for query in task.queries:
        yield from (query.item.text or "", query.instruction, *query.wordings, *query.grains)
    for candidate in task.candidates:
        yield candidate.text or ""
