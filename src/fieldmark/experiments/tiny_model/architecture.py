"""The bundled MLLM before training: Qwen3-VL's architecture with DeepStack, small, and a tokenizer of its own."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fieldmark.data.fieldguide.picture import PICTURE_SIZE
from fieldmark.data.fieldguide.species import FIELD_MARKS, PLUMAGE
from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import Preprocessing
from fieldmark.policy.prompts import (
    SEPARATOR,
    answer_pieces,
    describe_pieces,
    prompt_pieces,
)
from fieldmark.policy.vocabulary import Vocabulary, load_vocabulary

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Pictures first, then the text, as SAGA's input S = [X_a, X_b, T_inst].
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), patch_size=12, merge_size=1, temporal_patch_size=2)
# merge_size 1: the tower sees one 12-pixel patch per token (8 x 8). With 96-pixel pictures, Qwen's patch 8 and 2 x 2
# merging has 144 patches to compute and gives the language model 6 x 6 tokens only.


def build_tokenizer(vocabulary: Vocabulary | None = None) -> PreTrainedTokenizerFast:
    """Bytes, plus one token for every fixed piece of Fieldmark's prompts and answers, attribute and value.

    Any text can be written (bytes are the fallback); the texts that matter cost few tokens.
    """
    vocabulary = vocabulary or load_vocabulary("fieldguide")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    pieces = [
        "user\n",
        "assistant\n",
        SEPARATOR,
        *(p for style in ("structured", "generic") for p in prompt_pieces(vocabulary, style)),
        *describe_pieces(vocabulary),
        *(p for style in ("structured", "generic") for p in answer_pieces(vocabulary, style)),
        *vocabulary.all_attributes,
        *(value for values in (*FIELD_MARKS.values(), *PLUMAGE.values()) for value in values),
        *(f" {value}" for values in (*FIELD_MARKS.values(), *PLUMAGE.values()) for value in values),
    ]
    known: set[str] = set(alphabet)
    for piece in pieces:
        if piece not in known:
            known.add(piece)
            tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int = 0) -> Backbone:
    """A freshly initialised bundled model (float32): tower 1.8 M parameters, language model 1.8 M."""
    tokenizer = build_tokenizer()
    side = PICTURE_SIZE // PREPROCESSING.patch_size

    def token(text: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(text))

    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 8) * 8,
            "hidden_size": 160,
            "intermediate_size": 480,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "num_key_value_heads": 5,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "initializer_range": 0.05,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 6,
            "hidden_size": 160,
            "intermediate_size": 480,
            "num_heads": 5,
            "patch_size": PREPROCESSING.patch_size,
            "spatial_merge_size": PREPROCESSING.merge_size,
            "temporal_patch_size": PREPROCESSING.temporal_patch_size,
            "out_hidden_size": 160,
            "num_position_embeddings": side * side,
            "deepstack_visual_indexes": [3],
            "initializer_range": 0.05,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return Backbone(model, tokenizer, PREPROCESSING)


def save_model(backbone: Backbone, folder: Path, *, half: bool) -> None:
    """Write the model in the layout of a published checkpoint; ``half`` stores float16 (computed in float32)."""
    folder.mkdir(parents=True, exist_ok=True)
    if half:
        backbone.model.half()
    backbone.model.save_pretrained(folder)
    if half:
        backbone.model.float()
    backbone.tokenizer.save_pretrained(folder)
    image_processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "size": {"shortest_edge": PICTURE_SIZE**2, "longest_edge": PICTURE_SIZE**2},
        **PREPROCESSING.to_config(),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor, indent=2) + "\n")
