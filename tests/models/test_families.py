"""What must hold for every family, on miniature checkpoints in the published layouts. A new family is a row in `TINY`.

The truth is always transformers' own whole model, fed by transformers' own image processor.
"""

import json
import shutil

import pytest
import torch
from PIL import Image
from tests.fixtures_families import QWEN_PICTURE, TINY, save_tiny_family
from tests.fixtures_models import pictures
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fieldmark.models.attention import capture_attention
from fieldmark.models.backbone import load_backbone
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.models.sampling import sample
from fieldmark.models.tower import load_tower

IMAGES = [pictures(2, 16)[0], pictures(2, 24)[1], pictures(1, 16, seed=3)[0]]
TEXTS = ["Are these the same?", "What is it?", "No picture here, only a rather longer text.", "?"]
CHOICES = [(0, 1), (2,), (), (2, 0)]


class World:
    """A family's checkpoint on disk, the model it was made of, and what `load_backbone` makes of it."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.original = save_tiny_family(folder, name)
        self.backbone = load_backbone(folder)
        self.backbone.freeze_language()
        # By name: AutoImageProcessor wants torchvision in older versions of transformers.
        processor = GotOcr2ImageProcessorPil if name == "internvl" else Qwen2VLImageProcessorPil
        self.processor = processor.from_pretrained(folder)

    def prompts(self):
        return [self.backbone.chat_prompt(text, len(chosen)) for text, chosen in zip(TEXTS, CHOICES, strict=True)]

    def processed(self, chosen):
        """transformers' image processor without resizing or tiles, for pictures of one size or Qwen's any sizes."""
        options = {"do_resize": False} if "patch_size" in TINY[self.name].processor else {"crop_to_patches": False}
        if "size" in TINY[self.name].processor and "crop_to_patches" in options:
            options["size"] = dict.fromkeys(("height", "width"), IMAGES[chosen[0]].shape[0])
        batch = self.processor([Image.fromarray(IMAGES[i].numpy()) for i in chosen], return_tensors="pt", **options)
        return {key: batch[key] for key in ("pixel_values", "image_grid_thw") if key in batch}

    def inputs(self, prompt, chosen, extra=()):
        """One prompt as the whole model itself wants it."""
        counts = iter([(IMAGES[i].shape[0] // 8) ** 2 for i in chosen])
        image = self.backbone.image_token_id
        ids = torch.tensor([[t for token in prompt.ids for t in [token] * (next(counts) if token == image else 1)]])
        ids = torch.cat([ids, torch.tensor([list(extra)], dtype=torch.int64)], dim=1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if not chosen:
            return inputs
        if self.backbone.three_axes:
            return inputs | self.processed(chosen) | {"mm_token_type_ids": (ids == image).int()}
        if len({IMAGES[i].shape for i in chosen}) == 1:
            return inputs | self.processed(chosen)
        # transformers' InternVL takes pictures of one size only: put them in one by one
        features = [self.model.model.get_image_features(**self.processed((i,))).pooler_output[0] for i in chosen]
        embeds = self.model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == image)[..., None], torch.cat(features))
        return {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}

    @property
    def model(self):
        return self.backbone.model


@pytest.fixture(scope="module", params=list(TINY))
def world(request, tmp_path_factory):
    return World(request.param, tmp_path_factory.mktemp("families") / request.param)


def test_published_names_are_read_to_the_last_tensor(world):
    """Qwen2's flat configuration, InternVL's old prefixes, the experts stored transposed: the same numbers come out."""
    ours, theirs = world.backbone.model.state_dict(), world.original.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    head, embedding = world.backbone.head.weight, world.model.get_input_embeddings().weight
    assert (head is embedding) == (world.name == "qwen2_vl")
    assert world.backbone.stop_ids == (258, 256) and world.backbone.context_length == 512


def test_pixels_equal_the_image_processor(world):
    ours, theirs = world.backbone.pixels([IMAGES[0], IMAGES[2]]), world.processed((0, 2))
    assert ours.grid_thw.tolist() == [[1, 4, 4], [1, 4, 4]]
    if "image_grid_thw" in theirs:
        torch.testing.assert_close(ours.pixel_values, theirs["pixel_values"], rtol=0, atol=1e-6)
        assert torch.equal(ours.grid_thw, theirs["image_grid_thw"])
        return
    assert theirs["pixel_values"].shape == (2, 3, 16, 16)  # whole pictures: our patches are their squares
    number = 0
    for picture in theirs["pixel_values"]:
        for block_y, block_x, y, x in torch.cartesian_prod(*[torch.arange(2)] * 4).tolist():
            top, left = 4 * (2 * block_y + y), 4 * (2 * block_x + x)
            square = picture[:, top : top + 4, left : left + 4]
            torch.testing.assert_close(ours.pixel_values[number].view(3, 4, 4), square, rtol=0, atol=1e-6)
            number += 1
    assert number == len(ours.pixel_values)


def test_tower_features_equal_those_inside_the_model(world):
    tower = load_tower(world.folder)
    with torch.no_grad():
        tokens, alone = world.backbone.vision(world.backbone.pixels(IMAGES)), tower(tower.pixels(IMAGES))
        assert tokens.counts == [4, 9, 4] and tokens.merged.shape == (17, 32) and tower.width == 32
        for number, part in enumerate(tokens.split()):
            theirs = world.model.model.get_image_features(**world.processed((number,)), return_dict=True)
            expected = torch.cat(tuple(theirs.pooler_output))
            torch.testing.assert_close(part, expected, rtol=0, atol=2e-5)
            deep = getattr(theirs, "deepstack_features", None) or ()
            assert len(deep) == len(tokens.deepstack) == (2 if "qwen3" in world.name else 0)
            for ours, layer in zip(tokens.select([number]).deepstack, deep, strict=True):
                layer = layer if isinstance(layer, torch.Tensor) else torch.cat(tuple(layer))
                torch.testing.assert_close(ours, layer, rtol=0, atol=2e-5)
    assert torch.equal(alone.merged, tokens.merged)
    assert all(torch.equal(a, b) for a, b in zip(alone.deepstack, tokens.deepstack, strict=True))


def test_the_prompt_is_what_the_processor_writes(world):
    """InternVL's processor frames the picture's tokens, its template does not: both must be in the prompt."""
    internvl = world.name == "internvl"
    picture = "<img><IMG_CONTEXT></img>\n" if internvl else QWEN_PICTURE
    expected = f"{TINY[world.name].system}<|im_start|>user\n{picture * 2}Same?<|im_end|>\n<|im_start|>assistant\n"
    prompt = world.backbone.chat_prompt("Same?", 2)
    assert world.backbone.tokenizer.decode(prompt.ids) == expected
    assert prompt.ids == tuple(world.backbone.tokenizer(expected, add_special_tokens=False)["input_ids"])
    placeholder = "<IMG_CONTEXT>" if internvl else "<|image_pad|>"
    with pytest.raises(ValueError, match="2 image placeholders for 1"):
        world.backbone.chat_prompt(f"sneaky {placeholder}", 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_and_padded_equals_the_whole_model_one_by_one(world, side):
    """Among the prompts: two pictures of different sizes (in InternVL two squares, it has no other), and none."""
    with torch.no_grad():
        vision = world.backbone.vision(world.backbone.pixels(IMAGES))
        batch = world.backbone.embed(world.prompts(), vision, CHOICES, padding_side=side)
        hidden = world.backbone.decode_prompts(batch)
        for row, (prompt, chosen) in enumerate(zip(world.prompts(), CHOICES, strict=True)):
            expected = world.model(**world.inputs(prompt, chosen)).logits[0]
            ours = world.backbone.logits(hidden[row][batch.attention_mask[row]])
            torch.testing.assert_close(ours, expected, rtol=0, atol=5e-5)


def test_greedy_rollouts_equal_generate(world):
    prompts, vision = world.prompts(), world.backbone.vision(world.backbone.pixels(IMAGES)).detach()
    ours = sample(
        world.backbone,
        vision,
        [prompts[1], prompts[3]],
        [CHOICES[1], CHOICES[3]],
        num_samples=2,
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=10,
        generator=torch.Generator().manual_seed(0),
    )
    for group, number in zip(ours, (1, 3), strict=True):
        inputs = world.inputs(prompts[number], CHOICES[number])
        theirs = world.model.generate(
            **inputs, max_new_tokens=10, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        ids = theirs.sequences[0, inputs["input_ids"].shape[1] :]
        logprobs = torch.cat(theirs.logits).log_softmax(-1).gather(1, ids[:, None])[:, 0]
        for completion in group:
            assert completion.ids.tolist() == ids.tolist()
            torch.testing.assert_close(completion.logprobs, logprobs, rtol=0, atol=1e-5)
    assert len(set(ours[0][0].ids.tolist() + ours[1][0].ids.tolist())) > 3


def test_tower_gradient_through_leaves_equals_the_full_graph(world):
    """Every parameter, DeepStack and projector included; the frozen language model gets none."""
    backbone, chosen, target = world.backbone, (2, 0), 7
    prompt = world.prompts()[3]
    backbone.zero_grad()
    world.model(**world.inputs(prompt, chosen)).logits[0, -1].log_softmax(-1)[target].backward()
    expected = {name: p.grad.clone() for name, p in backbone.tower.named_parameters()}
    backbone.zero_grad()
    vision = backbone.vision(backbone.pixels(IMAGES))
    leaves = vision.as_leaves()
    hidden = backbone.decode_prompts(backbone.embed([prompt], leaves, [chosen]))
    backbone.logits(hidden[:, -1])[0].log_softmax(-1)[target].backward()
    assert all(gradient.abs().sum() > 0 for gradient in leaves.gradients())
    vision.backward(leaves)
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for name, parameter in backbone.tower.named_parameters():
        # a bias of all keys shifts every score alike: its gradient is zero but for rounding
        norm = 1e-3 * whole if name.endswith("k_proj.bias") else expected[name].norm()
        assert norm > 0, name
        assert (parameter.grad - expected[name]).norm() <= 5e-5 * norm, name
    tower = {id(p) for p in backbone.tower_parameters()}
    assert {id(p) for p in backbone.parameters() if p.requires_grad} == tower
    assert all(p.grad is None for p in backbone.parameters() if id(p) not in tower)
    backbone.zero_grad()


@pytest.mark.parametrize("layer", [0, 2])
def test_captured_attention_equals_output_attentions(world, layer):
    with torch.no_grad():
        vision = world.backbone.vision(world.backbone.pixels(IMAGES))
        batch = world.backbone.embed(world.prompts()[:2], vision, CHOICES[:2])
        with capture_attention(world.backbone, layer) as tap:
            world.backbone.decode_prompts(batch)
        world.model.set_attn_implementation("eager")
        try:
            for row in range(2):
                inputs = world.inputs(world.prompts()[row], CHOICES[row])
                expected = world.model(**inputs, output_attentions=True).attentions[layer].mean(1)[0]
                heard = tap.probabilities[0][row, -len(expected) :, -len(expected) :]
                torch.testing.assert_close(heard, expected, rtol=0, atol=2e-6)
                lower = expected[-5:]  # far from uniform, or the test says little
                assert lower.std() > 0.005 and lower.max() > 4 / len(expected)
        finally:
            world.model.set_attn_implementation("sdpa")


def test_checkpointing_the_tower_changes_nothing(world):
    tower = load_tower(world.folder)
    results, calls = [], []
    hook = next(m for n, m in tower.named_modules() if n.endswith((".0.mlp",))).register_forward_pre_hook(
        lambda *_: calls.append(1)
    )
    for checkpoint in (False, True):
        if checkpoint:
            passes = len(calls)
            tower.train()
            getattr(tower.model, "activation_checkpointing_enable", tower.model.gradient_checkpointing_enable)()
        tower.zero_grad()
        tokens = tower(tower.pixels(IMAGES))
        (tokens.merged.square().sum() + sum(layer.sum() for layer in tokens.deepstack)).backward()
        results.append([tokens.merged.detach(), *(p.grad.clone() for p in tower.parameters())])
    hook.remove()
    assert len(calls) == 3 * passes  # once without, twice with
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_again_it_is_the_same(world, tmp_path):
    again = tmp_path / "again"
    world.model.save_pretrained(again)
    world.backbone.tokenizer.save_pretrained(again)
    shutil.copy(world.folder / "preprocessor_config.json", again)
    loaded = load_backbone(again)
    assert loaded.preprocessing == world.backbone.preprocessing
    for key, value in world.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    assert loaded.chat_prompt("Hi", 1) == world.backbone.chat_prompt("Hi", 1)
    tower = load_tower(again)
    with torch.no_grad():
        ours = tower(tower.pixels(IMAGES)).merged
        assert torch.equal(ours, world.backbone.vision(world.backbone.pixels(IMAGES)).merged)


def test_the_deployed_encoder_is_saved_and_loaded(world, tmp_path):
    """From the tower alone, without the language model in memory or on disk."""
    pooler = build_pooler("attention", 32, 12, torch.Generator().manual_seed(0))
    encoder = RetrievalEncoder(load_tower(world.folder), pooler, 16)
    before = encoder.encode(IMAGES)
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "encoder")
    torch.testing.assert_close(loaded.encode(IMAGES), before, rtol=0, atol=1e-6)
    shared = RetrievalEncoder(world.backbone.tower, pooler, 16)
    torch.testing.assert_close(shared.encode(IMAGES), before, rtol=0, atol=1e-6)
    assert {id(p) for p in world.backbone.parameters()} >= {id(p) for p in shared.tower.parameters()}


def test_bfloat16_checkpoints_compute_in_float32(tmp_path):
    """Published weights are bfloat16, and so says their config.json; float32 was asked for."""
    original = save_tiny_family(tmp_path / "half", "qwen3_vl_moe", dtype=torch.bfloat16)
    loaded = load_backbone(tmp_path / "half")
    for key, value in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value.bfloat16().float()), key
    tower = load_tower(tmp_path / "half")
    for ours, value in zip(tower.parameters(), loaded.tower.parameters(), strict=True):
        assert torch.equal(ours, value) and ours.requires_grad
    assert {p.dtype for p in load_tower(tmp_path / "half", dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_the_configuration_on_disk_is_the_published_one(world):
    """The generator itself: were it to write transformers' newest layout, the tests above would prove less."""
    config = json.loads((world.folder / "config.json").read_text())
    weight_map = json.loads((world.folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(weight_map.values())) == 4
    first = {
        "qwen3_vl": "model.visual.patch_embed.proj.weight",
        "qwen3_vl_moe": "model.language_model.layers.0.mlp.experts.gate_up_proj",
        "qwen2_5_vl": "visual.patch_embed.proj.weight",
        "qwen2_vl": "model.layers.0.self_attn.q_proj.bias",
        "internvl": "language_model.model.layers.0.self_attn.q_norm.weight",
    }
    assert first[world.name] in weight_map
    assert ("text_config" in config) == (world.name not in ("qwen2_vl", "qwen2_5_vl"))
