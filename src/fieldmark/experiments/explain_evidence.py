"""`fieldmark explain evidence`: does the difference of look-alikes lie on the field mark in which they differ?

In the bundled world the marks of every species and the place of every part are known. Two conditions:

- *found*: two pictures of two sibling species, as the world has them. They also differ in posture, habitat, light and
  plumage, all of which is a true difference of the pictures, and no field mark.
- *altered*: one picture, and the same picture drawn again with the sibling's field marks and nothing else changed.

Siblings differ in one or two marks; an attribute stands for the part of the bird on which it is seen. Pictures are
drawn from the world's configuration, which gives the pictures that are on disk, and their part masks with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.picture import Picture, take_picture
from fieldmark.data.fieldguide.species import FIELD_MARKS, Species
from fieldmark.data.fieldguide.world import FieldguideConfig, Sighting, plan_sightings, read_world, world_species
from fieldmark.evaluation.attention_share import part_coverage, patch_grid
from fieldmark.evaluation.correspondence import MatchExplanation, explain_pairs
from fieldmark.evaluation.pointing import Pointing, pointing
from fieldmark.experiments.saved_runs import encoder_folder, read_part
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.training.config import DataConfig
from fieldmark.training.run_folder import read_config

Condition = Literal["found", "altered"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
_MARK_PARTS = tuple(dict.fromkeys(PART_OF_ATTRIBUTE[name] for name in FIELD_MARKS))
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class ExplainEvidenceConfig:
    """Which encoders, on how many pairs."""

    runs: tuple[str, ...] = ()
    """Folders of finished runs on bundled worlds. Runs whose folders have the same name are repeats of one method."""
    world: str = ""
    """World to take pairs from. Not given: each run's own."""
    pairs_per_siblings: int = 2
    """Pairs of pictures per pair of sibling species of the test half."""
    seed: int = 0
    """Chooses the pictures."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        if self.pairs_per_siblings < 1:
            raise ValueError(f"pairs_per_siblings must be at least 1, got {self.pairs_per_siblings}")


@dataclass(frozen=True)
class RunPointing:
    """One run under one condition.

    Attributes:
        differing: the highest patch of the difference map, on the parts in which the two species differ.
        shared: the same maps, on each part that carries marks which the two species share: what an encoder that
            merely looks at parts with marks would reach.
        attention: the highest patch of the pooler's attention, on the differing parts; None where the pooler weighs no
            patches.
    """

    method: str
    run: str
    condition: Condition
    pairs: int
    cosine: float
    differing: Pointing
    shared: Pointing
    attention: Pointing | None


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two pictures of siblings and the parts in which the species differ."""

    a: Picture
    b: Picture
    differing: frozenset[str]


def run_explain_evidence(config: ExplainEvidenceConfig) -> list[RunPointing]:
    """Measure every run under both conditions, in the given order.

    Raises:
        ValueError: no runs, one without an encoder, or a world that is none or has no look-alikes.
    """
    if not config.runs:
        raise ValueError("no runs given: set --runs to folders of finished runs on a bundled world")
    worlds: dict[Path, dict[Condition, list[_Pair]]] = {}
    found = []
    for run in map(Path, config.runs):
        folder, world = encoder_folder(run), _world_of(run, config.world)
        if world not in worlds:
            generator = np.random.default_rng(config.seed)
            worlds[world] = _draw_pairs(read_world(world), config.pairs_per_siblings, generator)
        encoder = RetrievalEncoder.from_pretrained(folder, device=config.device)
        method = folder.parent.name if folder.name == "encoder" else folder.name
        for condition in CONDITIONS:
            found.append(_measure(encoder, worlds[world][condition], method, str(run), condition))
    return found


def _world_of(run: Path, world: str) -> Path:
    if world:
        return Path(world)
    path = read_part(DataConfig, read_config(run), "data", run).path
    if not path or not Path(path).is_dir():
        raise ValueError(f"the world of {run}, {path!r}, is not there: set --world")
    return Path(path)


def _draw_pairs(config: FieldguideConfig, per_siblings: int, rng: np.random.Generator) -> dict[Condition, list[_Pair]]:
    """Both conditions with the same first pictures."""
    sightings: dict[str, list[Sighting]] = {}
    for sighting in plan_sightings(config):
        sightings.setdefault(sighting.species, []).append(sighting)
    pairs: dict[Condition, list[_Pair]] = {"found": [], "altered": []}
    for first, second in _siblings(world_species(config)):
        parts = frozenset(PART_OF_ATTRIBUTE[name] for name in first.differing_marks(second))
        for _ in range(per_siblings):
            one, other = (sightings[s.name][rng.integers(config.per)] for s in (first, second))
            picture = _draw(one, one.attributes, config)
            pairs["found"].append(_Pair(picture, _draw(other, other.attributes, config), parts))
            altered = _draw(one, {**one.attributes, **second.marks}, config)
            pairs["altered"].append(_Pair(picture, altered, parts))
    if not pairs["found"]:
        raise ValueError("the world's test half has no look-alike siblings: draw one with siblings of 2 or more")
    return pairs


