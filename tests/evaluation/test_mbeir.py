"""M-BEIR's table on a miniature collection whose results are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures_colors import ColorEncoder, write_colors

from fieldmark.data.multimodal.mbeir_layout import OFFICIAL, TaskName
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.mbeir import MbeirConfig, MbeirRow, MbeirTable, direction, evaluate_mbeir
from fieldmark.evaluation.ranking import index_relevance, ranking_metrics

IN_LINE = EncodingConfig(batch_size=4, workers=0)


def run(root: Path, encoder: ColorEncoder | None = None, **changes: object) -> MbeirTable:
    config = MbeirConfig(root=str(root), **changes)  # type: ignore[arg-type]
    return evaluate_mbeir(encoder or ColorEncoder(), config, IN_LINE, np.random.default_rng(0))


def recalls(table: MbeirTable, k: int) -> dict[tuple[str, str], float]:
    return {(str(row.name), row.pool): row.metrics.recall_at_k[k] for row in table.rows}


def test_every_task_in_both_pools(tmp_path: Path) -> None:
    table = run(write_colors(tmp_path))
    first = recalls(table, 1)
    assert list(first) == [(f"tiny_task{k}", pool) for pool in ("local", "global") for k in (0, 3, 4)]
    assert first["tiny_task0", "local"] == first["tiny_task3", "local"] == 1
    # a picture and its text have one embedding: in the union the pictures, whose ids come first, stand before
    assert first["tiny_task0", "global"] == 1 and first["tiny_task3", "global"] == 0
    assert [row.num_candidates for row in table.rows] == [8, 8, 8, 16, 16, 16]
    assert all(row.metrics.num_queries == 8 for row in table.rows)


def test_own_pictures_are_not_found_in_the_local_pool_and_not_there_in_the_global_one(tmp_path: Path) -> None:
    table = run(write_colors(tmp_path), tasks=("tiny_task4",))
    local, union = table.rows
    # what remains nearest is the same colour or the same brightness; the query's own square is not among it
    for row in (local, union):
        assert not any(i in row.metrics.top[i] for i in range(8))
    # the query's text is in the union, a candidate like any other
    assert (union.metrics.top[:, 0] == 8 + np.arange(8)).all()


def test_the_union_is_embedded_once(tmp_path: Path) -> None:
    root = write_colors(tmp_path)
    both, local = ColorEncoder(), ColorEncoder()
    assert run(root, both).num_embedded == sum(both.calls) == 16 + 3 * 8
    table = run(root, local, pools=("local",))
    assert sum(local.calls) == 3 * 8 + 3 * 8
    assert recalls(table, 1) == {k: v for k, v in recalls(run(root), 1).items() if k[1] == "local"}


def test_decoding_processes_change_nothing(tmp_path: Path) -> None:
    root = write_colors(tmp_path)
    config = MbeirConfig(root=str(root))
    encoding = EncodingConfig(batch_size=2, workers=1)
    found = evaluate_mbeir(ColorEncoder(), config, encoding, np.random.default_rng(0))
    assert found.as_json() == run(root).as_json()


def test_json_and_text(tmp_path: Path) -> None:
    table = run(write_colors(tmp_path))
    found = json.loads(json.dumps(table.as_json()))
    assert found["all_16_rows"] == {"local": False, "global": False}
    row = found["rows"][0]
    assert (row["task"], row["direction"], row["metric"], row["score"]) == ("tiny_task0", "t→i", "recall_at_5", 1.0)
    assert found["average"]["local"] == np.mean([r["score"] for r in found["rows"] if r["pool"] == "local"])
    text = table.as_text()
    assert (
        "not over the 16" in text
        and len({len(line) for i, line in enumerate(text.splitlines()) if i in (1, 3, 4)}) == 1
    )


def official_table() -> MbeirTable:
    relevance = index_relevance("x", ["q"], ["a"], {"q": {"a": 1.0}})
    metrics = ranking_metrics(np_ones(), np_ones(), relevance, ks=(1, 5, 10))
    rows = [
        MbeirRow(name, "local", 1, metrics, metrics.interval(f"recall_at_{name.cutoff}", np.random.default_rng(0)))
        for name in OFFICIAL
    ]
    return MbeirTable(tuple(rows), 0, 0, 0, ())


def np_ones() -> torch.Tensor:
    return torch.ones(1, 2)


def test_the_published_layout_has_16_columns_grouped_by_direction() -> None:
    table = official_table()
    assert table.is_complete("local")
    groups, names, metrics, local = table.as_text().splitlines()
    assert groups.split() == ["t→i", "t→t", "t→i,t", "i→t", "i→i", "i,t→t", "i,t→i", "i,t→i,t"]
    assert names.split()[:3] == ["VN", "COCO", "F200K"] and names.split()[-1] == "Avg."
    assert metrics.split() == ["R@5", "R@5", "R@10", *["R@5"] * 5, "R@10", *["R@5"] * 3, "R@10", *["R@5"] * 3]
    assert local.split() == ["local", *["100.0"] * 17]


def test_direction_of_every_task() -> None:
    assert [direction(TaskName("x", k)) for k in (0, 2, 4, 7)] == ["t→i", "t→i,t", "i→i", "i,t→i"]


def test_absent_candidates_are_an_error_or_counted(tmp_path: Path) -> None:
    root = write_colors(tmp_path)
    qrels = root / "qrels" / "test" / "mbeir_tiny_task0_test_qrels.txt"
    qrels.write_text(qrels.read_text().replace("10:0 0 10:0 1", "10:0 0 10:999 1"))
    with pytest.raises(ValueError, match="10:999"):
        run(root)
    table = run(root, absent="count")
    assert recalls(table, 1)["tiny_task0", "local"] == 7 / 8
    assert table.as_json()["rows"][0]["num_never_found"] == 1 and any(
        "never" in n or "not found" in n for n in table.notes
    )


def test_a_global_pool_that_is_no_union(tmp_path: Path) -> None:
    root = write_colors(tmp_path)
    pool = root / "cand_pool" / "global" / "mbeir_union_test_cand_pool.jsonl"
    pool.write_text("".join(pool.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="no union"):
        run(root)
    assert run(root, pools=("local",)).average("local") > 0


@pytest.mark.parametrize("pools", [(), ("local", "local"), ("test",)])
def test_bad_pools(pools: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="pools must be"):
        MbeirConfig(pools=pools)  # type: ignore[arg-type]


def test_no_root() -> None:
    with pytest.raises(ValueError, match="set root"):
        evaluate_mbeir(ColorEncoder(), MbeirConfig(), IN_LINE, np.random.default_rng(0))
