"""The whole report: self-contained, well-formed, escaped, the same bytes for the same input, whatever is
missing."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures_models import tiny_backbone
from tests.report.conftest import EVIL, completions, make_encoder, write_log
from tests.report.reading import Reader

from fieldmark.data.collection import LabelledImages
from fieldmark.models.sampling import Completion
from fieldmark.policy import adjudication
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.report import MethodReport, Report, ReportSizes, build_report

SECTIONS = ["result", "gallery", "shares", "attention", "supervisor", "completions", "training", "settings"]
NMI = {"nmi": 0.5, "nmi_std": 0.01}  # given, so that no k-means is run
SIZES = ReportSizes(differing_queries=2, agreeing_queries=1, attention_pictures=2, pairs=3, picture_pixels=32)


def methods(folder: Path) -> list[MethodReport]:
    make_encoder(seed=2).save_pretrained(folder / "saved")
    return [
        MethodReport("untrained", "Untrained", "start", "As it is.", make_encoder("mean"), NMI),
        MethodReport("base", "Base", "baseline", "", make_encoder(seed=1), NMI, log=write_log(folder / "b.jsonl")),
        MethodReport("ours", f"Ours {EVIL}", "method", EVIL, folder / "saved", NMI,
                     log=write_log(folder / "o.jsonl", reward=0.03, mixed=0.01)),
        MethodReport("shuffled", "Shuffled", "control", "", make_encoder("max", seed=3), NMI),
        MethodReport("top", "Top", "ceiling", "", None, {"recall_at_1": 0.5}),
    ]  # fmt: skip


def saying(texts: Sequence[str]) -> Any:
    """A sampler that says these texts to every pair."""

    def sample(backbone: Any, vision: Any, prompts: Any, images: Any, **options: Any) -> list[list[Completion]]:
        return [completions(backbone.tokenizer, texts) for _ in prompts]

    return sample


def supervisor() -> Any:
    backbone = tiny_backbone()
    backbone.context_length = 8192
    return backbone


@pytest.fixture(scope="module")
def full(world: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("full")
    value = {"bill shape": "hooked", "bill color": EVIL}
    other = {"bill shape": "needle", "bill color": EVIL}
    texts = [
        json.dumps({"bird_1": value, "bird_2": value, "same_species": "yes"}),
        json.dumps({"bird_1": other, "bird_2": value, "same_species": "no"}),
        f"no verdict {EVIL}",
        json.dumps({"bird_1": other, "bird_2": value, "same_species": "no"}),
    ]
    report = Report(
        f"Title {EVIL}", f"Intro {EVIL}\n\nSecond paragraph.", methods(folder), world,
        settings={"seed": 0, "command": f"fieldmark report --title {EVIL}"}, supervisor=supervisor(),
        rollouts=RolloutConfig(vocabulary="fieldguide", attributes_per_prompt=2, group_size=4, max_new_tokens=8),
        attention_layer=1, sizes=SIZES,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjudication, "sample", saying(texts))
        # every pair is asked about the two attributes that the texts describe
        patch.setattr(adjudication.torch, "randperm", lambda n, **_: adjudication.torch.arange(n))
        first = build_report(report, folder / "deep" / "report.html")
        second = build_report(report, folder / "again.html")
    assert first.read_bytes() == second.read_bytes()
    return report, first


def test_everything_is_there_and_nothing_is_loaded(full: tuple[Report, Path]) -> None:
    _, path = full
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    assert [a["id"] for tag, a in reader.tags if tag == "section"] == SECTIONS
    assert not re.search(
        r"https?:|//[\w.]+\.\w", re.sub(r"data:[^\"]*", "", text).split("</style>")[1].split("<script>")[0]
    )
    for tag, attributes in reader.tags:
        for name in ("src", "href"):
            assert name not in attributes or attributes[name].startswith(("data:", "#")), (tag, attributes)
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text
    assert sorted(path.parent.iterdir()) == [path]  # no temporary file is left


def test_it_can_be_used_without_a_mouse_and_without_eyes(full: tuple[Report, Path]) -> None:
    reader = Reader(full[1].read_text(encoding="utf-8"))
    identifiers = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(set(identifiers)) == len(identifiers)
    for tag, attributes in reader.tags:
        assert tag != "img" or "alt" in attributes
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in identifiers
        for name in attributes.get("aria-labelledby", "").split():
            assert name in identifiers
        if attributes.get("role") in ("img", "region"):
            assert attributes["aria-label"]
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
    assert reader.count["h1"] == reader.count["main"] == reader.count["nav"] == 1
    assert reader.count["th"] > 10
    alts = [a["alt"] for tag, a in reader.tags if tag == "img" and a["alt"]]
    assert any(alt.endswith(", right") for alt in alts) and any(alt.endswith(", wrong") for alt in alts)


def test_texts_of_others_stay_texts(full: tuple[Report, Path]) -> None:
    text = full[1].read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.count["script"] == 1
    assert EVIL in reader.text and "<script>alert" not in text


def test_right_and_wrong_are_told_by_sign_as_well_as_by_colour(full: tuple[Report, Path]) -> None:
    text = full[1].read_text(encoding="utf-8")
    gallery = text[text.index('id="gallery"') : text.index('id="shares"')]
    hits = re.findall(r'<li class="(right|wrong)">.*?aria-hidden="true">(.)</span>', gallery)
    assert len(hits) > 20 and set(hits) == {("right", "✓"), ("wrong", "✗")}


def test_completions_show_reward_advantage_and_disagreement(full: tuple[Report, Path]) -> None:
    _, path = full
    text = path.read_text(encoding="utf-8")
    said = text[text.index('id="completions"') : text.index('id="training"')]
    assert said.count('<li class="rollout">') == SIZES.pairs * 4
    # Of the first picture the bill shape differs between completions, the colour does not.
    assert re.search(r'<mark class="differs[^"]*" title="bill shape[^"]*">(hooked|needle)</mark>', said)
    assert not re.search(r'<mark class="differs[^"]*" title="bill color', said)
    assert 'class="answer-word right" title="verdict">yes<' in said
    assert "Not readable" in said and "reward 1" in said and re.search(r"advantage \+\d", said)
    seen = text[text.index('id="supervisor"') : text.index('id="completions"')]
    assert seen.count('class="attribute"') == SIZES.pairs * 2 and "× on bill" in seen


def test_a_report_can_do_without_anything_that_may_be_missing(plain: LabelledImages, tmp_path: Path) -> None:
    one = MethodReport("only", "Only", "method", "", make_encoder("mean"))
    path = build_report(Report("T", "", [one], plain, sizes=SIZES), tmp_path / "report.html")
    reader = Reader(path.read_text(encoding="utf-8"))
    text = " ".join(reader.text.split())
    for sentence in (
        "have no part masks",
        "No encoder of this report has an attention pooler",
        "made without the supervisor",
        "Without a log: Only.",
        "Paired differences need a baseline",
        "No settings were given",
    ):
        assert sentence in text
    assert EVIL in text  # the dangerous class name, as text


def test_figures_alone_make_a_report(plain: LabelledImages, tmp_path: Path) -> None:
    rows = [
        MethodReport("a", "A", "baseline", "", None, {"recall_at_1": 0.5}),
        MethodReport("b", "B", "method", "", None, {"recall_at_1": 0.75}),
    ]
    rollouts = RolloutConfig(vocabulary="fieldguide", max_new_tokens=4)
    report = Report("T", "", rows, plain, supervisor=supervisor(), rollouts=rollouts, sizes=SIZES)
    text = " ".join(Reader(build_report(report, tmp_path / "r.html").read_text(encoding="utf-8")).text.split())
    assert "75.0" in text and "nothing can be searched" in text and "size at which pictures are shown" in text


def test_a_supervisor_that_says_nothing_readable_is_shown_as_such(plain: LabelledImages, tmp_path: Path) -> None:
    one = MethodReport("only", "Only", "method", "", make_encoder(), NMI)
    rollouts = RolloutConfig(vocabulary="fieldguide", attributes_per_prompt=1, group_size=2, max_new_tokens=3)
    sizes = ReportSizes(pairs=1, attention_pictures=1, picture_pixels=16)
    report = Report("T", "", [one], plain, supervisor=supervisor(), rollouts=rollouts, sizes=sizes)
    text = Reader(build_report(report, tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "None of its completions describes an attribute" in text and "no verdict" in text


def test_a_failed_report_leaves_the_old_one(plain: LabelledImages, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    bad = MethodReport("a", "A", "method", "", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no saved encoder"):
        build_report(Report("T", "", [bad], plain), out)
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]
    with pytest.raises(ValueError, match="is a folder"):
        build_report(Report("T", "", [bad], plain), tmp_path)
