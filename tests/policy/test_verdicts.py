"""Verdicts: found wherever they may stand, and never where there is none."""

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fieldmark.policy.prompts import reference_answer
from fieldmark.policy.rewards import verdict_correct
from fieldmark.policy.verdicts import Span, Verdict, parse_verdict, token_spans
from fieldmark.policy.vocabulary import load_vocabulary

BIRDS = load_vocabulary("fieldguide")
MARKS = dict.fromkeys(BIRDS.attributes, "plain")
ANSWER = reference_answer(BIRDS, MARKS, MARKS | {"eye ring": "white"}, same=False)


def check_spans(text: str, verdict: Verdict) -> None:
    """Every span's raw characters, put back into quotation marks, are JSON for the span's text."""
    spans = [s for found in verdict.descriptions for s in found.values()] + list(verdict.remarks.values())
    assert verdict.answer_span is not None
    for span in [*spans, verdict.answer_span]:
        assert text[span.start - 1] == text[span.end] == '"'
        assert json.loads(text[span.start - 1 : span.end + 1]) == span.text


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"```json\n{ANSWER}\n```",
        f"Let me see {{both}} of them, as in f(x) = {{x}}.\n{ANSWER}\nThat is {{all}} I can say.<|im_end|>",
        f"<think>maybe {ANSWER.replace('no', 'yes')} hm, {{</think>\n\n{ANSWER}",
        f'a draft {{"same_species": "yes"</think>{ANSWER}',
        json.dumps(json.loads(ANSWER), indent=4),
        f'{{"steps": ["look"]}} {ANSWER}',
        f"漢字 😀 {ANSWER}",
        ANSWER.replace('"no"', '" No\\n"'),
        ANSWER.replace('"no"', '"\\u006eO"'),
        "\r\n\t" + json.dumps(json.loads(ANSWER), separators=(" ,\r\n", "\n:\t")),
        ANSWER[:-1] + ', "extra": {"same_species": "yes", "list": [1, -2.5e3, true, null, []]}}',
    ],
)
def test_finds_the_answer(text: str) -> None:
    verdict = parse_verdict(text, BIRDS)
    assert verdict.problem is None
    assert verdict.answer is False
    assert [len(found) for found in verdict.descriptions] == [8, 8]
    assert verdict.descriptions[1]["eye ring"].text == "white"
    assert set(verdict.remarks) == {"differences", "confidence", "reasoning"}
    check_spans(text, verdict)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("The answer is no.", "no JSON object"),
        ('"same_species": "no"', "no JSON object"),
        ("{}", "no JSON object"),
        (f"<think>{ANSWER}", "thinking does not end"),
        (f"</think>{ANSWER}<think>", "thinking does not end"),
        (ANSWER + ANSWER, "2 JSON objects"),
        (ANSWER + " or " + ANSWER.replace('"no"', '"yes"'), "2 JSON objects"),
        (ANSWER[:-1], "cut off"),
        (ANSWER[:-2], "broken JSON text"),
        (ANSWER[:-1] + ",}", "broken JSON"),
        (ANSWER.replace('"differences": ', '"differences" '), "broken JSON"),
        (ANSWER.replace('"}, "differences', '"} "differences'), "broken JSON"),
        (ANSWER.replace('"no"', '"no'), "broken JSON"),
        (ANSWER.replace('"no"', "no"), "broken JSON"),
        (ANSWER.replace('"no"', "NaN"), "broken JSON"),
        (ANSWER.replace('"', "'"), "no JSON object"),
        (ANSWER.replace('"no"', "false"), "not yes or no"),
        (ANSWER.replace('"no"', "null"), "not yes or no"),
        (ANSWER.replace('"no"', '"no, they differ"'), "not yes or no"),
        (ANSWER.replace('"no"', '"yes|no"'), "not yes or no"),
        (ANSWER.replace('"no"', '""'), "not yes or no"),
        (ANSWER.replace('"no"', '"yeſ"'), "not yes or no"),
        (ANSWER.replace('"no"', '["no"]'), "not yes or no"),
        (ANSWER.replace('"no"', '{"same_species": "no"}'), "not yes or no"),
        (ANSWER[:-1] + ', "same_species": "no"}', "'same_species' stands twice"),
        (ANSWER[:-1] + ', "\\u0073ame_species": "yes"}', "'same_species' stands twice"),
        (ANSWER.replace('"eye ring"', '"leg color"'), "'leg color' stands twice"),
        (ANSWER.replace('"eye ring"', '"Leg_Color"'), "'leg color' is described twice"),
        (f'{{"answer": {ANSWER}}}', "no JSON object"),
        (f'{{"answer": {ANSWER}', "cut off"),
        (f"{{{ANSWER}}}", "no JSON object"),
        (f"[{ANSWER}]", "inside another bracket"),
        (f"{ANSWER}}}", "inside another bracket"),
        (f"{{answer: {ANSWER}", "no JSON object"),
        ('{"reasoning": "} {"same_species": "no"}', "broken JSON"),
        ('{"bird_1": {bad}, "x": {"same_species": "no"}}', "broken JSON"),
        ('{"bird_1": "a\nb", "same_species": "no"}', "broken JSON text"),
        ('{"bird_1": "\\x", "same_species": "no"}', "broken JSON text"),
        ('{"bird_1": 01, "same_species": "no"}', "broken JSON"),
        ('{"a": ' + "[" * 100_000, "nested deeper"),
        ('{"a":' * 5000, "nested deeper"),
        ('{"same_species": "no"', "cut off"),
        (json.dumps(ANSWER), "no JSON object"),
    ],
)
def test_no_verdict(text: str, problem: str) -> None:
    verdict = parse_verdict(text, BIRDS)
    assert verdict.answer is None
    assert verdict.problem is not None
    assert problem in verdict.problem
    assert verdict == Verdict(None, verdict.problem, ({}, {}), None, {})
    assert verdict_correct(verdict, True) == verdict_correct(verdict, False) == 0.0


