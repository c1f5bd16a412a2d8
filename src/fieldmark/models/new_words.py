"""Words that become tokens of their own, where a tokenizer spells them in pieces. Not part of ELVA.

A large model's tokenizer knows the words of most collections. A tiny one's knows its own world, and spells all others
letter by letter: long, slow, and nothing that it ever learnt to write. New tokens begin as the mean of their pieces and
mean nothing until they are trained (`trained_parts`, "words").
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken

from fieldmark.models.backbone import Backbone

MOST_WORDS = 100_000


def read_words(path: Path) -> tuple[str, ...]:
    """Words from a text file, one a line; blank lines count for nothing.

    Raises:
        ValueError: no such file, no word, white space within a word, a word twice, or more than ``MOST_WORDS``.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of words {path}: `fieldmark data words` writes one")
    words: dict[str, None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word = line.strip()
        if len(word.split()) > 1:
            raise ValueError(f"{path}, line {number}: {word!r} is more than one word: give each a line")
        if word in words:
            raise ValueError(f"{path}, line {number}: {word!r} is there twice")
        if word:
            words[word] = None
    if not 0 < len(words) <= MOST_WORDS:
        raise ValueError(f"{path} has {len(words)} words: between 1 and {MOST_WORDS:,} can be tokens")
    return tuple(words)


def add_words(backbone: Backbone, words: Sequence[str]) -> None:
    """Give a backbone's tokenizer and model tokens for words: one with the space before it, one for where it stands
    first. What is one token already stays as it is; tokens that were there keep their numbers.

    A token is the mean of its pieces at first, in token embeddings and head. The backbone is changed in place.

    Args:
        words: as `read_words` gives them.
    """
    tokenizer = backbone.tokenizer
    pieces = {}
    for word in words:
        for text in (f" {word}", word):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) > 1:
                pieces[text] = ids
    # Alone, a word must not be found within a longer one; with its space it may be the beginning of one.
    tokenizer.add_tokens([AddedToken(text, normalized=False, single_word=text[0] != " ") for text in pieces])
    numbers = {text: tokenizer.convert_tokens_to_ids(text) for text in pieces}
    size = max([backbone.vocab_size, *(number + 1 for number in numbers.values())])
    if size > backbone.vocab_size:
        # transformers seeds nothing here: without "mean resizing" the new rows are random, and overwritten below
        with torch.random.fork_rng(devices=[]):
            backbone.model.resize_token_embeddings(size, mean_resizing=False)
        backbone.vocab_size = size
    embeddings, head = backbone.model.get_input_embeddings().weight, backbone.head.weight
    with torch.no_grad():
        for matrix in (embeddings,) if head is embeddings else (embeddings, head):
            for text, ids in pieces.items():
                matrix[numbers[text]] = matrix[ids].mean(0)
    backbone.new_words = tuple(dict.fromkeys((*backbone.new_words, *words)))
