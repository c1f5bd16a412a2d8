"""The demo's pictures are indexed with their true attributes, or it says that the demo has to be made first."""

import json
from pathlib import Path

import pytest
from tests.search.serving import save_encoder

from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
from fieldmark.experiments.serve_demo import ServeDemoConfig, demo_listing, index_demo
from fieldmark.search.index import Index


def test_without_a_demo(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make demo comes first"):
        index_demo(ServeDemoConfig(out=str(tmp_path)))


def test_unseen_species_are_indexed_once_with_their_attributes(tmp_path: Path) -> None:
    world = write_fieldguide(
        FieldguideConfig(species=4, per=2, train_share=0.5, siblings=2, size=48), tmp_path / "world"
    )
    save_encoder(tmp_path / "saga" / "encoder")
    config = ServeDemoConfig(out=str(tmp_path))
    index = Index.open(index_demo(config))
    assert len(index) == len(demo_listing(world)) == 4
    assert {"genus", "species"} < set(index.metadata_columns)
    truth = [json.loads(line) for line in (world / "attributes.jsonl").read_text().splitlines()]
    rows = {row["path"]: row for batch in index.scan() for row in batch.to_pylist()}
    for one in truth:
        assert (one["id"] in rows) == (one["split"] == "test")
        if one["id"] in rows:
            stored = rows[one["id"]]
            assert all(stored[name.replace(" ", "_")] == value for name, value in one["attributes"].items())
    version = index.table.version
    index_demo(config)
    assert Index.open(index_demo(config)).table.version == version
