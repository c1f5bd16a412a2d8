"""The queries of a Fieldguide retrieval collection, with their grains and everything in the pool that satisfies them.

Queries of two and more grains (text → image) use combinations of grains that belong to their split by hash: no test
query repeats a combination that was asked for in training.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fieldmark.data.fieldguide.retrieval_pictures import PicturePlan, Shot
from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.wording import Wording, request, statements, words
from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewQuery

_NAMES = tuple(FIELD_MARKS)


def grain_split(grains: Collection[str]) -> str:
    """The split whose text queries may combine these grains: test a third, val a sixth. A single one is anybody's.

    A property of the combination alone, whatever the world, as `is_reserved` is for species.
    """
    digest = hashlib.sha256("|".join(sorted(grains)).encode()).digest()[0] % 6
    return "test" if digest < 2 else "val" if digest == 2 else "train"


class PoolTable:
    """A pool and the field marks of its candidates.

    Args:
        candidates: the pool.
        marks: the eight field marks of each.
    """

    def __init__(self, candidates: Sequence[NewCandidate], marks: Sequence[Mapping[str, str]]) -> None:
        self.candidates, self.marks = candidates, marks
        table = [[FIELD_MARKS[name].index(one[name]) for name in _NAMES] for one in marks]
        self._values = np.array(table, dtype=np.int8).reshape(-1, len(_NAMES))

    def satisfied(self, wanted: Mapping[str, str]) -> np.ndarray:
        """bool (n, number of wanted marks): which candidate has which of them."""
        columns = [_NAMES.index(name) for name in wanted]
        return self._values[:, columns] == [FIELD_MARKS[name].index(value) for name, value in wanted.items()]

    def positives(self, wanted: Mapping[str, str]) -> dict[int, int]:
        """Numbers of the candidates that have all of them, relevance 1 each."""
        return {self.candidates[i].number: 1 for i in np.flatnonzero(self.satisfied(wanted).all(1)).tolist()}


def text_queries(
    pool: PoolTable, split: str, count: int, max_grains: int, wording: Wording, rng: np.random.Generator
) -> list[NewQuery]:
    """Text → image: equally many of 1 … `max_grains` grains, as far as there are that many combinations.

    Of queries with two grains and more, each grain has near misses in the pool that lack only it.
    """
    queries: list[NewQuery] = []
    seen: set[frozenset[str]] = set()
    for grains in range(1, max_grains + 1):
        level = 0
        for _ in range(20 * count):
            if level == -(-count // max_grains):
                break
            marks = pool.marks[int(rng.integers(len(pool.marks)))]
            wanted = {_NAMES[i]: marks[_NAMES[i]] for i in rng.permutation(len(_NAMES))[:grains]}
            key = frozenset(statements(wanted))
            if key in seen or (grains > 1 and grain_split(key) != split):
                continue
            seen.add(key)
            has = pool.satisfied(wanted)
            near = has[has.sum(1) == grains - 1]
            if grains > 1 and not (~near).any(0).all():
                continue
            level += 1
            queries.append(NewQuery(0, split, 0, pool.positives(wanted), words(wanted, wording), None,
                                    grains=statements(wanted)))  # fmt: skip
    return queries[:count]


def picture_queries(shots: Sequence[Shot], pool: PoolTable, task: int, count: int) -> list[NewQuery]:
    """Image → text (task 3) or image → image (4): what has the same eight field marks."""
    return [
        NewQuery(0, shot.split, task, pool.positives(shot.marks), None, shot.path, grains=statements(shot.marks),
                 source={"species": shot.species})
        for shot in shots[:count]
    ]  # fmt: skip


def changed_queries(
    plan: PicturePlan, pool: PoolTable, split: str, count: int, wording: Wording, rng: np.random.Generator
) -> list[NewQuery]:
    """(Image, text) → image: the bird of the picture with one or two field marks changed.

    The grains are all eight marks of what is wanted; `src_content` says which of them the text asks for.
    """
    by_species: dict[str, list[Shot]] = {}
    for shot in plan.shots:
        if shot.is_query and shot.split == split:
            by_species.setdefault(shot.species, []).append(shot)
    asked = [(one, shot) for one in plan.variants if one.split == split for shot in by_species[one.species]]
    queries = []
    for i in rng.permutation(len(asked))[:count]:
        variant, shot = asked[i]
        names = list(variant.changed)
        changed = {names[k]: variant.changed[names[k]] for k in rng.permutation(len(names))}
        source = {"species": variant.species, "changed": list(statements(changed))}
        queries.append(NewQuery(0, split, 7, pool.positives(variant.marks), request(changed, wording), shot.path,
                                grains=statements(variant.marks), source=source))  # fmt: skip
    return queries