def _siblings(species: Sequence[Species]) -> Iterator[tuple[Species, Species]]:
    """All pairs of one genus in the test half."""
    test = [one for one in species if one.evaluation]
    for i, first in enumerate(test):
        yield from ((first, second) for second in test[i + 1 :] if second.genus == first.genus)


def _draw(sighting: Sighting, attributes: Mapping[str, str], config: FieldguideConfig) -> Picture:
    """The sighting's picture with these attributes: place, posture, light and noise stay."""
    rng = np.random.default_rng([3, *sighting.seed])
    return take_picture(attributes, sighting.habitat, config.nuisance, rng, config.size)


def _measure(
    encoder: RetrievalEncoder, pairs: Sequence[_Pair], method: str, run: str, condition: Condition
) -> RunPointing:
    explained: list[MatchExplanation] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        pictures = [torch.from_numpy(p.image) for pair in some for p in (pair.a, pair.b)]
        explained += explain_pairs(encoder, pictures, [(2 * k, 2 * k + 1) for k in range(len(some))])
    masks = torch.from_numpy(np.stack([p.mask for pair in pairs for p in (pair.a, pair.b)]).astype(np.int64))
    coverage = part_coverage(masks, patch_grid(encoder), len(PARTS)).numpy()

    differences, attention, on_differing = [], [], []
    shared_maps, on_shared = [], []
    for k, (pair, one) in enumerate(zip(pairs, explained, strict=True)):
        sides = ((one.difference_a, one.attention_a, 2 * k), (one.difference_b, one.attention_b, 2 * k + 1))
        for difference, attended, place in sides:
            differences.append(difference)
            attention.append(attended)
            on_differing.append(coverage[place][:, [PARTS.index(part) for part in sorted(pair.differing)]].sum(1))
            for part in _MARK_PARTS:
                if part not in pair.differing:
                    shared_maps.append(difference)
                    on_shared.append(coverage[place, :, PARTS.index(part)])
    return RunPointing(
        method=method,
        run=run,
        condition=condition,
        pairs=len(pairs),
        cosine=float(np.mean([one.cosine for one in explained])),
        differing=pointing(differences, on_differing),
        shared=pointing(shared_maps, on_shared),
        attention=pointing(attention, on_differing) if encoder.pooler.kind == "attention" else None,
    )


def evidence_json(found: Sequence[RunPointing]) -> list[dict[str, Any]]:
    """A row per run and condition, plain values."""
    return [
        {
            "method": one.method,
            "run": one.run,
            "condition": one.condition,
            "pairs": one.pairs,
            "cosine": one.cosine,
            "differing": one.differing.as_json(),
            "shared": one.shared.as_json(),
            "attention": None if one.attention is None else one.attention.as_json(),
        }
        for one in found
    ]


def evidence_text(found: Sequence[RunPointing]) -> str:
    """A Markdown table per condition: mean over the runs of each method, ± their standard deviation."""
    lines: list[str] = []
    for condition in CONDITIONS:
        rows = [one for one in found if one.condition == condition]
        lines += [
            f"{_TITLES[condition]}, {rows[0].pairs} pairs per run:",
            "",
            "| method | runs | on the mark, % of the patch | by lot | best patch | hits, % | by lot | lift "
            "| lift on shared marks | attention: % of the patch |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for method in dict.fromkeys(one.method for one in rows):
            own = [one for one in rows if one.method == method]
            attended = [one.attention.share for one in own if one.attention is not None]
            cells = [
                _spread([100 * one.differing.share for one in own]),
                _spread([100 * one.differing.area for one in own]),
                _spread([100 * one.differing.best for one in own]),
                _spread([100 * one.differing.hits for one in own]),
                _spread([100 * one.differing.chance for one in own]),
                _spread([one.differing.lift for one in own]),
                _spread([one.shared.lift for one in own]),
                _spread([100 * share for share in attended]) if attended else "–",
            ]
            lines.append(f"| {method} | {len(own)} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


_TITLES: Mapping[str, str] = {
    "found": "Two pictures of two sibling species (found)",
    "altered": "One picture, and itself with the sibling's marks (altered)",
}


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over runs (n − 1)."""
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.1f}"
