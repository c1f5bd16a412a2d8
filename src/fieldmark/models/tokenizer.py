"""Tokenizers out of checkpoints."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from fieldmark.models.weight_files import read_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer with its chat template, wherever the checkpoint keeps it.

    Raises:
        ValueError: there is none; transformers would make up an empty one.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)}): download it again")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.chat_template is None and (folder / "chat_template.json").is_file():
        # where older processors keep it; tokenizers do not look there
        tokenizer.chat_template = read_json(folder, "chat_template.json").get("chat_template")
    return tokenizer
