"""Fieldguide as a retrieval collection: real M-BEIR files whose grains, and what satisfies them, are known exactly.

    task 0   text → image            "bill shape hooked, wing pattern barred": 1 … max_grains grains
    task 3   image → text            descriptions of all eight field marks
    task 4   image → image           another picture of the same species
    task 7   image and text → image  "leg color red": the bird of the picture with that changed

A candidate's `facts` are its field marks as statements; a query's `grains` are the statements that it asks for. The
qrels name what satisfies *every* grain, with relevance 1, so that other readers' Recall@K is right; the graded
relevance, the share of grains among a candidate's facts, is `fieldmark.data.retrieval.share_of_grains`.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.fieldguide.picture import take_image
from fieldmark.data.fieldguide.retrieval_pictures import PicturePlan, Shot, plan_pictures
from fieldmark.data.fieldguide.retrieval_queries import (
    PoolTable,
    changed_queries,
    grain_split,
    picture_queries,
    text_queries,
)
from fieldmark.data.fieldguide.species import FIELD_MARKS, random_marks
from fieldmark.data.fieldguide.wording import Wording, statements, words
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.data.multimodal.mbeir_layout import SPLITS
from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir
from fieldmark.data.multimodal.nli import Triplet, write_nli

DATASET_NUMBER = 20
"""Before the colon of the ids."""

# Short: the bundled model's tokenizer spells them in bytes.
WORDINGS: Mapping[int, tuple[str, ...]] = {
    0: ("Find this bird.", "Which picture fits?", "Show such a bird.", "Picture wanted."),
    3: ("Describe this bird.", "Which text fits?", "Find its words.", "Text wanted."),
    4: ("Find the same kind.", "Same species.", "More of this bird.", "Which is the same?"),
    7: ("Find it, but changed.", "Same bird, but:", "Change this in it.", "It, with this:"),
}
"""Instructions by task."""

_NAMES = tuple(FIELD_MARKS)
NLI_FILE = Path("nli") / "fieldguide_nli.csv"


@dataclass(frozen=True)
class FieldguideRetrieval:
    """What is asked of the world; pictures and species are `FieldguideConfig`'s."""

    train_queries: int = 1600
    """Training queries of each of the four directions, at most."""
    val_queries: int = 200
    """Validation queries of each direction, at most."""
    test_queries: int = 400
    """Test queries of each direction, at most."""
    max_grains: int = 4
    """Text → image queries have 1 to this many grains."""
    variants: int = 2
    """Pairs of marks that are changed for each species, to be near misses; three pictures each."""
    validation_share: float = 0.2
    """Share of the training species' genera that is for validation."""
    wording: Wording = "plain"
    """plain: "bill shape hooked", cheap for the bundled model; colon: "bill shape: hooked"; natural: "hooked bill"."""
    nli: int = 20_000
    """Triplets of sentences for stage 1; 0 writes none."""

    def __post_init__(self) -> None:
        for name, least in (("train_queries", 1), ("val_queries", 1), ("test_queries", 1), ("variants", 1), ("nli", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 1 <= self.max_grains <= len(FIELD_MARKS):
            raise ValueError(f"max_grains must be from 1 to {len(FIELD_MARKS)}, got {self.max_grains}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be between 0 and 1, got {self.validation_share}")


@dataclass(frozen=True)
class WrittenRetrieval:
    """What was written."""

    root: Path
    pictures: int
    queries: dict[str, int]
    """"task0 test" → number of queries."""
    pools: dict[str, int]
    near_misses: dict[str, float]
    """Mean number of candidates that lack exactly one grain, over the queries with two grains and more."""

    def as_text(self) -> str:
        """One line for each task and split."""
        lines = [f"{self.root}: {self.pictures} pictures"]
        for key, count in self.queries.items():
            near = f", {self.near_misses[key]:.1f} near misses a query" if key in self.near_misses else ""
            lines.append(f"  {key:<12} {count:>5} queries in a pool of {self.pools[key]}{near}")
        return "\n".join(lines)


def write_fieldguide_retrieval(
    world: FieldguideConfig,
    retrieval: FieldguideRetrieval,
    out: Path,
    *,
    workers: int | None = None,
    force: bool = False,
) -> WrittenRetrieval:
    """Draws the collection and writes it to `out` (made whole beside it, then renamed). Same settings, same bytes.

    Beside M-BEIR's files: `nli/fieldguide_nli.csv` for stage 1, and `fieldguide_mbeir.json`, the settings.

    Raises:
        ValueError: `out` exists and `force` is not said, or the world is too small to be split.
    """
    out = Path(out)
    if out.exists() and not force:
        raise ValueError(f"{out} exists: choose another --out, or say --force to replace it")
    plan = plan_pictures(world, retrieval.variants, retrieval.validation_share)
    collection, near = plan_collection(plan, world.seed, retrieval)
    temporary = out.with_name(out.name + ".writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    _draw(plan.shots, world, temporary, workers)
    write_mbeir(temporary, collection)
    if retrieval.nli:
        write_nli(temporary / NLI_FILE, nli_triplets(retrieval.nli, np.random.default_rng([world.seed, 13])))
    settings = {"format": 1, "world": asdict(world), "retrieval": asdict(retrieval)}
    (temporary / "fieldguide_mbeir.json").write_text(json.dumps(settings, indent=1) + "\n")
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
    queries = Counter(f"task{one.task} {one.split}" for one in collection.queries)
    pools = {f"task{task} {split}": len(pool) for (task, split), pool in collection.pools.items()}
    return WrittenRetrieval(out, len(plan.shots), dict(queries), pools, near)


def plan_collection(
    plan: PicturePlan, seed: int, retrieval: FieldguideRetrieval
) -> tuple[NewCollection, dict[str, float]]:
    """Pools, queries and relevance; and the mean number of near misses by task and split."""
    pictures, captions = _pools(plan, np.random.default_rng([seed, 14]), retrieval.wording)
    counts = {"train": retrieval.train_queries, "val": retrieval.val_queries, "test": retrieval.test_queries}
    queries: list[NewQuery] = []
    near: dict[str, float] = {}
    for place, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, 15, place])
        pool, texts, count = pictures[split], captions[split], counts[split]
        shots = [shot for shot in plan.shots if shot.split == split]
        shots = [shots[i] for i in rng.permutation(len(shots))]
        asking = [shot for shot in shots if shot.is_query]
        # Training may describe pictures that are candidates elsewhere; in evaluation that would spoil the global pool.
        described = shots if split == "train" else asking
        directions = (
            (text_queries(pool, split, count, retrieval.max_grains, retrieval.wording, rng), pool),
            (picture_queries(described, texts, 3, count), texts),
            (picture_queries(asking, pool, 4, count), pool),
            (changed_queries(plan, pool, split, count, retrieval.wording, rng), pool),
        )
        for own, searched in directions:
            if not own:
                raise ValueError(f"the {split} split has too few species for its queries: have more species")
            queries += own
            near[f"task{own[0].task} {split}"] = _near_misses(own, searched)
    numbered = [_numbered(query, number) for number, query in enumerate(queries, start=1)]
    pools = {
        (task, split): (captions if task == 3 else pictures)[split].candidates for split in SPLITS for task in WORDINGS
    }
    return NewCollection("fieldguide", DATASET_NUMBER, numbered, pools, WORDINGS), near


def nli_triplets(count: int, rng: np.random.Generator) -> list[Triplet]:
    """Sentences about birds: the same said otherwise, and with one value changed.

    A sentence has one to eight marks. Paraphrases differ in their order, their wording, or both; contradictions come in
    any order and wording, so that neither gives them away. Combinations of grains that belong to validation or test do
    not occur among sentences of two to four marks; those of all eight are of training species' combinations.
    """
    forms: tuple[Wording, ...] = ("plain", "colon")
    triplets: list[Triplet] = []
    while len(triplets) < count:
        marks = random_marks(rng, reserved=False)
        names = [_NAMES[i] for i in rng.permutation(len(_NAMES))[: rng.integers(1, len(_NAMES) + 1)]]
        changed = names[rng.integers(len(names))]
        others = [value for value in FIELD_MARKS[changed] if value != marks[changed]]
        wrong = {**marks, changed: others[rng.integers(len(others))]}
        truth, lie = ({name: one[name] for name in names} for one in (marks, wrong))
        if 1 < len(names) <= 4 and not grain_split(statements(truth)) == grain_split(statements(lie)) == "train":
            continue
        first = words(truth, forms[rng.integers(2)])
        second, third = (words(_shuffled(one, rng), forms[rng.integers(2)]) for one in (truth, lie))
        if first != second:
            triplets.append(Triplet(first, second, third))
    return triplets


def _pools(
    plan: PicturePlan, rng: np.random.Generator, wording: Wording
) -> tuple[dict[str, PoolTable], dict[str, PoolTable]]:
    """Pictures of each split, and descriptions: one for each combination of marks that a split has."""
    number = 0
    pictures, captions = {}, {}
    for split in SPLITS:
        shots = [shot for shot in plan.shots if shot.split == split and not shot.is_query]
        candidates = []
        for shot in shots:
            number += 1
            source = {"species": shot.species, "attributes": dict(shot.attributes)}
            candidates.append(NewCandidate(number, None, shot.path, statements(shot.marks), source))
        pictures[split] = PoolTable(candidates, [shot.marks for shot in shots])
    for split in SPLITS:
        distinct = {tuple(shot.marks.values()): shot.marks for shot in plan.shots if shot.split == split}
        candidates = []
        for marks in distinct.values():
            number += 1
            candidates.append(NewCandidate(number, words(_shuffled(marks, rng), wording), None, statements(marks)))
        captions[split] = PoolTable(candidates, list(distinct.values()))
    return pictures, captions


def _shuffled(marks: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    names = list(marks)
    return {names[i]: marks[names[i]] for i in rng.permutation(len(names))}


def _near_misses(queries: Sequence[NewQuery], pool: PoolTable) -> float:
    counts = []
    for query in queries:
        if len(query.grains) > 1:
            wanted = {name: grain.removeprefix(f"{name} ") for grain in query.grains for name in FIELD_MARKS
                      if grain.startswith(f"{name} ")}  # fmt: skip
            counts.append(int((pool.satisfied(wanted).sum(1) == len(wanted) - 1).sum()))
    return float(np.mean(counts)) if counts else 0.0


def _numbered(query: NewQuery, number: int) -> NewQuery:
    return replace(query, number=number)


def _draw(shots: Sequence[Shot], world: FieldguideConfig, root: Path, workers: int | None) -> None:
    for folder in {(root / shot.path).parent for shot in shots}:
        folder.mkdir(parents=True)
    workers = workers if workers is not None else os.cpu_count() or 1
    jobs = [(shots[i : i + 64], world.nuisance, world.size, str(root)) for i in range(0, len(shots), 64)]
    if workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_draw_all, jobs))
    else:
        for job in jobs:
            _draw_all(job)


def _draw_all(job: tuple[Sequence[Shot], float, int, str]) -> None:
    shots, nuisance, size, root = job
    for shot in shots:
        image = take_image(shot.attributes, shot.habitat, nuisance, np.random.default_rng(list(shot.seed)), size)
        Image.fromarray(image).save(Path(root) / shot.path)
