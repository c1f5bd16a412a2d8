"""Summaries of anything that a search may be for: what an instruction-tuned MLLM brings along, and the tiny one lacks.

The bundled MLLM describes a picture when it is asked attribute by attribute. It was never asked to sum up a text, or a
picture and what is to be different in it. Here it learns the form, and to be sparing: of all that is true a summary
names one statement and each further one with a probability of `KEPT`. That is the grain blindness which ELVA's third
stage is there to cure. (With each number of statements alike, the greedy summary names all of them: once seven of eight
are written, the eighth is as likely as the end.)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fieldmark.data.fieldguide.retrieval import WORDINGS
from fieldmark.data.fieldguide.retrieval_queries import grain_split
from fieldmark.data.fieldguide.species import FIELD_MARKS, is_reserved, random_marks
from fieldmark.data.fieldguide.wording import statements, words
from fieldmark.data.retrieval import Item, RetrievalTask
from fieldmark.data.summaries import KnownSummary
from fieldmark.experiments.tiny_model.language import Example
from fieldmark.experiments.tiny_model.pictures import VALUES, PicturePool
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder

KEPT = 0.4
_NAMES = tuple(FIELD_MARKS)


def draw_copy(rng: np.random.Generator) -> tuple[Request, str]:
    """A text to sum up, without a picture: random statements; or all eight, and a change of one or two of them."""
    marks = random_marks(rng, reserved=False)
    if rng.random() < 0.7:
        truth = _some(marks, int(rng.integers(1, len(marks) + 1)), rng)
        while 1 < len(truth) <= 4 and grain_split(statements(truth)) != "train":
            truth = _some(marks, len(truth), rng)
        instruction = _instruction(0, rng) if len(truth) < len(marks) else ""
        return _request(words(truth), instruction), _summary(truth, rng)
    changed = _changes(marks, rng)
    text = f"{words(_some(marks, len(marks), rng))}\n{words(changed)}"
    return _request(text, _instruction(7, rng)), _summary({**marks, **changed}, rng)


def draw_described(pool: PicturePool, picture: int, rng: np.random.Generator) -> tuple[Request, str]:
    """A picture to sum up, alone or with a change that its text asks for. The request's picture is the pool's array."""
    attributes = pool.attributes(picture)
    marks = {name: attributes[name] for name in _NAMES}
    if rng.random() < 2 / 3:
        instruction = _instruction(int(rng.choice([3, 4])), rng) if rng.random() < 0.5 else ""
        return _request(None, instruction, pool, picture), _summary(marks, rng)
    changed = _changes(marks, rng)
    return _request(words(changed), _instruction(7, rng), pool, picture), _summary({**marks, **changed}, rng)


def known_summaries(task: RetrievalTask, rng: np.random.Generator) -> list[KnownSummary]:
    """What is rehearsed beside contrastive training: of each query and candidate a part of what is true of it.

    That is its grains or facts; of sentences, which have neither, the statements in them.
    """
    asked = [KnownSummary("query", one.id, _part(one.grains or _said(one.item), rng)) for one in task.queries]
    return asked + [KnownSummary("candidate", one.id, _part(one.facts or _said(one), rng)) for one in task.candidates]


def as_example(embedder: UniversalEmbedder, summary: str, picture: int | None = None) -> Example:
    """What the loss reads: the summary's tokens, [RET] behind them, all of them targets."""
    ids = embedder.backbone.tokenizer(summary, add_special_tokens=False)["input_ids"]
    answer = (*ids, embedder.summary_id)
    return Example("", answer, (True,) * len(answer), () if picture is None else (picture,))


def _summary(truth: Mapping[str, str], rng: np.random.Generator) -> str:
    return _part(statements(truth), rng)


def _part(said: Sequence[str], rng: np.random.Generator) -> str:
    count = 1 + int(rng.binomial(len(said) - 1, KEPT))
    return ", ".join(said[i] for i in rng.permutation(len(said))[:count])


def _said(item: Item) -> tuple[str, ...]:
    """Statements of a text in either wording, plain or colon."""
    assert item.text
    return tuple(item.text.replace(": ", " ").split(", "))


def _some(marks: Mapping[str, str], count: int, rng: np.random.Generator) -> dict[str, str]:
    names = [list(marks)[i] for i in rng.permutation(len(marks))[:count]]
    return {name: marks[name] for name in names}


def _changes(marks: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """One or two new values, with which the bird is still no evaluation species."""
    while True:
        names = [_NAMES[i] for i in rng.permutation(len(_NAMES))[: rng.integers(1, 3)]]
        changed = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in names}
        if not is_reserved({**marks, **changed}):
            return changed


def _instruction(task: int, rng: np.random.Generator) -> str:
    return WORDINGS[task][rng.integers(len(WORDINGS[task]))]


def _request(text: str | None, instruction: str, pool: PicturePool | None = None, picture: int = 0) -> Request:
    if pool is None:
        return Request(Item("text", text), instruction)
    shown = torch.from_numpy(pool.images[picture])
    return Request(Item("picture", text, image=Path(f"{picture}.png")), instruction, shown)
