"""`fieldmark explain`: why two pictures match, by a trained encoder and, where there is one, the supervisor."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from fieldmark.data.decode import decode_image
from fieldmark.evaluation.correspondence import explain_pair, picture_pixels
from fieldmark.evaluation.pair_account import PairAccount, account_of_pair
from fieldmark.experiments.saved_runs import encoder_folder, read_part
from fieldmark.models.bundled import located
from fieldmark.models.embedder_files import EMBEDDER_FILE
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.report.match_drawing import Match, match_svg, svg_to_png
from fieldmark.report.match_page import match_page
from fieldmark.search.collection_mean import LEAST_ROWS, collection_mean
from fieldmark.search.encoders import files_fingerprint
from fieldmark.search.index import Index
from fieldmark.training.config import ModelConfig
from fieldmark.training.run_folder import read_config, versions, write_text
from fieldmark.training.session import load_supervisor

NAMES = ("explanation.html", "explanation.png", "explanation.json")


@dataclass(frozen=True)
class ExplainConfig:
    """Which encoder, whether the supervisor is asked, and where the files go."""

    run: str = ""
    """Folder of a run, or of a saved encoder."""
    out: str = "explanation"
    """Folder for explanation.html, explanation.png and explanation.json; earlier ones are replaced."""
    dimensions: int | None = None
    """Explain embeddings cut to so many numbers. Not given: whole."""
    index: str = ""
    """Explain what goes beyond what all pictures of this index share: the centred cosine. The run's encoder must have
    made it. Not given: the plain cosine."""
    supervisor: str = ""
    """Also ask this multimodal LLM: "bundled", a checkpoint folder or a hub id. Not given: none is loaded."""
    vocabulary: str = ""
    """Its vocabulary: birds, cars, aircraft, fieldguide or a YAML file. Not given: the SAGA run's own."""
    completions: int = 8
    """Answers to sample per prompt."""
    max_new_tokens: int | None = None
    """Cut answers here. Not given: as the run had it, else 1024."""
    attention_layer: int | None = None
    """Decoder layer whose attention is shown, from 0. Not given: at 26/36 of the depth (published)."""
    seed: int = 0
    """Of sampling."""
    device: str = "cpu"
    """Torch device."""
    dtype: str = "float32"
    """What the supervisor is computed in; "auto" takes bfloat16 where the processor has instructions for it."""

    def __post_init__(self) -> None:
        if self.completions < 1:
            raise ValueError(f"completions must be at least 1, got {self.completions}")


@dataclass(frozen=True, eq=False)
class Explained:
    """What was found, and the files that were written."""

    match: Match
    html: Path
    png: Path
    json: Path


def run_explain(a: Path, b: Path, config: ExplainConfig) -> Explained:
    """Explain the match of two picture files and write HTML, PNG and JSON.

    Raises:
        ValueError: no encoder there, an encoder whose embedding is no sum over patches, a picture that cannot be
            decoded, a supervisor without a vocabulary, or an index of another encoder or without a mean.
    """
    if not config.run:
        raise ValueError("no encoder given: set --run to the folder of a run or of a saved encoder")
    run = Path(located(config.run))
    if any((folder / EMBEDDER_FILE).is_file() for folder in (run, run / "encoder")):
        raise ValueError(
            f"{config.run} is a universal embedder: its embedding is a state of the language model, which is no sum "
            "over patches, so there is no exact decomposition. Those of fieldmark train saga and train metric have one"
        )
    folder = encoder_folder(run)
    rollouts = _rollouts(config, folder) if config.supervisor else None
    pictures = (_decoded(a), _decoded(b))
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: --out names a folder")
    centre = _centre(config, run, folder) if config.index else None
    encoder = RetrievalEncoder.from_pretrained(folder, device=config.device)
    found = explain_pair(encoder, *pictures, dimensions=config.dimensions, centre=centre)
    account = None if rollouts is None else _ask(config, rollouts, pictures, encoder.image_size)
    match = Match(found, pictures, (_name(a, b), _name(b, a)), account)

    out.mkdir(parents=True, exist_ok=True)
    html, png, plain = (out / name for name in NAMES)
    settings = {
        "pictures": [str(a), str(b)],
        "encoder": str(folder),
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("run", "out")},
        "versions": versions(),
    }
    content = {
        "settings": settings,
        **found.as_json(),
        "supervisor": None if account is None else account.as_json(),
    }
    write_text(plain, json.dumps(content, ensure_ascii=False) + "\n")
    temporary = png.with_name(f".tmp-{png.name}")
    temporary.write_bytes(svg_to_png(match_svg(match)))
    temporary.replace(png)
    write_text(html, match_page(match, settings))
    return Explained(match, html, png, plain)


