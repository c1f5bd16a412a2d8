"""What two tables measure besides their runs: how well each layer points, and where the reward's gradient falls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldmark.data.collection import LabelledImages
from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.world import is_fieldguide, read_mask
from fieldmark.data.loader import load_all
from fieldmark.data.samplers import Pair
from fieldmark.evaluation.attention_share import part_coverage
from fieldmark.evaluation.judging import JudgedPairs, heard_descriptions, judge_pairs
from fieldmark.evaluation.layer_choice import LayerPointing, layer_pointing, propose_layer
from fieldmark.evaluation.mechanism import chance_pulls, mechanism_json, summarise_pulls, value_pulls
from fieldmark.evaluation.supervisor_check import draw_check_pairs
from fieldmark.experiments.reproduce.plan import PlannedRun, ReproduceConfig
from fieldmark.models.backbone import Backbone
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.policy.adjudication import Adjudicator
from fieldmark.policy.rollouts import RolloutGroup
from fieldmark.training.config import SagaConfig
from fieldmark.training.run_folder import write_text
from fieldmark.training.session import attributes_of, load_split, load_supervisor


@dataclass(frozen=True)
class MeasureSizes:
    """How many pairs are looked at."""

    pairs_for_layers: int = 12
    pairs_for_mechanism: int = 48
    pictures_per_batch: int = 24


def measure(
    what: str, planned: Sequence[PlannedRun], config: ReproduceConfig, sizes: MeasureSizes | None = None
) -> dict[str, Any]:
    """Measure, or read what was measured before; stored beside the runs.

    layers: the first seed's training pictures and the untrained supervisor. mechanism: every seed whose SAGA run is
    finished, before and after training.
    """
    sizes = sizes or MeasureSizes()
    if what == "layers":
        # Whatever run comes first: the supervisor and the pictures are the same for all.
        first = planned[0]
        if not Path(first.run.config.data.path).exists():
            return {}  # nothing has been run yet, and no world is drawn
        return _stored(_place(config, first, "layers"), lambda: measure_layers(first.run.config, sizes))
    found = {}
    for p in planned:
        if p.row.key == "saga" and p.run.finished:
            found[str(p.seed)] = _stored(
                _place(config, p, "mechanism"), lambda p=p: measure_mechanism(p.run.config, p.run.folder, sizes)
            )
    return found


def measure_layers(config: SagaConfig, sizes: MeasureSizes) -> dict[str, Any]:
    """Every decoder layer's pointing on pairs of training pictures, and the layer that the rule proposes."""
    images, backbone = load_split(config.data).train, load_supervisor(config.model)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        batches, _ = _judged(backbone, images, config, sizes.pairs_for_layers, sizes, generator)
    coverage = None
    if is_fieldguide(images.root):
        pictures = sorted({i for batch in batches for i in batch.index})
        coverage = _coverage(images, pictures, backbone, config.data.image_size)
    layers = []
    for layer in range(backbone.num_layers):
        heard = [one for batch in batches for one in heard_descriptions(backbone, batch, layer)]
        if not heard:
            return {"layers": [], "reason": "no rollout with a right verdict described anything", "seed": config.seed}
        # The same rule without the masks, for the reader to judge it where both are known.
        blind = layer_pointing(layer, heard)
        layers.append((layer_pointing(layer, heard, coverage), blind))
    return {
        "layers": [{**asdict(one), "score": one.score, "score_without_masks": blind.score} for one, blind in layers],
        "proposed": _proposal([one for one, _ in layers]),
        "proposed_without_masks": _proposal([blind for _, blind in layers]),
        "masks": coverage is not None,
        "seed": config.seed,
    }


def _proposal(layers: Sequence[LayerPointing]) -> int | str:
    """The layer, or why there is none: a table goes on without it."""
    try:
        return propose_layer(layers)
    except ValueError as error:
        return f"none ({error})"


def measure_mechanism(config: SagaConfig, run: Path, sizes: MeasureSizes) -> dict[str, Any]:
    """Pulls of the reward on training pictures, with the tower as it was and as the run left it; and by chance."""
    images, backbone = load_split(config.data).train, load_supervisor(config.model)
    truth = attributes_of(images)
    found: dict[str, Any] = {}
    for when in ("before", "after"):
        if when == "after":
            trained = RetrievalEncoder.from_pretrained(run / "encoder", device=config.model.device)
            backbone.tower.load_state_dict(trained.tower.state_dict())
        generator = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            _, groups = _judged(backbone, images, config, sizes.pairs_for_mechanism, sizes, generator)
        for kind, some in groups.items():
            pulls = value_pulls(some, truth, tuple(FIELD_MARKS))
            chance = chance_pulls(some, truth, generator, tuple(FIELD_MARKS))
            found[f"{when}, {kind}"] = {
                "pairs": len(some),
                "contributing": sum(g.contributes for g in some) / len(some),
                "reward": float(torch.cat([g.rewards for g in some]).mean()),
                **mechanism_json(summarise_pulls(pulls)),
                "chance": mechanism_json(summarise_pulls(chance)),
            }
    return found


def measure_sections(what: str | None, found: Mapping[str, Any]) -> list[str]:
    """What was measured, as Markdown."""
    if what is None:
        return []
    if not found:
        return ["Measured besides: not run yet."]
    return [_layers_text(found)] if what == "layers" else [_mechanism_text(found)]


