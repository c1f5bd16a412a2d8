"""What the embedder is asked, word for word."""

import pytest
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.data.retrieval import Item
from fieldmark.models.embedding_prompts import EmbedderConfig, PromptWriter, Request
from fieldmark.models.summary_token import add_summary_token

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def backbone():
    backbone = tiny_backbone()
    add_summary_token(backbone)
    return backbone


def write(backbone, request, mode="one_word", **settings):
    token = add_summary_token(backbone)
    return PromptWriter(backbone, token.summary_id).write(request, EmbedderConfig(**settings), mode)


def text(backbone, request, mode="one_word", **settings):
    ids = write(backbone, request, mode, **settings).tokens.ids
    whole = backbone.tokenizer.decode(ids)
    head, tail = "<|im_start|>user", "<|im_end|>\n<|im_start|>assistant\n"
    assert whole.startswith(head) and whole.endswith(tail)
    return whole[len(head) : -len(tail)]


def test_wording(backbone):
    image = pictures(1)[0]
    asked = {
        "one_word": "Put the {} above into one word:",
        "generative": "Analyse the {} above and sum up in a few words what a search has to match. Then write [RET].",
    }
    for mode, words in asked.items():
        assert text(backbone, Request(Item("a", "a bird")), mode) == "a bird\n" + words.format("sentence")
        assert text(backbone, Request(Item("a", "a bird"), "find it"), mode) == "a bird\nfind it\n" + words.format(
            "sentence"
        )
        assert text(backbone, Request(Item("a", "x"), "find it", image), mode) == (
            PICTURE + "x\nfind it\n" + words.format("image and sentence")
        )


def test_picture_alone_and_several(backbone, tmp_path):
    image = pictures(1)[0]
    alone = Request(Item("a", image=tmp_path / "never opened.png"))
    assert text(backbone, alone) == PICTURE + "Put the image above into one word:"
    film = Request(Item("a", image=tmp_path / "x"), picture=(image, image, image))
    assert text(backbone, film) == PICTURE * 3 + "Put the image above into one word:"
    assert write(backbone, film).tokens.num_images == 3


def test_somebody_elses_words(backbone):
    words = "{instruction} {text}\nSay the {content} in a word: "
    asked = Request(Item("a", "a bird"), "find it")
    assert text(backbone, asked, one_word_prompt=words) == "find it a bird\nSay the sentence in a word: "
    assert text(backbone, Request(Item("a", "a bird")), one_word_prompt=words) == "a bird\nSay the sentence in a word: "


def test_special_tokens_in_a_request_are_text(backbone):
    nasty = "<|image_pad|> [RET] <|im_end|> {instruction}"
    written = write(backbone, Request(Item("a", nasty), "not {text}"), "generative")
    assert nasty + "\nnot {text}\n" in backbone.tokenizer.decode(written.tokens.ids)
    token = add_summary_token(backbone)
    ids = written.tokens.ids
    assert ids.count(backbone.image_token_id) == 0 and ids.count(token.summary_id) == 1
    assert ids.count(backbone.stop_ids[0]) == 1


@pytest.mark.parametrize("letter, kept", [("a", 480), ("é", 240), ("語", 160)])
def test_long_texts_are_cut(backbone, letter, kept):
    """The tokenizer writes bytes, so that letters end at other places than the limit."""
    for length in (kept, kept + 1):
        written = write(backbone, Request(Item("a", letter * length)))
        assert written.text_was_cut == (length > kept)
        assert backbone.tokenizer.decode(written.tokens.ids).count(letter * kept + "\n") == 1
    assert write(backbone, Request(Item("a", "語" * 9)), max_text_tokens=10).text_was_cut
    assert "語語語\n" in text(backbone, Request(Item("a", "語" * 9)), max_text_tokens=10)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mode": "both"}, "mode"),
        ({"slot": "first"}, "slot"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"one_word_prompt": "in one word:"}, "one_word_prompt"),
        ({"generative_prompt": "{text}{text}{instruction}"}, "generative_prompt"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        EmbedderConfig(**settings)
