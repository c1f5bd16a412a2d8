"""The report of universal embedders: self-contained, well-formed, true to what was ranked."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures_models import tiny_backbone
from tests.report.reading import Reader

from fieldmark.data.retrieval import Item, Query, RetrievalTask
from fieldmark.models.embedding_prompts import EmbedderConfig, Mode
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.report.elva import ElvaReport, ElvaSizes, EmbedderRow, build_elva_report
from fieldmark.report.elva.looking import choose_queries, look
from fieldmark.report.elva.maps import map_candidates
from fieldmark.report.elva.results import paired_difference

EVIL = "<script>alert(\"x\")</script> & 'Co'"
SECTIONS = ["result", "rankings", "ranks", "attention", "maps", "training", "settings"]
SIZES = ElvaSizes(changed_queries=2, neighbours=3, attention_queries=3, maps=1, map_points=12, picture_pixels=16)
GRAINS = ("red bill", "long tail", "barred wing")


def task_of(folder: Path, count: int = 14, facts: bool = True) -> RetrievalTask:
    """Coloured squares; which grains each has is drawn, and what has all of a query's is relevant to it."""
    random = np.random.default_rng(0)
    candidates, has = [], []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
        own = tuple(grain for grain in GRAINS if i < 3 or random.random() < 0.5) or (EVIL,)
        has.append(own)
        candidates.append(Item(f"c{i}", None, path, facts=own if facts else ()))
    asked = [GRAINS, GRAINS[:2], GRAINS[1:], GRAINS[::2], GRAINS[::-1], GRAINS[:1]]
    queries = [Query(Item(f"q{i}", ", ".join(one)), f"find {EVIL}", grains=one) for i, one in enumerate(asked)]
    relevance = {
        query.id: {f"c{i}": 1.0 for i, own in enumerate(has) if set(query.grains) <= set(own)} for query in queries
    }
    return RetrievalTask("squares_task0_test", queries, candidates, relevance)


def embedder(seed: int, mode: Mode) -> UniversalEmbedder:
    config = EmbedderConfig(
        mode=mode, image_size=16, max_new_tokens=5, one_word_prompt="{text}\n{instruction}",
        generative_prompt="{text}\n{instruction}:",
    )  # fmt: skip
    return UniversalEmbedder(tiny_backbone(seed), config)


def figures(value: float, hits: Sequence[int]) -> dict:
    recall = {"mean": value, "low": value - 0.1, "high": value + 0.1, "queries": 5}
    cost = {"requests": 10, "seconds": 0.5, "tokens": 4.0, "forced": 0.25}
    return {
        "mode": "generative", "average": value, "recall": {"squares_task0": recall, "squares_task7": recall},
        "by_grains": {"1": recall, "3": recall}, "single_grain": recall, "multi_grain": recall,
        "multi_grain_hits": list(hits),
        "sensitivity": {"distance": 0.07, "relative": 0.2, "relative_interval": [0.1, 0.3]},
        "compliance": {"satisfied": 0.7, "interval": [0.6, 0.8], "random": 0.4, "misordered": 0.3},
        "truth": {"squares_task0": {"true": 0.9, "named": 0.8}, "candidates": {"true": 0.6, "named": 0.5}},
        "queries": cost, "candidates": cost,
    }  # fmt: skip


def rows(folder: Path) -> list[EmbedderRow]:
    log = folder / "log.jsonl"
    lines = [{"step": s, "reward": 0.1 * s, "signal": 0.5, "entropy": 1 / s, "kl": 0.01, "tokens": 4.0, "forced": 0.2}
             for s in range(1, 6)]  # fmt: skip
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        EmbedderRow("before", "Before", "start", "As given.", figures(0.3, [0] * 20)),
        EmbedderRow("after", f"After {EVIL}", "method", EVIL, figures(0.5, [1] * 15 + [0] * 5), log),
        EmbedderRow("shuffled", "Shuffled", "control", "", figures(0.5, [1, 0] * 10)),
    ]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[ElvaReport, Path]:
    folder = tmp_path_factory.mktemp("elva")
    models = {"before": embedder(0, "one_word"), "after": embedder(1, "generative")}
    report = ElvaReport(
        f"Title {EVIL}", f"Intro {EVIL}\n\nMore.", rows(folder), task_of(folder), "after", "before", models,
        settings={"command": EVIL}, attention_layer=1, sizes=SIZES,
    )  # fmt: skip
    first = build_elva_report(report, folder / "deep" / "report.html")
    assert first.read_bytes() == build_elva_report(report, folder / "again.html").read_bytes()
    return report, first


def test_everything_is_there_and_nothing_is_loaded(full: tuple[ElvaReport, Path]) -> None:
    text = full[1].read_text(encoding="utf-8")
    reader = Reader(text)
    assert [a["id"] for tag, a in reader.tags if tag == "section"] == SECTIONS
    assert reader.count["script"] == 1 and "<script>alert" not in text and EVIL in reader.text
    for tag, attributes in reader.tags:
        assert "style" not in attributes and (tag != "img" or "alt" in attributes)
        for name in ("src", "href"):
            assert name not in attributes or attributes[name].startswith(("data:", "#"))
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
    assert "missing" not in {a.get("class") for tag, a in reader.tags if tag == "p"} or "Nothing to show" in text
    for word in ("Mean reward", "Groups with signal", "Entropy", "KL to the start", "Tokens", "Forced endings"):
        assert word in reader.text
    assert "Pictures of the pool" in reader.text and text.count('class="heat"') == 2 * text.count("Equal shares") > 0
    assert sorted(full[1].parent.iterdir()) == [full[1]]


