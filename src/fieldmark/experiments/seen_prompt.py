"""`fieldmark prompt show --supervisor`: a prompt as one model sees it, token by token."""

from dataclasses import dataclass

from fieldmark.experiments.planning.geometry import meta_backbone

NUM_IMAGES = 2


@dataclass(frozen=True)
class SeenPrompt:
    """text: the whole prompt, special tokens included, the placeholder of a picture once. ids: its tokens. pieces: each
    token as text.

    image_token_id: the placeholder. image_tokens: tokens of one picture, which take its place. context: tokens that
    the model can take in all.
    """

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    image_token_id: int
    image_tokens: int
    context: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole prompt, pictures included."""
        return sum(self.image_tokens if token == self.image_token_id else 1 for token in self.ids)

    def as_text(self) -> str:
        """The prompt, and how long it is."""
        placeholder = self.pieces[self.ids.index(self.image_token_id)]
        shown = self.text.replace(placeholder, f"{placeholder}*{self.image_tokens}")
        pictures = self.ids.count(self.image_token_id)
        return (
            f"{shown}\n\n{self.num_tokens} tokens: {len(self.ids) - pictures} of text, {pictures} pictures of "
            f"{self.image_tokens}; the model takes {self.context} in all"
        )

    def as_list(self) -> str:
        """One token per line: id, text, and how often for a picture's."""
        return "\n".join(
            f"{token:>8}  {piece!r}" + f"  * {self.image_tokens}" * (token == self.image_token_id)
            for token, piece in zip(self.ids, self.pieces, strict=True)
        )


def see_prompt(supervisor: str, text: str, image_size: int) -> SeenPrompt:
    """`text` after two pictures of image_size x image_size pixels, as `supervisor` sees it.

    supervisor: "bundled", a checkpoint's folder or a hub id; no weights are read.

    Raises:
        ValueError: no such checkpoint, or pictures that its tower cannot cut into patches.
    """
    backbone = meta_backbone(supervisor)
    p = backbone.preprocessing
    p.check_size(image_size)
    tokens = (image_size // (p.patch_size * p.merge_size)) ** 2
    ids = backbone.chat_prompt(text, NUM_IMAGES).ids
    whole, *pieces = (
        backbone.tokenizer.decode(some, clean_up_tokenization_spaces=False)
        for some in (list(ids), *([token] for token in ids))
    )
    return SeenPrompt(whole, ids, tuple(pieces), backbone.image_token_id, tokens, backbone.context_length)
