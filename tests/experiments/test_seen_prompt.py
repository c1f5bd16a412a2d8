"""What is shown is what the language model gets, for every family."""

from pathlib import Path

import pytest
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures

from fieldmark.experiments.seen_prompt import see_prompt
from fieldmark.models.backbone import load_backbone


@pytest.mark.parametrize("name", list(TINY))
def test_shown_is_seen(tmp_path: Path, name: str) -> None:
    save_tiny_family(tmp_path / "model", name)
    backbone = load_backbone(tmp_path / "model")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()
    seen = see_prompt(str(tmp_path / "model"), "Are these the same?", 24)

    prompt = backbone.chat_prompt("Are these the same?", 2)
    batch = backbone.embed([prompt], backbone.vision(backbone.pixels(pictures(2, 24))), [(0, 1)])
    assert seen.ids == prompt.ids
    assert seen.num_tokens == batch.lengths[0] == len(prompt.ids) - 2 + 2 * seen.image_tokens
    row = TINY[name]
    picture = row.picture.replace("<|image_pad|>", "<|image_pad|>*9").replace(
        "<IMG_CONTEXT>", "<img><IMG_CONTEXT>*9</img>"
    )
    user = f"<|im_start|>user\n{picture * 2}Are these the same?<|im_end|>\n<|im_start|>assistant\n"
    assert seen.as_text().startswith(row.system + user)
