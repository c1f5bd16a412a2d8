"""Section "What the supervisor says": sampled completions with reward and advantage, disagreement made
visible."""

from collections.abc import Mapping, Sequence

from fieldmark.policy.rollouts import Rollout, RolloutGroup
from fieldmark.report.gallery import field_marks
from fieldmark.report.html import Html, breakable, el, join
from fieldmark.report.inputs import Report
from fieldmark.report.interview import Asked, Interview
from fieldmark.report.measure import points
from fieldmark.report.page import Section, missing
from fieldmark.report.pictures import Pictures
from fieldmark.report.supervisor import PAIR_WORDS

Mark = tuple[int, int, str, str | None]
"""Characters start:end of a text, CSS classes, and a remark."""


def completions_section(report: Report, asked: Interview | str, pictures: Pictures) -> Section:
    """Per pair: both pictures, the truth, and every rollout."""
    title = "What the supervisor says"
    if isinstance(asked, str):
        return Section("completions", title, "", missing(asked), short="Supervisor says")
    truth = field_marks(report)
    assert report.rollouts is not None
    lead = (
        f"{asked.drawn} pairs of test pictures were put to it, {report.rollouts.group_size} completions "
        f"each: {points(asked.right)} % of the verdicts are right, {points(asked.unparseable)} % of the "
        f"answers cannot be read, and {asked.mixed} pairs are mixed. Only mixed pairs teach. Shown are "
        f"{len(asked.asked)}, mixed ones first."
    )
    legend = [
        el("mark", "value", class_="differs"),
        " other completions say something else · ",
        el("span", "value", class_="value"),
        " all say the same · ",
        el("span", "yes", class_="answer-word right"),
        " / ",
        el("span", "no", class_="answer-word wrong"),
        " verdict, right ✓ or wrong ✗",
    ]
    if truth:
        legend += [" · ", el("span", "value", class_="value untrue"), " not true of the picture"]
    body = [_pair(report, one, pictures, truth) for one in asked.asked]
    return Section(
        "completions",
        title,
        lead,
        join(el("p", legend, class_="small legend-line"), body),
        short="Supervisor says",
    )


def _pair(report: Report, asked: Asked, pictures: Pictures, truth: Mapping[str, Mapping[str, str]]) -> Html:
    group = asked.group
    shown = [
        el(
            "figure",
            el("img", src=pictures.uri(i), alt=f"Picture {k + 1}: {pictures.class_name(i)}"),
            el(
                "figcaption",
                el("b", f"{group.prompt.vocabulary.item}_{k + 1}"),
                " ",
                breakable(pictures.class_name(i)),
            ),
        )
        for k, i in enumerate(asked.pictures)
    ]
    known = tuple(truth.get(pictures.id(i), {}) for i in asked.pictures)
    varying = disagreements(group.rollouts)
    cards = [_rollout(group, number, varying, (known[0], known[1])) for number in range(len(group.rollouts))]
    few = report.sizes.open_rollouts
    rest = cards[few:]
    more = (
        el("details", el("summary", f"{len(rest)} more"), el("ol", rest, class_="rollouts", start=few + 1))
        if rest
        else None
    )
    answer = "yes" if group.same else "no"
    summary = (
        f"{PAIR_WORDS[group.pair_type].capitalize()}; the right verdict is “{answer}”. {sum(group.correct)} "
        f"of {len(group.rollouts)} are right"
        + (": this pair teaches." if group.contributes else "; all rewards are equal, so this pair teaches nothing.")
    )
    about = join(el("p", summary), _varying(varying))
    return el(
        "article",
        el("div", el("div", shown, class_="duo"), el("div", about), class_="pair-head"),
        el("ol", cards[:few], class_="rollouts"),
        more,
        class_="pair",
    )


def _varying(varying: Mapping[tuple[int, str], Sequence[str]]) -> Html | None:
    if not varying:
        return None
    items = [
        el("li", f"{name} of {side + 1}: ", el("q", ", ".join(values), dir="auto"))
        for (side, name), values in varying.items()
    ]
    return join(
        el("p", f"{len(varying)} values differ between its completions:", class_="small"),
        el("ul", items, class_="varying"),
    )


def disagreements(rollouts: Sequence[Rollout]) -> dict[tuple[int, str], tuple[str, ...]]:
    """(item 0 or 1, attribute) → its different values, where completions that describe it do not all agree.

    Compared without regard to case and white space.
    """
    values: dict[tuple[int, str], dict[str, str]] = {}
    for rollout in rollouts:
        for side, spans in enumerate(rollout.verdict.descriptions):
            for name, span in spans.items():
                values.setdefault((side, name), {}).setdefault(_plain(span.text), span.text.strip())
    return {key: tuple(found.values()) for key, found in values.items() if len(found) > 1}


def _rollout(
    group: RolloutGroup,
    number: int,
    varying: Mapping[tuple[int, str], Sequence[str]],
    truth: tuple[Mapping[str, str], Mapping[str, str]],
) -> Html:
    rollout = group.rollouts[number]
    correct, advantage = group.correct[number], float(group.advantages[number])
    if rollout.verdict.answer is None:
        said = el("span", "✗ no verdict", class_="said wrong")
    else:
        word = "same" if rollout.verdict.answer else "different"
        said = el("span", f"{'✓' if correct else '✗'} {word}", class_=f"said {'right' if correct else 'wrong'}")
    facts = [
        el("b", f"{number + 1}"),
        said,
        el("span", f"reward {rollout.reward:.3g}"),
        el("span", f"advantage {advantage:+.2f}".replace("-", "−"), class_=f"advantage {_sign(advantage)}"),
        el("span", f"{rollout.num_tokens} tokens" + ("" if rollout.finish_reason == "stop" else ", cut off")),
    ]
    problem = el("p", f"Not readable: {rollout.verdict.problem}.", class_="small") if rollout.verdict.problem else None
    text = el("pre", marked(rollout.text, _marks(rollout, correct, varying, truth)), class_="completion", dir="auto")
    return el("li", el("p", facts, class_="facts"), problem, text, class_="rollout")


def _sign(value: float) -> str:
    return "up" if value > 0 else "down" if value < 0 else "even"


def _marks(
    rollout: Rollout,
    correct: bool,
    varying: Mapping[tuple[int, str], Sequence[str]],
    truth: tuple[Mapping[str, str], Mapping[str, str]],
) -> list[Mark]:
    marks: list[Mark] = []
    for side, spans in enumerate(rollout.verdict.descriptions):
        for name, span in spans.items():
            true = truth[side].get(name)
            untrue = true is not None and _plain(true) != _plain(span.text)
            classes = ("differs" if (side, name) in varying else "value") + (" untrue" if untrue else "")
            marks.append((span.start, span.end, classes, f"{name}; true: {true}" if untrue else name))
    answer = rollout.verdict.answer_span
    if answer is not None:
        marks.append((answer.start, answer.end, f"answer-word {'right' if correct else 'wrong'}", "verdict"))
    return sorted(marks)


def marked(text: str, marks: Sequence[Mark]) -> Html:
    """The text with its marks; marks that overlap an earlier one are left out."""
    pieces: list[str | Html] = []
    at = 0
    for start, end, classes, remark in marks:
        if start < at or end <= start or end > len(text):
            continue
        name = "mark" if classes.startswith("differs") else "span"
        pieces += [text[at:start], el(name, text[start:end], class_=classes, title=remark)]
        at = end
    return join(pieces, text[at:])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
