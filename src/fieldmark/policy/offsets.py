"""Sampled token ids → text, with the characters that every token wrote. Never by tokenising the text again.

A text can be cut into tokens in many ways, and the model did not necessarily sample the way in which the
tokenizer would have cut. So places are taken from decoding.
"""

from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from typing import Any

import numpy as np
import torch

_CONTEXT = 6
"""Tokens decoded again before every new one, so that a decoder sees what may influence it."""
_WINDOW = 32
"""The window is shortened to the context when it has grown to this."""


def decode_with_offsets(tokenizer: Any, ids: Sequence[int] | torch.Tensor) -> tuple[str, np.ndarray]:
    """Decode token ids and say which characters each one wrote.

    Args:
        tokenizer: a fast tokenizer of ``transformers``.
        ids: (T,) token ids, special ones included.

    Returns:
        The text, equal to ``tokenizer.decode(ids)`` with special tokens kept and without clean-up; and int64
        (T, 2), start and end of every token in characters, both columns non-decreasing. Tokens that share a
        character (it takes several bytes) all cover it; tokens that write nothing are empty.

    Byte-level tokenizers are read from their vocabulary (one pass over the bytes). Others are decoded in a
    sliding window, or, should a decoder look further than that, by decoding every prefix (quadratic, and
    always right).
    """
    tokens = [int(i) for i in (ids.tolist() if isinstance(ids, torch.Tensor) else ids)]
    text = _decode(tokenizer, tokens)
    offsets = _from_bytes(tokenizer.convert_ids_to_tokens(tokens), text)
    if offsets is None:
        offsets = _by_window(tokenizer, tokens, text, sliding=True)
    if offsets is None:
        offsets = _by_window(tokenizer, tokens, text, sliding=False)
    assert offsets is not None
    return text, offsets


def _decode(tokenizer: Any, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (the table of GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + position): byte for position, byte in enumerate(others)})
    return table


def _token_bytes(token: str | None) -> bytes:
    """Bytes of one entry of a byte-level vocabulary; added tokens may be plain text instead."""
    if token is None:  # an id beyond the vocabulary: models may have more rows than tokens
        return b""
    table = _byte_of_character()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()


def _from_bytes(tokens: list[str | None], text: str) -> np.ndarray | None:
    """Offsets in a byte-level vocabulary, or None if these tokens' bytes do not spell the text."""
    pieces = [_token_bytes(token) for token in tokens]
    data = b"".join(pieces)
    if data.decode(errors="replace") != text:
        return None
    starts = _character_starts(data, text)
    edges = np.cumsum([0, *map(len, pieces)])
    # a token covers every character of which it has a byte
    stop = np.searchsorted(starts, edges[1:], side="left")
    first = np.searchsorted(starts, edges[:-1], side="right") - 1
    first = np.where(edges[1:] == edges[:-1], stop, first)
    first = np.minimum.accumulate(first[::-1])[::-1]  # an empty token amid a character's bytes
    return np.stack([first, stop], axis=1).astype(np.int64)


def _character_starts(data: bytes, text: str) -> np.ndarray:
    """The byte at which each character of ``text`` begins in ``data``."""
    if "\ufffd" not in text:
        return np.cumsum([0, *(len(character.encode()) for character in text)])[:-1]
    starts: list[int] = []
    at = 0
    while at < len(data):  # one to three bytes that begin a character without completing it decode to one U+FFFD
        starts.append(at)
        at += next(
            n for n in (4, 3, 2, 1) if len(data) >= at + n and len(data[at : at + n].decode(errors="replace")) == 1
        )
    return np.array(starts)


def _by_window(tokenizer: Any, tokens: list[int], text: str, *, sliding: bool) -> np.ndarray | None:
    """Offsets from how far the text of ``tokens[left:position + 1]`` agrees with the whole text.

    With ``sliding``, ``left`` follows as soon as the shortened window's text is an ending of what is settled.
    None if that loses the text; without ``sliding`` every prefix is decoded, and the last one is the text.
    """
    offsets = np.zeros((len(tokens), 2), dtype=np.int64)
    left = shift = settled = 0  # character k of the window's text is character k + shift of the text
    for position in range(len(tokens)):
        written = _decode(tokenizer, tokens[left : position + 1])
        if text.startswith(written, shift):
            agreed, open_character = len(written), False
        else:  # the beginning of a character that later tokens complete
            pairs = zip(written, text[shift:], strict=False)
            agreed, open_character = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), True
        end = max(settled, shift + agreed)
        offsets[position] = settled, min(end + open_character, len(text))
        settled = end
        if sliding and not open_character and position - left >= _WINDOW:
            recent = _decode(tokenizer, tokens[position + 1 - _CONTEXT : position + 1])
            if recent and text.endswith(recent, 0, settled):
                left, shift = position + 1 - _CONTEXT, settled - len(recent)
    return offsets if settled == len(text) else None