def test_signs_under_the_pictures_are_the_candidates_facts(full: tuple[ElvaReport, Path]) -> None:
    report, path = full
    text = path.read_text(encoding="utf-8")
    gallery = text[text.index('id="rankings"') : text.index('id="ranks"')]
    looked = look(report, {"before": "c-start-0", "after": "c-method-0"})
    shown = [(q, side, place) for q in looked.shown for side in looked.sides for place in side.top[q].tolist()]
    hits = re.findall(r'<li class="(right|wrong)">(.*?)</li>(?=<li class="(?:right|wrong)"|</ol>)', gallery)
    assert len(hits) == len(shown) >= 6
    for (verdict, body), (q, side, place) in zip(hits, shown, strict=True):
        query, item = looked.queries[q], looked.candidates[place]
        assert (verdict == "right") == (item.id in report.task.relevance[query.id])
        marks = {grain: word for word, grain in re.findall(r"(has|lacks) </span> ([a-z ]+)", body)}
        assert marks == {grain: "has" if grain in item.facts else "lacks" for grain in query.grains}
        assert ("[RET]" in body) == (side.row.name == "after")


def test_ranks_in_the_plots_are_those_of_the_change(full: tuple[ElvaReport, Path]) -> None:
    report, path = full
    text = path.read_text(encoding="utf-8")
    plots = text[text.index('id="ranks"') : text.index('id="attention"')]
    looked = look(report, {"before": "c-start-0", "after": "c-method-0"})
    pairs = re.findall(r'<span class="row-value">(\d+) → (\d+)</span>', plots)
    expected = []
    for query in looked.shown:
        if query in looked.changes:
            one = looked.changes[query]
            expected.append((one.match_before, one.match_after))
            expected += [(miss.before, miss.after) for miss in one.near_misses]
    assert [(int(a), int(b)) for a, b in pairs] == expected and expected


def test_the_verdict_says_what_the_hits_say(full: tuple[ElvaReport, Path]) -> None:
    report, path = full
    reader = Reader(path.read_text(encoding="utf-8"))
    text = " ".join(reader.text.split())
    assert re.search(r"finds 50\.0 % of the queries of several grains", text)
    found = paired_difference(report.rows[1], report.rows[0], 0)
    assert found is not None and found.mean == pytest.approx(0.75)
    assert "higher by 75.0 points" in text and "+250.0 % relative" in text
    assert "cannot be credited to the signal" in text  # of the control: the interval holds zero
    assert "i,t→i" in text and "3 grains" in text


def test_queries_are_chosen_by_rule() -> None:
    before, after = np.array([9, 1, 3, 1, 40, 0, 8, 2]), np.array([3, 1, 30, 1, 6, 5, 8, 2])
    better, worse, first, never = choose_queries(before, after, ElvaSizes(changed_queries=3))
    assert (better.chosen, better.count) == ((4, 0), 2)  # 40 → 6 is a larger factor than 9 → 3
    assert (worse.chosen, worse.count) == ((2,), 1)
    assert first.count == 2 and first.chosen[0] in (1, 3)
    assert never.chosen == (6,)  # query 4 is shown already
    here, away = choose_queries(None, after, ElvaSizes(changed_queries=2))
    assert here.count == 5 and away.count == 3 and len(here.chosen) == len(away.chosen) == 1


def test_maps_hold_what_matters_and_some_of_the_rest(full: tuple[ElvaReport, Path]) -> None:
    report, path = full
    looked = look(report, {"before": "c-start-0", "after": "c-method-0"})
    query = next(iter(looked.changes))
    grains = set(looked.queries[query].grains)
    matters = {i for i, one in enumerate(looked.candidates) if len(grains - set(one.facts)) < 2}
    chosen = map_candidates(looked, [query], len(matters) + 1)
    assert matters < set(chosen) and len(chosen) == len(matters) + 1
    text = path.read_text(encoding="utf-8")
    panels = re.findall(r'<svg[^>]*class="map"[^>]*aria-label="[^"]*"', text)
    assert len(panels) == 2 and all("1 points: the query" in panel for panel in panels)


@pytest.mark.parametrize("facts", [True, False])
def test_what_is_not_known_is_said(tmp_path: Path, facts: bool) -> None:
    task = task_of(tmp_path, facts=facts)
    if not facts:
        task = RetrievalTask(
            task.name, [Query(q.item, q.instruction) for q in task.queries], task.candidates, task.relevance
        )
    model = embedder(0, "one_word")
    alone = ElvaReport("T", "", [EmbedderRow("a", "A", "baseline")], task, "a", None, {"a": model}, sizes=SIZES)
    text = " ".join(Reader(build_elva_report(alone, tmp_path / "r.html").read_text(encoding="utf-8")).text.split())
    sentences = ["No row brings figures", "one embedder only", "Without a log: A.", "No settings were given"]
    for sentence in [*sentences, *([] if facts else ["does not list the parts (grains)"])]:
        assert sentence in text


def test_bad_reports_are_refused(tmp_path: Path) -> None:
    task, model = task_of(tmp_path), embedder(0, "one_word")

    def asked(rows: Sequence[EmbedderRow], after: str, before: str | None) -> ElvaReport:
        return ElvaReport("T", "", rows, task, after, before, {"a": model}, sizes=SIZES)

    row = EmbedderRow("a", "A", "method")
    with pytest.raises(ValueError, match="at least one embedder"):
        asked([], "a", None)
    with pytest.raises(ValueError, match="named twice: a"):
        asked([row, row], "a", None)
    with pytest.raises(ValueError, match="'b' is none of the rows"):
        asked([row], "a", "b")
    with pytest.raises(ValueError, match="compared with itself"):
        asked([row], "a", "a")
    with pytest.raises(ValueError, match="is a folder"):
        build_elva_report(asked([row], "a", None), tmp_path)
