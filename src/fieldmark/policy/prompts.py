"""Prompts that make a multimodal LLM say what tells two pictures apart, and the answers they ask for.

The structure is SAGA's (arXiv 2606.15134, appendix E): role and attribute list, item 1, item 2, key
differences, verdict; the answer is one JSON object. The wording is ours.

Every text here is the concatenation of *constant pieces*, attribute names, and the separator ``", "``. A
tokenizer may therefore hold each piece as one token (the bundled model's does): ``prompt_pieces``,
``answer_pieces`` and ``describe_pieces`` list them, ``*_parts`` give a text already cut. No constant piece
depends on the attributes, apart from the two key pieces per attribute of the answer.

*Canonical answers* (``answer_json`` and its relatives) are what a perfect model would write. They train the
bundled model and the oracle.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from fieldmark.policy.vocabulary import Vocabulary

PromptStyle = Literal["structured", "generic"]
SEPARATOR = ", "
"""Between attribute names, in prompts and in the canonical ``differences``."""
AGREES, DIFFERS = " agrees", " differs"
"""What ends each comparison in the canonical ``differences``."""
VERSUS = " vs "
"""Between the two values of a comparison."""
CONFIDENCES = ("high", "medium", "low")


def pair_prompt(
    vocabulary: Vocabulary, style: PromptStyle = "structured", attributes: Sequence[str] | None = None
) -> str:
    """The text that follows two pictures: describe both, name the differences, decide.

    Args:
        vocabulary: placeholders and attributes.
        style: ``structured``; or ``generic``, without role, attributes and descriptions (the prompt
            ablation).
        attributes: which of the vocabulary's attributes to ask for, in this order; None for the default ones.
            The generic prompt names none.

    Raises:
        ValueError: for an unknown style or attribute, or attributes given to the generic style.
    """
    return "".join(pair_prompt_parts(vocabulary, style, attributes))


def pair_prompt_parts(
    vocabulary: Vocabulary, style: PromptStyle = "structured", attributes: Sequence[str] | None = None
) -> tuple[str, ...]:
    """``pair_prompt`` cut into constant pieces, attribute names and separators."""
    pieces = prompt_pieces(vocabulary, style)
    if style == "generic":
        if attributes is not None:
            raise ValueError("the generic prompt names no attributes; leave them out or use style='structured'")
        return pieces
    return pieces[:2] + _joined(vocabulary.select(attributes)) + pieces[2:]


def prompt_pieces(vocabulary: Vocabulary, style: PromptStyle = "structured") -> tuple[str, ...]:
    """Constant pieces of the pair prompt, in order; the attribute list stands after the second one."""
    v = vocabulary
    first, second = v.item_keys
    if style == "generic":
        return (
            f"Here are two photographs, {v.item} 1 and {v.item} 2. ",
            f"Say in your own words how the two {v.items} differ most, then judge whether they are the "
            f"{v.verdict_question}.\n",
            "Give only one JSON object:\n"
            f'{{"differences": "<text>", "reasoning": "<text>", "{v.verdict_key}": "yes|no"}}',
        )
    if style != "structured":
        raise ValueError(f"unknown prompt style {style!r}; use one of {', '.join(get_args(PromptStyle))}")
    return (
        f"Act as an expert in {v.identifies} ({v.expert}), looking at two photographs: {v.item} 1 and {v.item} 2. ",
        f"{v.prefix} experts tell {v.targets} apart by these attributes: ",
        ".\n",
        f"1. {v.item.capitalize()} 1: write for each attribute, in a few words, what you see "
        f'(such as "{v.example}").\n',
        f"2. {v.item.capitalize()} 2: write the same, from its own photograph.\n",
        f"3. Differences: name what matters most for telling the two {v.items} apart; ignore pose, light and "
        "background.\n",
        f"4. {v.verdict_label}: judge from the above whether the two {v.items} are the {v.verdict_question}.\n",
        "Give only one JSON object, with every attribute under both keys:\n"
        f'{{"{first}": {{"<attribute>": "<text>"}}, "{second}": {{"<attribute>": "<text>"}}, '
        '"differences": "<text>", "confidence": "high|medium|low", "reasoning": "<one sentence>", '
        f'"{v.verdict_key}": "yes|no"}}',
    )


def answer_json(
    vocabulary: Vocabulary,
    first: Mapping[str, str],
    second: Mapping[str, str],
    differences: str,
    confidence: str,
    reasoning: str,
    same: bool,
) -> str:
    """Canonical answer to the structured prompt: one line, keys in fixed order, separators ``", "`` and ``":
    "``.

    Args:
        first, second: attribute → description of item 1 and 2, in the order in which to write them.

    Raises:
        ValueError: for an empty description, an unknown attribute, or an unknown confidence.
    """
    for description in (first, second):
        vocabulary.select(tuple(description))
    if confidence not in CONFIDENCES:
        raise ValueError(f"unknown confidence {confidence!r}; use one of {', '.join(CONFIDENCES)}")
    keys = vocabulary.item_keys
    return _dump(
        {
            keys[0]: dict(first),
            keys[1]: dict(second),
            "differences": differences,
            "confidence": confidence,
            "reasoning": reasoning,
            vocabulary.verdict_key: _yes_no(same),
        }
    )


def generic_answer_json(vocabulary: Vocabulary, differences: str, reasoning: str, same: bool) -> str:
    """Canonical answer to the generic prompt."""
    return _dump({"differences": differences, "reasoning": reasoning, vocabulary.verdict_key: _yes_no(same)})


def answer_pieces(vocabulary: Vocabulary, style: PromptStyle = "structured") -> tuple[str, ...]:
    """Constant pieces of the canonical answers.

    A structured answer is: opening piece; per attribute its key piece and its value; the piece between the
    items; the same again; then differences, confidence, reasoning and verdict, each after its key piece; the
    closing piece. Each attribute has two key pieces, one for the first place in a description and one for the
    others, so that a description costs two pieces per attribute. Quotation marks always belong to the pieces,
    never to the values.
    """
    v = vocabulary
    tail: tuple[str, ...] = (f'", "{v.verdict_key}": "', '"}', "yes", "no", VERSUS, AGREES, DIFFERS, *_REASONS)
    tail += tuple(f"{name}: " for name in v.all_attributes)
    if style == "generic":
        return ('{"differences": "', '", "reasoning": "', *tail)
    if style != "structured":
        raise ValueError(f"unknown prompt style {style!r}; use one of {', '.join(get_args(PromptStyle))}")
    first, second = v.item_keys
    keys = tuple(piece for name in v.all_attributes for piece in (f'{name}": "', f'", "{name}": "'))
    frame = (f'{{"{first}": {{"', f'"}}, "{second}": {{"', '"}, "differences": "', '", "confidence": "')
    return (*frame, '", "reasoning": "', *tail, *CONFIDENCES, *keys)


_REASONS = ("What decides agrees in both.", "What decides differs.")


def reasoning_text(same: bool) -> str:
    """Canonical ``reasoning``: one of two constant sentences."""
    return _REASONS[0 if same else 1]


def differences_text(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """Canonical ``differences``: ``"bill shape: hooked vs hooked agrees, bill color: red vs blue differs"``.

    Every attribute is compared, in the order of ``first``, with both values written side by side: copying values and
    comparing neighbours is what a small model learns; a list of the differing ones has to be planned ahead.
    """
    return SEPARATOR.join(
        f"{name}: {value}{VERSUS}{second[name]}{AGREES if value == second[name] else DIFFERS}"
        for name, value in first.items()
    )


def reference_answer(
    vocabulary: Vocabulary,
    first: Mapping[str, str],
    second: Mapping[str, str],
    same: bool,
    style: PromptStyle = "structured",
    attributes: Sequence[str] | None = None,
) -> str:
    """Canonical answer from true descriptions: differences compare them one by one, confidence is high.

    Args:
        first, second: attribute → true value; more attributes than asked for may be given.
        attributes: what the prompt asked for; None for the default ones. The generic answer lists differences
            among these too.

    Raises:
        ValueError: if a description lacks an attribute that is asked for.
    """
    chosen = vocabulary.select(attributes)
    for which, description in (("first", first), ("second", second)):
        missing = [name for name in chosen if name not in description]
        if missing:
            raise ValueError(
                f"the {which} description lacks {missing[0]!r}; it has {', '.join(description) or 'nothing'}"
            )
    one = {name: first[name] for name in chosen}
    two = {name: second[name] for name in chosen}
    differences = differences_text(one, two)
    if style == "generic":
        return generic_answer_json(vocabulary, differences, reasoning_text(same), same)
    if style != "structured":
        raise ValueError(f"unknown prompt style {style!r}; use one of {', '.join(get_args(PromptStyle))}")
    return answer_json(vocabulary, one, two, differences, CONFIDENCES[0], reasoning_text(same), same)


def describe_prompt(vocabulary: Vocabulary, attributes: Sequence[str] | None = None) -> str:
    """The text that follows one picture and asks for a summary of it by attribute."""
    return "".join(describe_prompt_parts(vocabulary, attributes))


def describe_prompt_parts(vocabulary: Vocabulary, attributes: Sequence[str] | None = None) -> tuple[str, ...]:
    """``describe_prompt`` cut into constant pieces, attribute names and separators."""
    pieces = describe_pieces(vocabulary)
    return pieces[:1] + _joined(vocabulary.select(attributes)) + pieces[1:]


def describe_pieces(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Constant pieces of the single-picture prompt; the attribute list stands between them."""
    return (
        f"Summarise the {vocabulary.item} in this photograph by its ",
        ". Write each as its name and what you see, separated by commas.",
    )


def summary_text(attributes: Mapping[str, str]) -> str:
    """Canonical answer to ``describe_prompt``: ``"bill shape hooked, bill color yellow"``.

    Raises:
        ValueError: if there is nothing to describe.
    """
    if not attributes:
        raise ValueError("a summary needs at least one attribute, got none")
    return SEPARATOR.join(f"{name} {value}" for name, value in attributes.items())


def _joined(names: Sequence[str]) -> tuple[str, ...]:
    """Names with separators between them, as parts."""
    parts = tuple(part for name in names for part in (SEPARATOR, name))
    return parts[1:]


def _yes_no(same: bool) -> str:
    return "yes" if same else "no"


def _dump(answer: Mapping[str, object]) -> str:
    return json.dumps(answer, ensure_ascii=False)
