"""The whole way from answers to a vocabulary, with a supervisor whose answers are written here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldmark.data.collection import LabelledImages
from fieldmark.data.sources import FileSource
from fieldmark.evaluation import vocabulary_proposal
from fieldmark.evaluation.vocabulary_proposal import ProposalConfig, propose_vocabulary
from fieldmark.policy.vocabulary import load_vocabulary

CLASSES, PER = 12, 4
MARKS = ("steel", "brass", "black")


def images() -> LabelledImages:
    count = CLASSES * PER
    return LabelledImages(
        sources=tuple(FileSource(Path(f"{i}.png")) for i in range(count)),
        ids=tuple(f"{i}.png" for i in range(count)),
        labels=np.repeat(np.arange(CLASSES), PER),
        class_names=tuple(map(str, range(CLASSES))),
        root=Path("."),
    )


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Pictures are their own number; a screw's finish follows its class, its angle nothing."""
    texts: list[str] = []

    class Loaded:
        def __init__(self, part: LabelledImages) -> None:
            self.images = torch.tensor([int(Path(name).stem) for name in part.ids]).view(-1, 1, 1, 1)

    def answers(backbone, pictures, prompts, shown, config, generator, *, greedy):
        texts.extend(prompts)
        said = []
        for text, places in zip(prompts, shown, strict=True):
            numbers = [int(pictures[i, 0, 0, 0]) for i in places]
            if len(places) == 2:
                assert not greedy
                said.append(
                    json.dumps({f"screw_{k + 1}": {"Finish": "x", "coating": "y", "angle": "z"} for k in (0, 1)})
                    if numbers[0] % 5
                    else "I would rather not."
                )
                continue
            assert greedy
            finish = MARKS[numbers[0] // PER % 3]
            seen = {
                "finish": finish,
                "coating": finish.upper(),
                "angle": ["left", "right", "up", "down"][numbers[0] * 7 % 4],
            }
            names = re.search(r"by its (.*)\. Write", text).group(1).split(", ")
            said.append(", ".join(f"{name}: {seen[name]}" for name in names if name in seen))
        return said

    monkeypatch.setattr(vocabulary_proposal, "load_all", lambda part, *_, **__: [Loaded(part)])
    monkeypatch.setattr(vocabulary_proposal, "_answers", answers)
    return texts


def propose(**options):
    config = ProposalConfig(item="screw", pairs=20, candidates=("weight",), **options)
    return propose_vocabulary(None, images(), config, 96, name="screws")  # type: ignore[arg-type]


def test_names_are_collected_merged_ranked_and_divided(asked, tmp_path) -> None:
    found = propose()
    assert found.vocabulary.attributes == ("coating",) or found.vocabulary.attributes == ("finish",)
    assert found.vocabulary.other_attributes == ("angle",)
    assert sorted((*found.synonyms, *next(iter(found.synonyms.values())))) == ["coating", "finish"]
    assert found.scores[0].separation > 0.5 > 0.2 > found.scores[1].separation
    assert found.unscored == ("weight",)
    assert 0 < found.pairs_read < found.pairs_asked == 20 and found.named["finish"] == found.pairs_read
    assert found.answered == pytest.approx(3 / 4)
    assert found.vocabulary.example in MARKS or found.vocabulary.example in [m.upper() for m in MARKS]
    path = tmp_path / "screws.yaml"
    path.write_text(found.as_yaml(["by a test"]), encoding="utf-8")
    assert load_vocabulary(path) == found.vocabulary
    assert "also named" in path.read_text() and f"of {found.pairs_read} pairs" in path.read_text()
    assert "angle" in found.as_text() and "(other)" in found.as_text()
    json.dumps(found.as_json())


def test_a_high_threshold_leaves_nothing_and_says_what_was_best(asked) -> None:
    with pytest.raises(ValueError, match=r"no attribute separates .*best: (finish|coating) \+"):
        propose(threshold=0.99)


def test_no_more_than_the_most_used_names_are_asked_about(asked) -> None:
    with pytest.raises(ValueError, match="best: angle"):  # all three are used alike: by name
        propose_vocabulary(None, images(), ProposalConfig(item="screw", pairs=20, max_attributes=1), 96)  # type: ignore[arg-type]
    assert {text for text in asked if "two photographs" not in text} == {
        "Summarise the screw in this photograph by its angle. Write each as its name and what you see, separated by "
        "commas."
    }


def test_a_base_gives_words_and_candidates(asked) -> None:
    with pytest.raises(ValueError, match="no attribute separates"):
        propose_vocabulary(None, images(), ProposalConfig(base="cars", pairs=0), 96)  # type: ignore[arg-type]
    assert any("Summarise the car in this photograph by its body style, number of doors" in text for text in asked)
    assert not any("two photographs" in text for text in asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "nothing names an attribute"),
        ({"classes": 1}, "classes must be at least 2"),
        ({"same_meaning": 0.0}, "same_meaning"),
        ({"candidates": ("a, b",)}, "cannot be an attribute"),
        ({"attributes_per_prompt": 0}, "attributes_per_prompt"),
    ],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ProposalConfig(**options)


def test_bad_words_and_too_few_classes(asked) -> None:
    with pytest.raises(ValueError, match="plain words"):
        propose_vocabulary(None, images(), ProposalConfig(item=" "), 96)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 training classes have two pictures"):
        propose_vocabulary(None, images().subset(range(PER)), ProposalConfig(), 96)  # type: ignore[arg-type]