def explained_text(explained: Explained) -> str:
    """The cosine, the strongest correspondences and the verdict, for the terminal."""
    found, account = explained.match.explanation, explained.match.account
    parts = f"({found.pooler} pooling, sum of {found.contribution.size} parts)"
    if found.centred_cosine is None:
        lines = [f"cosine {found.cosine:.4f} {parts}"]
    else:
        lines = [
            f"centred cosine {found.centred_cosine:.4f} {parts}; the cosine, with what all pictures of the index "
            f"share, is {found.cosine:.4f}"
        ]
    for one in found.strongest(3):
        line = f"  patch {one.a} of the first and {one.b} of the second carry {one.contribution:.5f}"
        lines.append(line if found.centred_cosine is not None else f"{line}, {one.specific:.5f} beyond their shares")
    if account is not None:
        said = {True: "yes", False: "no", None: "no clear answer"}[account.verdict]
        completions = "; ".join(f"{one.same} yes, {one.different} no" for one in account.answers)
        lines.append(f"supervisor: {account.question}? {said} (completions: {completions})")
        differing = [one for one in account.attributes if one.differs]
        lines += [f"  {one.name}: {one.values[0][0][0]} | {one.values[1][0][0]}" for one in differing]
    return "\n".join(lines)


def _centre(config: ExplainConfig, run: Path, folder: Path) -> torch.Tensor:
    """The mean of the index's embeddings, cut as those that are explained."""
    index = Index.open(config.index)
    index.check_fingerprint(str(run.absolute()), files_fingerprint(folder))
    mean = collection_mean(index, config.dimensions)
    if mean is None:
        raise ValueError(
            f"{index.path} has {len(index)} pictures, which says nothing of what a collection shares: {LEAST_ROWS} or "
            "more that differ are needed. Leave --index out to explain the plain cosine"
        )
    return torch.from_numpy(mean)


def _decoded(path: Path) -> Image.Image:
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file: give two pictures")
    return decode_image(Path(path))


def _name(path: Path, other: Path) -> str:
    """The file's name, with its folder's where both files are called alike or lie in different folders."""
    return path.name if path.parent == other.parent else f"{path.parent.name}/{path.name}"


def _rollouts(config: ExplainConfig, folder: Path) -> RolloutConfig:
    """As the run asked, if it did; checked before anything is loaded."""
    run = folder.parent if folder.name == "encoder" else folder
    stored = read_config(run) if (run / "config.yaml").is_file() else {}
    rollouts = read_part(RolloutConfig, stored, "rollouts", run) if "rollouts" in stored else None
    if rollouts is None and not config.vocabulary:
        raise ValueError(
            f"{run} was not trained by SAGA, so it does not say what to ask: set --vocabulary to birds, cars, "
            "aircraft, fieldguide or a YAML file"
        )
    rollouts = rollouts or RolloutConfig()
    if config.vocabulary and config.vocabulary != rollouts.vocabulary:
        # Another vocabulary has other attributes: how many the run asked for at once says nothing about it.
        rollouts = dataclasses.replace(rollouts, vocabulary=config.vocabulary, attributes_per_prompt=None)
    tokens = rollouts.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
    return dataclasses.replace(rollouts, max_new_tokens=tokens)


def _ask(
    config: ExplainConfig, rollouts: RolloutConfig, pictures: tuple[Image.Image, Image.Image], side: int
) -> PairAccount:
    backbone = load_supervisor(ModelConfig(supervisor=config.supervisor, device=config.device, dtype=config.dtype))
    return account_of_pair(
        backbone,
        torch.stack([picture_pixels(one, side) for one in pictures]),
        rollouts,
        torch.Generator().manual_seed(config.seed),
        completions=config.completions,
        layer=config.attention_layer,
    )