def test_every_truncation_is_unparseable() -> None:
    for end in range(len(ANSWER)):
        assert parse_verdict(ANSWER[:end], BIRDS).answer is None


def test_descriptions_only_of_what_was_asked_and_said() -> None:
    text = (
        '{"bird_1": {"Bill_Shape": "hooked", "crown color": "teal", "eye ring": " ", "leg color": 3, '
        '"mark color": ["red"], "tail shape": null}, "bird_2": "a bird", "same_species": "yes"}'
    )
    first, second = parse_verdict(text, BIRDS).descriptions
    assert {name: span.text for name, span in first.items()} == {"bill shape": "hooked", "leg color": "3"}
    assert second == {}
    first, _ = parse_verdict(text, BIRDS, ["crown color"]).descriptions
    assert {name: span.text for name, span in first.items()} == {"crown color": "teal"}
    with pytest.raises(ValueError, match="no attribute"):
        parse_verdict(text, BIRDS, ["beak"])


def test_hints_in_parentheses_and_items_with_spaces() -> None:
    aircraft = load_vocabulary("aircraft")
    hinted = aircraft.attributes[1]
    for key in (hinted, "engine type", "Engine_Type"):
        text = json.dumps({"aircraft_1": {key: "jet"}, "same_variant": "yes"})
        assert parse_verdict(text, aircraft).descriptions[0][hinted].text == "jet"
    spaced = replace(aircraft, item="model plane")
    text = json.dumps({"model plane_2": {"nose shape": "blunt"}, "same_variant": "no"})
    assert parse_verdict(text, spaced).descriptions[1]["nose shape"].text == "blunt"


def test_generic_answer() -> None:
    verdict = parse_verdict('{"differences": "none", "reasoning": "", "same_species": "YES"}', BIRDS)
    assert verdict.answer is True
    assert verdict.descriptions == ({}, {})
    assert set(verdict.remarks) == {"differences"}


def test_token_spans_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        edges = np.sort(rng.integers(0, 20, 12))
        offsets = np.stack([edges[:-1], edges[1:]], axis=1)
        start, end = sorted(rng.integers(edges[0], edges[-1] + 1, 2))
        slow = [t for t, (a, b) in enumerate(offsets) if a < end and b > start and b > a and end > start]
        found = token_spans(offsets, Span(int(start), int(end), ""))
        assert [t for t in found if offsets[t, 1] > offsets[t, 0]] == slow or end == start
        if slow:
            assert (found.start, found.stop) == (slow[0], slow[-1] + 1)


# Fuzz: an independent judge says what strict JSON stands in the text.


def strict(text: str) -> Any:
    """One JSON object by the standard library; None unless it is strict and without duplicate keys."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        if len(set(keys)) < len(keys):
            raise ValueError("duplicate")
        return dict(found)

    def constant(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def answers(text: str) -> set[bool]:
    """Verdicts of all substrings that are strict JSON objects with a plain verdict: by brute force."""
    found: set[bool] = set()
    opening = [i for i, c in enumerate(text) if c == "{"]
    closing = [i + 1 for i, c in enumerate(text) if c == "}"]
    for start in opening:
        for end in closing:
            value = strict(text[start:end]) if end > start else None
            word = value.get("same_species") if value else None
            if isinstance(word, str) and word.strip().lower() in ("yes", "no"):
                found.add(word.strip().lower() == "yes")
    return found


def damage(rng: random.Random, text: str) -> str:
    pieces = [*'"{}[],:\\\n é😀\x00\ud800', "'", "yes", "no", "null", "1e5", "\\u00", "```"]
    pieces += ["<think>", "</think>", "<|im_end|>", '"x": ', '"same_species": "yes"']
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(pieces) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.choice([1, 1, 2, 20]) :]
        elif kind == 2:
            text = text[: max(at, 1)]
        else:
            other = rng.randrange(len(text) + 1)
            text = text[:at] + text[min(at, other) : max(at, other)] + text[at:]
    return text


def test_fuzz_never_crashes_and_never_rewards_a_repair() -> None:
    rng = random.Random(0)
    small = '{"bird_1": {"bill shape": "hooked"}, "bird_2": {"bill shape": "short"}, "same_species": "no"}'
    parsed = rejected = 0
    for round_ in range(1000):
        wrapped = [f"```json\n{small}\n```", f"So {{x}}: {small} done", f"<think>{small}</think>{small}"]
        base = rng.choice([small, *wrapped])
        text = damage(rng, base) if round_ % 10 else "".join(rng.choices('{}[]":,\\ \n', k=60)) + small[50:]
        verdict = parse_verdict(text, BIRDS)
        if verdict.answer is None:
            rejected += 1
            continue
        parsed += 1
        assert verdict.answer in answers(text), text
        check_spans(text, verdict)
        # the object around the verdict is strict as it stands: its brackets are in the text
        assert verdict.answer_span is not None
        inside = verdict.answer_span.start
        assert any(
            strict(text[start:end]) is not None and "same_species" in strict(text[start:end])
            for start in range(inside) if text[start] == "{"
            for end in range(inside, len(text) + 1) if text[end - 1] == "}"
        )  # fmt: skip
    assert parsed > 150
    assert rejected > 400
