"""`make serve-demo`: the pictures of the demo's unseen species, to be searched in the browser."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from fieldmark.search.service.config import ServiceConfig
from fieldmark.training.run_folder import write_text


@dataclass(frozen=True)
class ServeDemoConfig:
    """The demo's pictures in the browser."""

    out: str = "runs/demo"
    """Folder of the demo; the index is kept there, too."""
    method: str = "saga"
    """Whose encoder: saga, metric, metric_mean, untrained, saga_permuted_reward or oracle."""
    port: int = 8077
    """Port to listen on, on this computer only."""


def serve_demo(config: ServeDemoConfig) -> None:
    """Index what is not indexed yet, then serve until Ctrl-C.

    Raises:
        ValueError: the demo was not finished in this folder, or what `build_index` and `serve` raise.
    """
    index = index_demo(config)
    try:
        from fieldmark.search.service.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serving needs {error.name}, which is not installed: pip install 'fieldmark[serve]'"
        ) from error
    serve(ServiceConfig(index=str(index), encoder=str(Path(config.out) / config.method), port=config.port))


def index_demo(config: ServeDemoConfig) -> Path:
    """Make the demo's index, or bring it up to date. Returns its folder."""
    from fieldmark.search.build import BuildConfig, build_index

    out = Path(config.out)
    run, world = out / config.method, out / "world"
    if not (run / "encoder").is_dir() or not (world / "attributes.jsonl").is_file():
        raise ValueError(
            f"there is no finished demo in {out} ({config.method}): make demo comes first (a quarter of an hour)"
        )
    listing = out / "unseen_species.jsonl"
    write_text(listing, "".join(json.dumps(record) + "\n" for record in demo_listing(world)))
    index = out / f"{config.method}.index"
    print(f"Indexing the pictures of the unseen species in {index} …", file=sys.stderr, flush=True)
    report = build_index(BuildConfig(encoder=str(run), images=str(listing), root=str(world), index=str(index)))
    if report.failed:
        raise ValueError(f"{report.failed} pictures of {world} cannot be read: delete {out} and make the demo again")
    return index


def demo_listing(world: Path) -> list[dict[str, str]]:
    """One record per picture of an unseen species: path, species, genus, and every true attribute as a column."""
    records = []
    for line in (world / "attributes.jsonl").read_text(encoding="utf-8").splitlines():
        sighting = json.loads(line)
        if sighting["split"] == "test":
            name = sighting["species"].partition(".")[2]
            attributes = {key.replace(" ", "_"): value for key, value in sighting["attributes"].items()}
            records.append({"path": sighting["id"], "genus": name.partition("_")[0], "species": name} | attributes)
    return records