def _layers_text(found: Mapping[str, Any]) -> str:
    if not found["layers"]:
        return f"No layer can be proposed: {found['reason']}."
    lines = [
        "## Which layer points best, without training",
        "",
        f"Proposed: layer {found['proposed']}"
        + (
            f" by part masks; the rule that needs no masks proposes layer {found['proposed_without_masks']}."
            if found["masks"]
            else " by the rule that needs no masks."
        )
        + " Rollouts with the right verdict, training pictures, untrained tower.",
        "",
        "| layer | on the described picture | on the described part − its area | specific to the picture | entropy "
        "| score without masks | maps |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found["layers"]:
        lines.append(
            f"| {one['layer']} | {_show(one['own_share'])} | {_show(one['part_lift'], '+.3f')} | "
            f"{_show(one['specificity'], '+.3f')} | {_show(one['entropy'])} | "
            f"{_show(one['score_without_masks'], '.3f')} | {one['maps']} |"
        )
    return "\n".join(lines)


def _mechanism_text(found: Mapping[str, Any]) -> str:
    lines = [
        "## Where the reward's gradient falls",
        "",
        "Pull: advantage-weighted frequency of the described values (`evaluation.mechanism`), over groups whose "
        "rewards differ. *Share*: of all pull, on marks in which the two pictures truly differ; *by count*: those "
        "marks' share of all marks asked for; *chance*: the same with rewards permuted within each group.",
        "",
        "| seed, tower, pairs | groups that teach | reward | pull where they differ (chance) "
        "| pull where shared (chance) | share (by count) |",
        "|---|---|---|---|---|---|",
    ]
    for seed, towers in found.items():
        for name, one in towers.items():
            chance = one["chance"]
            lines.append(
                f"| {seed}, {name} | {_show(one['contributing'])} | {_show(one['reward'])} | "
                f"{_show(one['discriminating_pull'], '.3f')} ({_show(chance['discriminating_pull'], '.3f')}) | "
                f"{_show(one['shared_pull'], '.3f')} ({_show(chance['shared_pull'], '.3f')}) | "
                f"{_show(one['discriminating_share'])} ({_show(one['discriminating_count_share'])}) |"
            )
    lines += [
        "",
        "Pull by how far the rollouts of a group agree on a value, pairs of different classes, before training "
        "(differing / shared marks, number of values in brackets):",
        "",
        "| agreement | " + " | ".join(f"seed {seed}" for seed in found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    tables = [towers["before, random"]["by_agreement"] for towers in found.values()]
    for rows in zip(*tables, strict=True):
        low, high = rows[0]["low"], rows[0]["high"]
        title = "all alike" if high == 1.0 else f"{low:g} to {high:g}"
        cells = [
            f"{_show(one['discriminating_pull'], '.3f')} [{one['discriminating_count']}] / "
            f"{_show(one['shared_pull'], '.3f')} [{one['shared_count']}]"
            for one in rows
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _show(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def _judged(
    backbone: Backbone,
    images: LabelledImages,
    config: SagaConfig,
    count: int,
    sizes: MeasureSizes,
    generator: torch.Generator,
) -> tuple[list[JudgedPairs], dict[str, list[RolloutGroup]]]:
    """Same and random different pairs with their rollouts; by batch, and by pair type in the collection's count."""
    pictures = torch.cat([b.images for b in load_all(images, config.data.image_size, workers=0, batch_size=64)])
    # Look-alikes are not used, so any embedding will do to draw pairs.
    drawn = draw_check_pairs(images.labels, torch.zeros(len(images), 1), count, generator)
    adjudicator = Adjudicator(backbone, config.rollouts)
    batches: list[JudgedPairs] = []
    groups: dict[str, list[RolloutGroup]] = {}
    for kind in ("same", "random"):
        pairs: list[Pair] = drawn[kind]  # type: ignore[index]
        judged = list(
            judge_pairs(backbone, adjudicator, pictures, pairs, "random", generator, sizes.pictures_per_batch)
        )
        batches += judged
        groups[kind] = [g for one in judged for g in one.global_groups]
    return batches, groups


def _coverage(
    images: LabelledImages, pictures: Sequence[int], backbone: Backbone, image_size: int
) -> dict[tuple[int, str], Tensor]:
    """(picture, attribute) → share of each patch that the attribute's part covers."""
    p = backbone.preprocessing
    side = image_size // (p.patch_size * p.merge_size)
    found = {}
    for i in pictures:
        mask = torch.from_numpy(read_mask(images.root, images.ids[i]).astype("int64"))[None]
        cover = part_coverage(mask, (side, side), len(PARTS))[0]
        for attribute, part in PART_OF_ATTRIBUTE.items():
            found[i, attribute] = cover[:, PARTS.index(part)]
    return found


def _place(config: ReproduceConfig, planned: PlannedRun, what: str) -> Path:
    name = planned.run.folder.parent.name
    return config.folder / "measures" / f"{what}-{name}-seed-{planned.seed}.json"


def _stored(path: Path, make: Any) -> dict[str, Any]:
    if path.is_file():
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    found: dict[str, Any] = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(found, indent=1) + "\n")
    return found
