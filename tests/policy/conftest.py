"""Tokenizers of different making, trained on the spot, and made-up completions."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fieldmark.policy.prompts import answer_pieces, prompt_pieces
from fieldmark.policy.vocabulary import load_vocabulary

CORPUS = [
    '{"bird_1": {"bill shape": "hooked", "bill color": "yellow"}, "same_species": "yes"}',
    "A hooked yellow bill, naïve crème brûlée, 漢字仮名, 😀🦜, and no forked tail.",
]


def _byte_level() -> PreTrainedTokenizerFast:
    """Like Qwen's: byte-level BPE; here also with the bundled model's whole-piece tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|im_end|>"])
    raw.train_from_iterator([*CORPUS, *CORPUS], trainer)
    vocabulary = load_vocabulary("fieldguide")
    pieces = [*prompt_pieces(vocabulary), *answer_pieces(vocabulary), "é Ġ piece"]
    raw.add_tokens([AddedToken(piece, normalized=False) for piece in dict.fromkeys(pieces)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>")


def _byte_fallback() -> PreTrainedTokenizerFast:
    """Like Llama's: metaspace, unknown characters as byte tokens, a leading space that decoding strips."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab.update({f"<0x{byte:02X}>": 3 + byte for byte in range(256)})
    words = ["▁", *'abcdefghijklmnopqrstuvwxyz{}":,_12é', "▁a", "▁hooked", "yes", "no", "bill"]
    vocab.update({word: len(vocab) + i for i, word in enumerate(words)})
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


def _word_piece() -> PreTrainedTokenizerFast:
    """Like BERT's: a space before every token that does not begin with ##."""
    words = ["[UNK]", "hooked", "bill", "##s", "##ed", "yes", "no", "bird", "a", '"', "{", "}", ":", "é"]
    raw = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": _byte_level,
    "byte_fallback": _byte_fallback,
    "word_piece": _word_piece,
}


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    return _byte_level()


@pytest.fixture(scope="session")
def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    return _byte_fallback()


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


@dataclass(frozen=True)
class FakeCompletion:
    """The fields of ``models.sampling.Completion``."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    sampling_logprobs: torch.Tensor
    tracked: torch.Tensor
    finish_reason: str


@pytest.fixture(scope="session")
def complete(byte_level_tokenizer: PreTrainedTokenizerFast) -> Callable[..., FakeCompletion]:
    """A completion that wrote a text, with log-probabilities made up from its ids."""

    def make(text: str, tracked: torch.Tensor | None = None) -> FakeCompletion:
        ids = torch.tensor(byte_level_tokenizer.encode(text, add_special_tokens=False))
        logprobs = -(ids % 7).float() / 7 - 0.1
        if tracked is None:
            tracked = torch.zeros(len(ids), 0)
        return FakeCompletion(ids, logprobs, logprobs * 0.5, tracked, "stop")

    return make
