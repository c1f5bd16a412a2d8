"""What the sections choose, mark and conclude."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fixtures_models import tiny_tokenizer
from tests.report.conftest import completions, make_encoder
from tests.report.reading import Reader

from fieldmark.data.collection import LabelledImages
from fieldmark.policy.rollouts import RolloutGroup, build_group, build_prompt
from fieldmark.policy.vocabulary import load_vocabulary
from fieldmark.report.completions import disagreements, marked
from fieldmark.report.curves import MAX_POINTS, read_lines, series
from fieldmark.report.gallery import choose_queries, differing_marks
from fieldmark.report.inputs import MethodReport, Report, ReportSizes, method_from_run
from fieldmark.report.interview import choose_groups, described, draw_pairs
from fieldmark.report.measure import measure
from fieldmark.report.pictures import heat_overlay, heat_uri
from fieldmark.report.results import result_section

# ---- gallery


def random_answers(methods: int, queries: int = 60, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(methods)
    return random.random((methods, queries, k)) < 0.4, np.arange(queries) // 4


def test_queries_are_of_their_kind_counted_and_of_different_classes() -> None:
    right, labels = random_answers(3)
    evaluated = np.ones(60, bool)
    evaluated[:8] = False
    sizes = ReportSizes(differing_queries=5, agreeing_queries=2)
    strata = choose_queries(right, labels, evaluated, sizes, 2, 0, ["base", "other", "ours"])
    won, lost, all_right, all_wrong = strata
    first = right[:, :, 0]
    expected = (
        first[2] & ~first[0],
        first[0] & ~first[2],
        first.all(0),
        ~first.any(0),
    )
    for stratum, which in zip(strata, expected, strict=True):
        assert stratum.count == sum(bool(which[q]) for q in range(8, 60))
        assert all(which[q] and evaluated[q] for q in stratum.chosen)
    assert (len(won.chosen), len(lost.chosen)) == (3, 2)
    assert len(all_right.chosen) == len(all_wrong.chosen) == 2
    chosen = [q for stratum in strata for q in stratum.chosen]
    assert len({labels[q] for q in chosen}) == len(chosen)
    assert won.title == "ours right, base wrong" and lost.title == "base right, ours wrong"


def test_the_largest_differences_come_first() -> None:
    right, labels = random_answers(2)
    labels = np.arange(60)  # every query its own class: nothing is passed over
    sizes = ReportSizes(differing_queries=6, agreeing_queries=1)
    won = choose_queries(right, labels, np.ones(60, bool), sizes, 1, 0, ["a", "b"])[0]
    gain = right[1].sum(-1) - right[0].sum(-1)
    candidates = [q for q in range(60) if right[1, q, 0] and not right[0, q, 0]]
    assert list(won.chosen) == sorted(candidates, key=lambda q: (-gain[q], q))[:3]


def test_without_a_pair_to_compare_the_widest_spread_is_shown() -> None:
    right, labels = random_answers(4)
    strata = choose_queries(right, labels, np.ones(60, bool), ReportSizes(), None, 0, list("abcd"))
    assert [s.title for s in strata] == ["Where the methods differ most", "Every method right", "Every method wrong"]
    alone = choose_queries(right[:1], labels, np.ones(60, bool), ReportSizes(), None, None, ["solo"])
    assert [s.title for s in alone] == ["solo right", "solo wrong"]
    assert sum(s.count for s in alone) == 60


def test_nothing_of_a_kind_gives_an_empty_stratum() -> None:
    right = np.ones((2, 12, 3), bool)
    strata = choose_queries(right, np.arange(12), np.ones(12, bool), ReportSizes(), 0, 1, ["a", "b"])
    assert [s.count for s in strata] == [0, 0, 12, 0]


def test_differing_marks() -> None:
    marks = {"a": {"bill shape": "hooked", "leg color": "pink"}, "b": {"bill shape": "needle", "leg color": "pink"}}
    assert differing_marks(marks, "a", "b") == ["bill shape"]
    assert differing_marks(marks, "a", "elsewhere") is None


# ---- completions and pairs


def answer(shape: str, colour: str, verdict: str) -> str:
    description = {"bill shape": shape, "bill color": colour}
    return json.dumps({"bird_1": description, "bird_2": description, "same_species": verdict})


def make_group(texts: list[str], *, same: bool = True, kind: str = "same") -> RolloutGroup:
    vocabulary = load_vocabulary("fieldguide")
    prompt = build_prompt(vocabulary, "structured", ("bill shape", "bill color"))
    tokenizer = tiny_tokenizer()
    return build_group(tokenizer, completions(tokenizer, texts), prompt, (0, 1), same, kind)  # type: ignore[arg-type]


def test_only_values_that_differ_between_completions_disagree() -> None:
    group = make_group([answer("hooked", "Red", "yes"), answer("needle", " red ", "no"), "nothing"])
    assert disagreements(group.rollouts) == {
        (0, "bill shape"): ("hooked", "needle"),
        (1, "bill shape"): ("hooked", "needle"),
    }
    assert disagreements(group.rollouts[:1]) == {}


def test_marks_stand_exactly_around_their_characters() -> None:
    text = "a <b> & c"
    found = marked(text, [(2, 5, "differs", "x"), (4, 7, "value", "overlaps"), (6, 7, "value", None)])
    assert found == ('a <mark class="differs" title="x">&lt;b&gt;</mark> <span class="value">&amp;</span> c')
    assert "".join(Reader(found).texts) == text
    assert marked(text, [(5, 99, "value", None)]) == "a &lt;b&gt; &amp; c"


def test_the_rollout_to_look_at_is_right_if_one_is() -> None:
    wrong, right = answer("hooked", "red", "no"), answer("hooked", "red", "yes")
    assert described(make_group(["nothing", wrong, right])) == 2
    assert described(make_group(["nothing", wrong])) == 1
    assert described(make_group(["nothing", "still nothing"])) is None


def test_mixed_groups_are_shown_first_and_types_take_turns() -> None:
    even, mixed = [answer("a", "b", "yes")] * 2, [answer("a", "b", "yes"), answer("a", "b", "no")]
    groups = [make_group(even), make_group(mixed), make_group(even, same=False, kind="hard")]
    groups.append(make_group(mixed, same=False, kind="random"))
    assert choose_groups(groups, 4) == [groups[1], groups[2], groups[0], groups[3]]
    assert choose_groups(groups, 2) == [groups[1], groups[2]]


def test_pairs_are_of_their_type_and_all_different() -> None:
    labels = np.repeat(np.arange(6), 5)
    embeddings = torch.nn.functional.normalize(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs = draw_pairs(labels, embeddings, 24, torch.Generator().manual_seed(1))
    assert pairs == draw_pairs(labels, embeddings, 24, torch.Generator().manual_seed(1))
    assert [kind for _, kind in pairs[:4]] == ["same", "hard", "same", "random"]
    assert len({frozenset((p.a, p.b)) for p, _ in pairs}) == len(pairs) == 24
    for pair, kind in pairs:
        assert pair.a != pair.b and pair.same == (kind == "same") == (labels[pair.a] == labels[pair.b])
        if kind == "hard":
            scores = [(float(embeddings[pair.a] @ embeddings[i]), i) for i in range(30) if labels[i] != labels[pair.a]]
            assert max(scores)[1] == pair.b
    few = draw_pairs(np.array([0, 0, 1]), None, 9, torch.Generator().manual_seed(0))
    assert len(few) == 9  # repeats rather than ends


# ---- curves


def test_logs_are_read_as_they_were_left(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 1, "kind": "train", "loss": 2.0, "reward": null}\n{"step": 1, "kind": "other", "loss": 9}\n'
        '{"step": 2, "kind": "train", "loss": 1.0, "reward": 0.5, "mixed": true}\n{"step": 3, "ki'
    )
    lines = read_lines(path)
    assert series(lines, "loss") == ((1.0, 2.0), (2.0, 1.0))
    assert series(lines, "reward") == ((2.0, 0.5),)
    assert series(lines, "mixed") == ()
    assert read_lines(tmp_path / "missing") == [] == read_lines(None)
    path.write_text("not json\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 1, is no JSON"):
        read_lines(path)


def test_long_series_are_averaged_in_blocks() -> None:
    lines = [{"step": s, "loss": float(s)} for s in range(1, 1001)]
    short = series(lines, "loss")
    assert len(short) <= MAX_POINTS and short[-1][0] == 1000
    assert short[0] == (5.0, 3.0)
    assert all(a[0] < b[0] for a, b in itertools.pairwise(short))


# ---- pictures


def test_heat_is_clear_where_attention_is_equal_and_grows_away_from_it() -> None:
    clear = np.asarray(heat_overlay(np.ones((4, 4)), 16))
    assert clear[..., 3].max() == 0
    peak = np.full((4, 4), 0.5)
    peak[1, 2] = 8.0
    overlay = np.asarray(heat_overlay(peak, 64)).astype(int)
    assert overlay[24, 40, 0] > 150 and overlay[24, 40, 3] > 120  # the hot patch: red and dense
    assert overlay[60, 4, 0] < 40 and 0 < overlay[60, 4, 3] < 120  # elsewhere a light veil
    with pytest.raises(ValueError, match="does not fit a grid"):
        heat_uri(torch.ones(5), (2, 2))


# ---- results


def row(name: str, role: str, **options: object) -> MethodReport:
    return MethodReport(name, name.capitalize(), role, **options)  # type: ignore[arg-type]


def test_sentences_say_what_the_intervals_allow(world: LabelledImages) -> None:
    encoder, other = make_encoder(seed=0), make_encoder(seed=3, kind="mean")
    report = Report(
        "t",
        "i",
        [
            row("base", "baseline", encoder=encoder, results={"nmi": 0.5}),
            row("ours", "method", encoder=encoder, results={"nmi": 0.5}),
            row("shuffled", "control", encoder=other, results={"nmi": 0.5}),
            row("top", "ceiling", results={"recall_at_1": 0.9}),
        ],
        world,
    )
    measured = measure(report)
    text = Reader(result_section(report, measured).body).text
    assert "not distinguishable: ±0.0 points (±0.0 to ±0.0)" in " ".join(text.split())
    table = Reader(result_section(report, measured).body)
    assert table.count["table"] == 2
    assert measured[0].figures["recall_at_1"].low is not None
    assert measured[3].figures["recall_at_1"].low is None and measured[3].result is None


def test_ceilings_do_not_compete_and_controls_do(plain: LabelledImages) -> None:
    methods = [
        row("ours", "method", results={"recall_at_1": 0.5, "recall_at_1_interval": [0.4, 0.6], "nmi": 0.3}),
        row("shuffled", "control", results={"recall_at_1": 0.6}),
        row("top", "ceiling", results={"recall_at_1": 0.9}),
    ]
    report = Report("t", "i", methods, plain)
    body = result_section(report, measure(report)).body
    best = body.split('class="best"')
    assert len(best) == 3  # the only NMI and the control's R@1
    assert best[1].startswith(">30.0") and best[2].startswith(">60.0")
    assert "40.0–60.0" in body


def test_figures_of_another_test_set_are_remarked_on(plain: LabelledImages) -> None:
    encoder = make_encoder()
    report = Report(
        "t", "i", [row("ours", "method", encoder=encoder, results={"recall_at_1": 0.99, "nmi": 0.5})], plain
    )
    (measured,) = measure(report)
    assert "another test set or another encoder" in measured.remark
    honest = replace(report.methods[0], results={"recall_at_1": measured.result.recall_at_k[1], "nmi": 0.5})  # type: ignore[union-attr]
    assert measure(replace(report, methods=[honest]))[0].remark == ""


def test_rows_are_checked_and_read_from_runs(plain: LabelledImages, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither an encoder nor results"):
        row("empty", "method")
    with pytest.raises(ValueError, match="role 'winner'"):
        row("a", "winner", results={"recall_at_1": 1})
    one = row("a", "method", results={"recall_at_1": 1})
    with pytest.raises(ValueError, match="named twice: a"):
        Report("t", "i", [one, one], plain)
    with pytest.raises(ValueError, match="baseline 'b' is none"):
        Report("t", "i", [one], plain, baseline="b")
    with pytest.raises(ValueError, match="the run is not finished"):
        method_from_run(tmp_path, "a", "A", "method")
    (tmp_path / "results.json").write_text('{"test": {"recall_at_1": 0.25}}')
    read = method_from_run(tmp_path, "a", "A", "method")
    assert read.results == {"recall_at_1": 0.25} and read.encoder is None and read.log is None
