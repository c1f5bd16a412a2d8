"""`fieldmark vocabulary propose`, and how well it does on the bundled world, where the truth is known."""

import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.species import FIELD_MARKS, PLUMAGE
from fieldmark.data.fieldguide.world import FieldguideConfig, is_fieldguide
from fieldmark.evaluation.attribute_ranking import ranking_quality
from fieldmark.evaluation.vocabulary_proposal import Proposal, ProposalConfig, propose_vocabulary
from fieldmark.experiments.fieldguide import make_world
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.training.config import DataConfig, ModelConfig
from fieldmark.training.run_folder import versions, write_text
from fieldmark.training.session import load_split, load_supervisor


@dataclass(frozen=True)
class VocabularyRun:
    """Which supervisor, on which pictures, asked how."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)


def run_vocabulary_proposal(config: VocabularyRun, out: Path, *, force: bool = False) -> Proposal:
    """Propose a vocabulary from the training classes of a collection and write it; test classes are not looked at.

    Raises:
        ValueError: `out` is no .yaml file or exists (people edit it; `force` replaces it), or other bad input.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out {out} must end in .yaml")
    if out.exists() and not force:
        raise ValueError(f"{out} exists, and may have been edited: choose another file, or say --force")
    images = load_split(config.data).train
    backbone = load_supervisor(config.model)
    backbone.preprocessing.check_size(config.data.image_size)
    proposal = propose_vocabulary(backbone, images, config.proposal, config.data.image_size, name=out.stem)
    header = (
        "Proposed by `fieldmark vocabulary propose`: "
        f"{proposal.pictures} pictures of {proposal.classes} training classes, seed {config.proposal.seed}.",
        f"Use: fieldmark train saga --rollouts.vocabulary {out.name} ...",
    )
    text = proposal.as_yaml(header)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    load_vocabulary(out)  # what was written can be read
    return proposal


@dataclass(frozen=True)
class VocabularyEvidenceConfig:
    """Worlds on which the proposal is compared with the truth."""

    out: str = "runs/vocabulary"
    """Worlds, proposals and result.json."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """World and proposal seeds."""
    species: int = 80
    """Species per world; half are for training, and only these are looked at."""
    per: int = 6
    """Pictures of each."""
    habitat: float = 0.8
    """ρ of the worlds: how reliably a habitat betrays its species."""
    pairs: int = 16
    """Pairs shown for naming."""
    classes: int = 32
    """Classes described."""
    pictures_per_class: int = 4
    """Pictures described of each."""


def run_vocabulary_evidence(config: VocabularyEvidenceConfig) -> dict[str, Any]:
    """Propose on each world with the bundled supervisor, compare with field marks and plumage, write result.json.

    The bundled model's language is closed: it can write about eleven attributes only, and names by itself the eight
    that it was taught to compare. The names of all eleven are therefore given as candidates (the `fieldguide`
    vocabulary's, in alphabetical order), and what is measured is the *ranking*: are the field marks above the plumage,
    and is the line between `attributes` and `other_attributes` where it belongs?
    """
    out = Path(config.out)
    rows = []
    for seed in config.seeds:
        began = time.perf_counter()
        world = make_world(
            FieldguideConfig(
                species=config.species,
                per=config.per,
                nuisance=0.35,
                habitat=config.habitat,
                seed=seed,
                train_share=0.5,
            ),
            out / f"world-{seed}",
        )
        assert is_fieldguide(world)
        proposal = run_vocabulary_proposal(
            VocabularyRun(
                data=DataConfig(path=str(world), image_size=96, validation_fraction=0.1, workers=0),
                proposal=ProposalConfig(
                    base="fieldguide",
                    candidates=tuple(sorted((*FIELD_MARKS, *PLUMAGE))),
                    discovery="differences",
                    pairs=config.pairs,
                    classes=config.classes,
                    pictures_per_class=config.pictures_per_class,
                    max_new_tokens=96,
                    seed=seed,
                ),
            ),
            out / f"proposed-{seed}.yaml",
            force=True,
        )
        ranked = [s.name for s in proposal.scores]
        quality = ranking_quality(ranked, proposal.vocabulary.attributes, tuple(FIELD_MARKS))
        named = ranking_quality(ranked, [n for n in ranked if n in proposal.named], tuple(FIELD_MARKS))
        rows.append(
            {
                "seed": seed,
                **asdict(quality),
                "named_by_itself": {"precision": named.precision, "recall": named.recall},
                "ranking": [
                    {
                        "name": s.name,
                        "separation": s.separation,
                        "low": s.low,
                        "high": s.high,
                        "mark": s.name in FIELD_MARKS,
                    }
                    for s in proposal.scores
                ],
                "pictures": proposal.pictures,
                "classes": proposal.classes,
                "merged": proposal.synonyms,
                "seconds": time.perf_counter() - began,
            }
        )
    figures = [name for name, value in rows[0].items() if isinstance(value, float)]
    result = {
        "config": asdict(config),
        "mean": {name: statistics.fmean(row[name] for row in rows) for name in figures},  # type: ignore[misc, arg-type]
        "rows": rows,
        "versions": versions(),
    }
    write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def evidence_text(result: dict[str, Any]) -> str:
    """The result as a table: the proposal beside a ranking by lot."""
    lines = [f"{'seed':<8}{'precision':>18}{'recall':>18}{'average precision':>20}{'AUC':>16}   (by lot)"]
    for row in [*result["rows"], {"seed": "mean", **result["mean"]}]:
        cells = [
            "–" if row.get(key) is None else f"{row[key]:.2f} ({row[f'random_{key}']:.2f})"
            for key in ("precision", "recall", "average_precision", "auc")
        ]
        lines.append(f"{row['seed']!s:<8}{cells[0]:>18}{cells[1]:>18}{cells[2]:>20}{cells[3]:>16}")
    return "\n".join(lines)
