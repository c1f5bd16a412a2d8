"""What are the grains of a query? The question to a multimodal LLM, and the reading of its answer (MRBench, ELVA).

A grain is an atomic part of a query's meaning: an entity, an attribute, an action.
"""

import json

from fieldmark.data.retrieval import Item

MAX_GRAINS = 12
MAX_LENGTH = 80
"""Characters of a grain; what is longer is no atomic part."""

_FORM = 'Answer with nothing but a JSON list of strings, such as ["a brown dog", "red ball", "jumping"].'


def grain_prompt(item: Item) -> str:
    """The text that makes a model list the grains of a query; its picture, if it has one, comes before it."""
    words = json.dumps(item.text or "", ensure_ascii=False)
    if item.image is None:
        return (
            f"Somebody searches with these words: {words}\nCut what they mean into its smallest parts: every thing, "
            "every property of a thing, every action and every relation is a part of its own. Copy the words of each "
            f"part from the search as they are, and leave no part out.\n{_FORM}"
        )
    if not item.text:
        return (
            "Somebody searches with this picture for others that show the same. List what such a picture must show, "
            "in its smallest parts: every thing, every striking property of a thing, every action is a part of its "
            f"own, one to five words long. Begin with the most important, and stop after eight.\n{_FORM}"
        )
    return (
        f"Somebody searches with this picture, and with these words about it: {words}\nList what they want to find, in "
        "its smallest parts: first every single thing that the words ask for, in the words' own wording, then what "
        f"is to stay as it is in the picture. One to five words each, eight parts at most.\n{_FORM}"
    )


def read_grains(answer: str) -> tuple[str, ...] | None:
    """The grains in an answer, each once, in its order.

    Returns:
        None if there is no JSON list of texts in it (nothing is repaired), or if there are two. Empty and overlong
        texts are passed over, and what follows the twelfth.
    """
    lists, at = [], answer.find("[")
    decoder = json.JSONDecoder()
    while at >= 0:
        try:
            found, end = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            lists.append(found)
        at = answer.find("[", end)
    if len(lists) != 1 or not all(isinstance(one, str) for one in lists[0]):
        return None
    plain = [" ".join(one.split()).strip(" .,;") for one in lists[0]]
    once = {one.casefold(): one for one in reversed(plain) if 0 < len(one) <= MAX_LENGTH and one.isprintable()}
    return tuple(reversed(once.values()))[:MAX_GRAINS]
