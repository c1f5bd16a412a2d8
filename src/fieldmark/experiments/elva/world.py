"""The bundled world of ELVA's runs: a collection drawn once a seed, its multi-grain benchmark, and mined negatives.

Each is stored whole or not at all, and shared by all runs of that world.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fieldmark.data.fieldguide.retrieval import FieldguideRetrieval, write_fieldguide_retrieval
from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.mining import MiningConfig, mine_negatives
from fieldmark.experiments.mrbench_building import MrbenchBuildConfig, build_mrbench
from fieldmark.experiments.run_names import name_of_choices
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.universal_embedder import load_embedder
from fieldmark.training.embedder_model import EmbedderModelConfig, embedder_folder
from fieldmark.training.run_folder import to_plain


@dataclass(frozen=True)
class ElvaWorld:
    """Species and pictures, and what is asked of them."""

    world: FieldguideConfig
    retrieval: FieldguideRetrieval

    @property
    def name(self) -> str:
        """Same name, same world but for its seed."""
        plain = to_plain(self)
        plain["world"].pop("seed")
        return name_of_choices("mbeir", plain, {})


def elva_world(seed: int) -> ElvaWorld:
    """The worlds of ELVA's demo and evidence: 48 training and 60 test species, 12 pictures each, and their near misses.

    No test query asks for a combination of grains, or shows a species, that training has. Training uses
    few hundred queries of each direction, since a run of stage 3 sees no more.
    """
    world = FieldguideConfig(species=108, per=12, nuisance=0.35, habitat=0.0, seed=seed, train_share=48 / 108)
    retrieval = FieldguideRetrieval(train_queries=400, val_queries=40, test_queries=300, wording="plain", nli=0)
    return ElvaWorld(world, retrieval)


def draw_world(world: ElvaWorld, root: Path, workers: int | None = None) -> Path:
    """The collection, drawn if it is not there yet.

    Raises:
        ValueError: ``root`` holds something else.
    """
    if root.exists():
        settings = root / "fieldguide_mbeir.json"
        stored = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        if {key: stored.get(key) for key in ("world", "retrieval")} != asdict(world):
            raise ValueError(f"{root} holds another world: delete it, or choose another --out")
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    return write_fieldguide_retrieval(world.world, world.retrieval, root, workers=workers).root


def build_benchmark(root: Path, file: Path, per_task: int = 250) -> Path:
    """The multi-grain benchmark of a collection that lists grains, built if it is not there yet; returns ``file``."""
    if not file.is_file():
        build_mrbench(MrbenchBuildConfig(str(root), per_task=per_task), file.parent)
    return file


def mine_once(mining: MiningConfig, model: EmbedderModelConfig) -> Path:
    """Negatives mined with an embedder in one-word mode, if they are not there yet; returns their folder.

    Args:
        mining: ``out`` is the folder.
        model: the embedder, and how it is asked.
    """
    folder = Path(mining.out)
    if not folder.exists():
        embedder = load_embedder(
            embedder_folder(model.base), config=one_word(model.embedder), dtype=model.dtype, device=model.device
        )
        mine_negatives(replace(mining, embedder=model.base, dtype=model.dtype, device=model.device), embedder)
    return folder


def one_word(embedder: EmbedderConfig) -> EmbedderConfig:
    """The same prompts, in one-word mode."""
    return replace(embedder, mode="one_word")


def mining_name(mining: MiningConfig, base: str, model: EmbedderModelConfig, world: str) -> str:
    """Same name, same negatives but for the seed.

    Args:
        base: the embedder's fingerprint.
        world: tells the collection.
    """
    plain = to_plain(mining)
    for free in ("embedder", "out", "data", "device", "batch_size", "seed"):
        plain.pop(free)
    asked = to_plain(one_word(model.embedder))
    return name_of_choices("mined", {**plain, "base": base, "asked": asked, "on": world}, {})
