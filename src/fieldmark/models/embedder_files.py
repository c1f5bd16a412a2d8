"""Universal embedders on disk: peft's adapter folders beside our configuration.

adapter_config.json, adapter_model.safetensors   the adapter in use, as peft writes it
folded-0/, folded-1/ …                           adapters that were folded into the weights before, in order
summary_token.safetensors                        the row of [RET], now and in the reference policy
tower.safetensors, words.safetensors             parts that were trained whole (`trained_parts`)
embedder.json                                    how it asks, and which base it belongs to
tokenizer files                                  the base's, with [RET]
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from fieldmark.models.adapters import (
    SavedAdapter,
    adapter_layers,
    adapter_state,
    fold_adapter,
    insert_adapter,
    is_merged,
    read_adapter,
    write_adapter,
)
from fieldmark.models.backbone import Backbone
from fieldmark.models.embedding_prompts import EmbedderConfig
from fieldmark.models.summary_token import SummaryTokenEmbedding
from fieldmark.models.trained_parts import PARTS, Part, read_part, write_part
from fieldmark.models.weight_files import check_file, read_json, replace_folder, write_tensors

FORMAT, VERSION = "fieldmark.universal_embedder", 1
EMBEDDER_FILE, ROW_FILE = "embedder.json", "summary_token.safetensors"


@dataclass(frozen=True)
class Description:
    """embedder.json: how it asks, which base it belongs to, and which files stand beside it.

    base: folder or hub name of the base, "bundled", or "". base_checksum: see `fingerprint.frozen_checksum`. new_words:
    see `new_words`.
    """

    config: EmbedderConfig
    base: str
    base_model_type: str
    base_dtype: str
    base_checksum: str
    adapter: bool
    folded: int
    tower: bool
    words: bool = False
    new_words: tuple[str, ...] = ()

    @property
    def parts(self) -> frozenset[Part]:
        """Parts of the base that were trained whole."""
        return frozenset(part for part in PARTS if getattr(self, part))


def describe(
    backbone: Backbone,
    config: EmbedderConfig,
    base: str,
    base_checksum: str,
    folded: int,
    parts: Set[Part],
) -> Description:
    """Of an embedder as it is now. folded: how many adapters. parts: those that were trained whole."""
    return Description(
        config,
        base,
        **base_facts(backbone),
        base_checksum=base_checksum,
        adapter=bool(adapter_layers(backbone)),
        folded=folded,
        tower="tower" in parts,
        words="words" in parts,
        new_words=backbone.new_words,
    )


def base_facts(backbone: Backbone) -> dict[str, str]:
    """`base_model_type` and `base_dtype` of a description."""
    dtype = str(backbone.head.weight.dtype).removeprefix("torch.")
    return {"base_model_type": backbone.model.config.model_type, "base_dtype": dtype}


def write_files(
    folder: Path,
    description: Description,
    backbone: Backbone,
    token: SummaryTokenEmbedding,
    folded: Sequence[SavedAdapter],
) -> None:
    """Write an embedder without its base: to a temporary folder beside `folder`, then rename it.

    Raises:
        ValueError: the adapter is merged, or `folder` holds something else.
    """
    if is_merged(backbone):
        raise ValueError("the adapter is merged into the weights: unmerge it before saving")
    adapter = adapter_state(backbone)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        backbone.tokenizer.save_pretrained(temporary)
        if adapter is not None:
            write_adapter(adapter, temporary, description.base)
        for number, earlier in enumerate(folded):
            write_adapter(earlier, temporary / f"folded-{number}", description.base)
        rows = {"row": token.row, "reference_row": token.reference_row}
        write_tensors(rows, temporary / ROW_FILE)
        for part in description.parts:
            write_part(backbone, part, temporary)
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(description)}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (temporary / EMBEDDER_FILE).write_text(text, encoding="utf-8")
        os.chmod(temporary, 0o755)
        replace_folder(temporary, folder, EMBEDDER_FILE)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_description(folder: Path) -> Description | None:
    """embedder.json of a saved embedder; None if the folder is something else.

    Raises:
        ValueError: another version, or damaged.
    """
    if not (folder / EMBEDDER_FILE).is_file():
        return None
    content = read_json(folder, EMBEDDER_FILE)
    if (content.pop("format", None), version := content.pop("version", None)) != (FORMAT, VERSION):
        raise ValueError(f"{folder} is no embedder of version {VERSION}, which this program reads, but {version}")
    try:
        lists = {"new_words": tuple(content.pop("new_words", ()))}
        return Description(**{**content, **lists, "config": EmbedderConfig(**content["config"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / EMBEDDER_FILE} is damaged ({error}): copy the folder again") from error


def check_base(description: Description, backbone: Backbone, checksum: str, source: str) -> None:
    """Hold that a backbone is the base that an embedder was trained over.

    checksum: of the backbone as it was loaded; compared only where it computes in the type of then.

    Raises:
        ValueError: it is another one.
    """
    facts = base_facts(backbone)
    if facts["base_model_type"] != description.base_model_type:
        raise ValueError(
            f"{source} was made for another base, of type {description.base_model_type}, not {facts['base_model_type']}"
        )
    if facts["base_dtype"] == description.base_dtype and checksum != description.base_checksum:
        raise ValueError(
            f"{source} was made for another base: these weights are not those that it was trained over. Give the "
            "right model as base"
        )


def read_files(
    folder: Path, description: Description, backbone: Backbone, token: SummaryTokenEmbedding
) -> tuple[SavedAdapter, ...]:
    """Put what was saved into the base; returns the folded adapters.

    Raises:
        ValueError: a file is missing or cut short, or does not fit the base.
    """
    folded = []
    for number in range(description.folded):
        insert_adapter(backbone, read_adapter(folder / f"folded-{number}"), str(folder))
        folded.append(fold_adapter(backbone))
    if description.adapter:
        insert_adapter(backbone, read_adapter(folder), str(folder))
    rows = _read(folder / ROW_FILE)
    with torch.no_grad():
        token.row.copy_(rows["row"])
        token.reference_row.copy_(rows["reference_row"])
    for part in description.parts:
        read_part(backbone, part, folder)
    return tuple(folded)


def _read(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise ValueError(f"{file} is missing: copy the folder again")
    check_file(file)
    return load_file(file)
