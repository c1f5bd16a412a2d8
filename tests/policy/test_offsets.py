"""Offsets of sampled tokens: exact text, exact places, for tokenizers of every making."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from fieldmark.policy import offsets as module
from fieldmark.policy.verdicts import Span, decode_with_offsets, parse_verdict, token_spans
from fieldmark.policy.vocabulary import load_vocabulary


def decode(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def check(text: str, offsets: np.ndarray, ids: list[int]) -> None:
    """What must hold whatever the tokenizer: in order, no character of the text without a token."""
    assert offsets.shape == (len(ids), 2)
    assert offsets.dtype == np.int64
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert (np.diff(offsets, axis=0) >= 0).all()
    covered = {c for start, end in offsets for c in range(start, end)}
    assert covered == set(range(len(text)))


def test_random_ids(any_tokenizer: PreTrainedTokenizerFast) -> None:
    """Ids as a model may sample them: cut characters, stray bytes, special tokens, ids without a token."""
    rng = np.random.default_rng(0)
    for length in [0, 1, 2, 3, 5, 8, 40, 100] * 20:
        ids = rng.integers(0, len(any_tokenizer) + 1, length).tolist()
        text, offsets = decode_with_offsets(any_tokenizer, ids)
        assert text == decode(any_tokenizer, ids)
        check(text, offsets, ids)


def test_tokens_stand_where_prefixes_end(any_tokenizer: PreTrainedTokenizerFast) -> None:
    """The slow twin, for texts whose characters are whole: a token ends where the prefix's text ends."""
    rng = np.random.default_rng(1)
    tested = 0
    while tested < 40:
        ids = rng.integers(0, len(any_tokenizer), 60).tolist()
        ids = [i for i in ids if "�" not in decode(any_tokenizer, [i])]
        text, offsets = decode_with_offsets(any_tokenizer, ids)
        if "�" in text:
            continue
        tested += 1
        ends = [len(decode(any_tokenizer, ids[: i + 1])) for i in range(len(ids))]
        assert offsets[:, 1].tolist() == ends
        assert offsets[:, 0].tolist() == [0, *ends[:-1]]


def test_tokens_that_share_a_character(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_level_tokenizer.convert_tokens_to_ids(["x", "ð", "Ł", "ĺ", "Ģ", "y"])
    text, offsets = decode_with_offsets(byte_level_tokenizer, ids)
    assert text == "x😀y"
    assert offsets.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [1, 2], [2, 3]]
    assert token_spans(offsets, Span(1, 2, "😀")) == range(1, 5)
    assert token_spans(offsets, Span(2, 3, "y")) == range(5, 6)
    assert len(token_spans(offsets, Span(2, 2, ""))) == 0


def test_byte_fallback_characters(byte_fallback_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = byte_fallback_tokenizer
    ids = tokenizer.convert_tokens_to_ids(["▁a", "<0xE6>", "<0xBC>", "<0xA2>", "yes", "<0xFF>", "no"])
    text, offsets = decode_with_offsets(tokenizer, ids)
    assert text == "a漢yes�no"
    assert offsets.tolist() == [[0, 1], [1, 2], [1, 2], [1, 2], [2, 5], [5, 6], [6, 8]]


def test_window_and_prefixes_and_bytes_agree(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    """Three ways to the same offsets, on a text longer than the window."""
    written = '{"bird_1": {"bill shape": "hooked 漢", "x": "é"} and no forked tail. ' * 8
    ids = byte_level_tokenizer.encode(written, add_special_tokens=False)
    assert len(ids) > 3 * module._WINDOW
    text, by_bytes = decode_with_offsets(byte_level_tokenizer, ids)
    assert text == written
    sliding = module._by_window(byte_level_tokenizer, ids, text, sliding=True)
    prefixes = module._by_window(byte_level_tokenizer, ids, text, sliding=False)
    assert sliding is not None and prefixes is not None
    assert (sliding == by_bytes).all()
    assert (prefixes == by_bytes).all()


def test_long_texts_take_linear_work(
    byte_fallback_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_fallback_tokenizer
    decoded: list[int] = []
    original = module._decode

    def counting(tok: object, tokens: list[int]) -> str:
        decoded.append(len(tokens))
        return original(tok, tokens)

    monkeypatch.setattr(module, "_decode", counting)
    ids = tokenizer.encode("a hooked bill yes no é " * 100, add_special_tokens=False)
    decode_with_offsets(tokenizer, ids)
    assert sum(decoded) < 45 * len(ids)


def test_spans_of_an_answer_under_any_cutting(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    """Byte by byte, or as the tokenizer cuts: the value's tokens spell the value."""
    vocabulary = load_vocabulary("fieldguide")
    written = 'Ünï: {"bird_1": {"bill shape": "漢 hooked"}, "same_species": "yes"}'
    byte_of = module._byte_of_character()
    letter = {byte: character for character, byte in byte_of.items()}
    cuts = [
        byte_level_tokenizer.encode(written, add_special_tokens=False),
        byte_level_tokenizer.convert_tokens_to_ids([letter[byte] for byte in written.encode()]),
    ]
    for ids in cuts:
        text, offsets = decode_with_offsets(byte_level_tokenizer, ids)
        assert text == written
        verdict = parse_verdict(text, vocabulary)
        span = verdict.descriptions[0]["bill shape"]
        assert text[span.start : span.end] == "漢 hooked"
        tokens = token_spans(offsets, span)
        assert decode(byte_level_tokenizer, [ids[t] for t in tokens]).strip('" ') == "漢 hooked"
        assert verdict.answer_span is not None
        answer = token_spans(offsets, verdict.answer_span)
        assert "yes" in decode(byte_level_tokenizer, [ids[t] for t in answer])
    assert len(tokens) == len("漢 hooked".encode())  # bytes: exactly these
