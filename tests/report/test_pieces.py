"""HTML that cannot be broken by its texts, and the small parts of the charts."""

import itertools

import pytest
from tests.report.reading import Reader

from fieldmark.report.charts import BarRow, Curve, IntervalRow, interval_chart, line_chart, running_mean, stacked_bars
from fieldmark.report.html import Html, breakable, el, escape, join, number
from fieldmark.report.measure import signed
from fieldmark.report.page import page, settings_section
from fieldmark.report.svg import Scale, padded, spread, tick_text, ticks

EVIL = '<script>alert("x")</script>\' onload=x \x00\x1b\u202e\ud800'


def test_every_text_is_escaped_once_and_only_html_passes() -> None:
    assert escape('<a href="x">&\'') == "&lt;a href=&quot;x&quot;&gt;&amp;&#x27;"
    assert el("p", "<b>", el("b", "x"), ["1 < 2", None, False, 3]) == "<p>&lt;b&gt;<b>x</b>1 &lt; 23</p>"
    assert escape(escape("<")) == "&lt;"
    written = el("p", EVIL, title=EVIL)
    written.encode("utf-8")
    assert "<script" not in written and "\x00" not in written and "\u202e" not in written
    assert written.count('"') == 2  # only the attribute's own quotation marks
    assert breakable("a.b_<i>") == "a.<wbr>b_<wbr>&lt;i&gt;"


@pytest.mark.parametrize(
    "attributes",
    [
        {"onclick": "x"},
        {"style": "x"},
        {"href": "https://example.org"},
        {"src": "//example.org/a.png"},
        {"href": "javascript:x"},
        {'a"b': "x"},
    ],
)
def test_attributes_that_act_or_point_outside_are_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"cannot be used|points outside"):
        el("a", **attributes)


def test_a_page_made_of_evil_texts_has_one_script_and_stays_well_formed() -> None:
    text = page(EVIL, EVIL, [settings_section({EVIL: [EVIL, {EVIL: EVIL}], "none": None})])
    reader = Reader(text)
    assert reader.count["script"] == 1 and reader.count["style"] == 1
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)


def test_the_policy_allows_exactly_the_scripts_and_styles_that_are_there() -> None:
    import base64
    import hashlib

    text = page("t", "", [])
    policy = next(a["content"] for tag, a in Reader(text).tags if a.get("http-equiv"))
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        content = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_numbers_are_short_and_never_minus_zero() -> None:
    assert [number(v) for v in (1.0, 0.126, -0.001, 100.10)] == ["1", "0.13", "0", "100.1"]
    assert [signed(v) for v in (0.0321, -0.004, 0.0, -0.0001)] == ["+3.2", "−0.4", "±0.0", "±0.0"]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.513, 0.587), (-3, 120), (1e-4, 3e-4), (5, 5)])
def test_ticks_are_round_inside_and_few(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 1 <= len(marks) <= 8
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in marks)
    assert len({tick_text(t, marks) for t in marks}) == len(marks)
    if len(marks) > 2:
        gaps = [b - a for a, b in itertools.pairwise(marks)]
        assert max(gaps) == pytest.approx(min(gaps))


def test_labels_are_spread_and_keep_their_order() -> None:
    wanted = [50.0, 51.0, 49.0, 100.0, 3.0]
    placed = spread(wanted, 15, 0, 110)
    assert sorted(range(5), key=placed.__getitem__) == sorted(range(5), key=wanted.__getitem__)
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(sorted(placed)))
    assert min(placed) >= 0 and max(placed) <= 110
    assert spread([20.0, 80.0], 15, 0, 110) == [20.0, 80.0]
    crowded = spread([5.0] * 20, 15, 0, 100)
    assert min(crowded) >= -1e-9 and max(crowded) <= 100 + 1e-9


def test_a_scale_maps_its_ends() -> None:
    assert Scale(2, 4)(2) == 0 and Scale(2, 4)(3) == 50
    assert Scale(2, 4).percent(9) == "100%"
    scale = padded([1.0, 1.0], least=0.5)
    assert scale.low < 1 < scale.high


def test_running_mean_equals_a_loop() -> None:
    points = [(float(i), float(i * i % 7)) for i in range(20)]
    for width in (1, 3, 50):
        for i, (step, value) in enumerate(running_mean(points, width)):
            window = [points[k][1] for k in range(i + 1) if k > i - width]
            assert step == points[i][0] and value == pytest.approx(sum(window) / len(window))


def test_intervals_are_drawn_where_they_lie_and_read_aloud() -> None:
    rows = [
        IntervalRow("A <b>", "c-start-0", "start", 0.5, 0.4, 0.6, "50.0 %"),
        IntervalRow("B", "c-method-0", "method", 0.7, None, None, "70.0 %"),
    ]
    reader = Reader(interval_chart(rows, summary="R@1.", reference=0.5, unit="%"))
    role, label = next((a["role"], a["aria-label"]) for _, a in reader.tags if a.get("role") == "img")
    assert role == "img" and "A <b>: 50.0 %" in label and "B: 70.0 %" in label
    whiskers = [a for tag, a in reader.tags if tag == "line" and a["class"] == "whisker"]
    assert len(whiskers) == 3  # one interval with two ends; none for the row without
    low, high = float(whiskers[0]["x1"][:-1]), float(whiskers[0]["x2"][:-1])
    line = next(float(a["x1"][:-1]) for tag, a in reader.tags if tag == "line" and a["class"] == "reference")
    assert low < line < high and line == pytest.approx((low + high) / 2, abs=0.02)


def test_bars_add_up_and_curves_keep_their_ends() -> None:
    rows = [BarRow("area", "", None, (0.25, 0.35, 0.4)), BarRow("A", "c-method-0", "method", (0.6, 0.4, 0.0))]
    reader = Reader(join(stacked_bars(rows, ["marks", "plumage", "habitat"], summary="Shares.")))
    widths = [float(a["width"][:-1]) for tag, a in reader.tags if tag == "rect"]
    assert sum(widths[:3]) == pytest.approx(100) and sum(widths[3:]) == pytest.approx(100)
    curve = Curve("A name that is far too long for the end of a curve", "c-method-0", "method", ((0, 0.2), (10, 0.9)))
    text = line_chart([curve], summary="R@1.", percent=True, smooth=1)
    assert "from 20.0 % to 90.0 %" in text and "…" in text and "end of a curve" in text
    (points,) = [a["points"] for tag, a in Reader(text).tags if tag == "polyline"]
    assert points.split()[0].startswith("0,") and points.split()[-1].startswith("100,")


def test_html_type_survives_joining() -> None:
    assert isinstance(join("a", [el("br")]), Html) and join("a", [el("br")]) == "a<br>"
