"""Which attributes does a supervisor use, and what does it see? Prompts for that, and the reading of their answers.

Two questions. About a *pair*: name the attributes. About one *picture*: what is the value of each of these attributes?
The second is asked picture by picture, so that no value is written with the other picture, or an opinion about the
pair, in view.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from fieldmark.policy.prompts import SEPARATOR, pair_prompt
from fieldmark.policy.vocabulary import Vocabulary, attribute_key

Discovery = Literal["list", "differences"]

MAX_NAME = 60
"""Characters of an attribute's name; what is longer is a sentence."""

_LABEL = re.compile(r"(?:^|[,;.\n])\s*([^:,;.\n]{1,60}):\s")


def discovery_prompt(vocabulary: Vocabulary, how: Discovery) -> str:
    """The text that follows two pictures and makes a model name attributes.

    ``list`` asks for a JSON object of attributes and values for each picture; ``differences`` is the generic pair
    prompt, whose answer is read for "name: ..." in its ``differences``.
    """
    if how == "differences":
        return pair_prompt(vocabulary, "generic")
    if how != "list":
        raise ValueError(f"unknown discovery {how!r}; use list or differences")
    v = vocabulary
    first, second = v.item_keys
    values = '{"<attribute>": "<value>"}'
    return (
        f"Here are two photographs, {v.item} 1 and {v.item} 2. Which visible attributes would {v.prefix.lower()} "
        f"experts compare to tell {v.targets} apart? Use short general names that fit any {v.item}, the same names for "
        f"both, and write for each in one to three words what you see; leave out background, pose and light.\n"
        f'Give only one JSON object:\n{{"{first}": {values}, "{second}": {values}}}'
    )


def named_attributes(text: str, vocabulary: Vocabulary, how: Discovery) -> tuple[str, ...] | None:
    """Attribute names in an answer to ``discovery_prompt``, each once, in the order in which they are written.

    Returns:
        None if the answer cannot be read: no JSON object, or not the one that was asked for. Names that no prompt could
        use (empty, long, with commas, quotation marks or line breaks) are passed over.
    """
    answer = _first_object(text)
    if answer is None:
        return None
    names: list[str] = []
    if how == "differences":
        if not isinstance(answer.get("differences"), str):
            return None
        names = [m.group(1) for m in _LABEL.finditer(answer["differences"])]
    else:
        descriptions = [answer.get(key) for key in vocabulary.item_keys]
        if not any(isinstance(d, dict) for d in descriptions):
            return None
        names = [name for d in descriptions if isinstance(d, dict) for name in d]
    clean = (usable_name(name) for name in names)
    return tuple({attribute_key(name): name for name in reversed([n for n in clean if n])}.values())[::-1]


def usable_name(name: str) -> str | None:
    """The name as a vocabulary may hold it: underscores as blanks, lower case; None if it cannot be used."""
    plain = " ".join(name.replace("_", " ").split()).casefold()
    if not plain or len(plain) > MAX_NAME or not plain.isprintable() or any(c in plain for c in '",:\\'):
        return None
    return plain if attribute_key(plain) and any(c.isalpha() for c in plain) else None


def read_summary(text: str, attributes: Sequence[str]) -> dict[str, str]:
    """Attribute → value from an answer to ``describe_prompt``: "bill shape hooked, bill color yellow".

    The answer is cut at commas, semicolons and line ends. A part that begins with one of the names (whatever the case;
    the longest one wins; "name: value" counts too) gives its value; one that begins with none continues the value
    before it. Names without a value, and those written twice, are left out: it is not known what was meant.
    """
    keys = {attribute_key(name): name for name in attributes}
    by_length = sorted(keys, key=len, reverse=True)
    values: dict[str, str] = {}
    twice: set[str] = set()
    current: str | None = None
    for part in re.split(r"[,;\n]", text):
        words = " ".join(part.replace("_", " ").split()).strip("-*•. ")
        lowered = words.casefold()
        key = next((k for k in by_length if re.match(re.escape(k) + r"(?:\b|\s|:|$)", lowered)), None)
        if key is not None:
            current = keys[key]
            if current in values:
                twice.add(current)
            values[current] = words[len(key) :].strip(": =-").strip()
        elif current is not None and words:
            values[current] = f"{values[current]}{SEPARATOR}{words}" if values[current] else words
    without_hint = {name: re.sub(r"^\([^()]*\)[\s:=-]*", "", value) for name, value in values.items()}
    return {name: value for name, value in without_hint.items() if value and name not in twice}


def _first_object(text: str) -> dict[str, Any] | None:
    """The first complete JSON object of a text; nothing is repaired."""
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            found, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return found if isinstance(found, dict) else None
    return None
