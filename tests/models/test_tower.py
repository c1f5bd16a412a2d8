"""Loading a tower without the language model, and every way in which a checkpoint can be no good."""

import json

import huggingface_hub.constants
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.fixtures_families import is_tower_key, save_tiny_family
from tests.fixtures_models import pictures

from fieldmark.models import tower as tower_module
from fieldmark.models.backbone import load_backbone
from fieldmark.models.families import FAMILIES
from fieldmark.models.tower import load_tower
from fieldmark.models.weight_files import INDEX

LOADERS = pytest.mark.parametrize("load", [load_backbone, load_tower])
SHARDS = [f"model-{number:05d}-of-00004.safetensors" for number in range(1, 5)]


BOTH = pytest.mark.parametrize("folder", ["qwen3_vl", "internvl"], indirect=True)


@pytest.fixture
def folder(request, tmp_path):
    save_tiny_family(tmp_path / "model", getattr(request, "param", "qwen3_vl"))
    return tmp_path / "model"


def features(tower):
    with torch.no_grad():
        return tower(tower.pixels(pictures(2))).merged


@BOTH
def test_the_language_models_shards_are_never_opened(folder, monkeypatch):
    """Garbage in their place is not noticed, nor is their absence; of the shard that holds both, no text is read."""
    before = features(load_tower(folder))
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    language = {name for name in SHARDS if not any(is_tower_key(k) for k, where in weight_map.items() if where == name)}
    assert language == set(SHARDS[:2])
    opened, read = [], []

    class Recorder:
        def __init__(self, path, framework):
            opened.append(path.name)
            self.file = safe_open(path, framework=framework)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get_tensor(self, key):
            read.append(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr(tower_module, "safe_open", Recorder)
    for name in language:
        (folder / name).write_bytes(b"not a model")
    assert torch.equal(features(load_tower(folder)), before)
    for name in language:
        (folder / name).unlink()
    assert torch.equal(features(load_tower(folder)), before)
    assert sorted(set(opened)) == SHARDS[2:]
    assert read and all(is_tower_key(key) for key in read)
    with pytest.raises(ValueError, match=rf"half-downloaded.*{SHARDS[0]}, {SHARDS[1]}, which are not there"):
        load_backbone(folder)


@BOTH
def test_one_file_without_index_is_read_too(folder):
    before = features(load_tower(folder))
    tensors = {key: value for name in SHARDS for key, value in load_file(folder / name).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in (*SHARDS, INDEX):
        (folder / name).unlink()
    assert torch.equal(features(load_tower(folder)), before)
    assert torch.equal(features(load_backbone(folder).tower), before)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights"):
        load_tower(folder)


@LOADERS
def test_half_downloads_are_refused(folder, load):
    whole = (folder / SHARDS[3]).read_bytes()
    for length, message in ((len(whole) - 5, f"cut short: {len(whole) - 5} bytes of {len(whole)}"), (40, "cut short")):
        (folder / SHARDS[3]).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{SHARDS[3]} is {message}"):
            load(folder)
    (folder / SHARDS[3]).write_bytes(b"version 1\noid sha256:00\nsize 123456\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        load(folder)
    (folder / SHARDS[3]).unlink()
    with pytest.raises(ValueError, match=rf"half-downloaded.*{SHARDS[3]}, which is not there"):
        load(folder)
    (folder / INDEX).write_text((folder / INDEX).read_text()[:200])
    with pytest.raises(ValueError, match=r"index\.json is no valid JSON"):
        load(folder)


@BOTH
@LOADERS
def test_missing_unexpected_and_misshapen_weights_are_named(folder, load):
    tensors = load_file(folder / SHARDS[3])
    lost = next(reversed(tensors))
    stranger = lost.rpartition(".")[0] + ".stranger"

    def rewrite(changed):
        save_file(changed, folder / SHARDS[3], metadata={"format": "pt"})
        index = json.loads((folder / INDEX).read_text())
        kept = {key: where for key, where in index["weight_map"].items() if where != SHARDS[3]}
        (folder / INDEX).write_text(json.dumps({**index, "weight_map": kept | dict.fromkeys(changed, SHARDS[3])}))

    shortened = lost.split(".", 2)[-1]  # the loaders may name the module's key instead of the file's
    rewrite({key: value for key, value in tensors.items() if key != lost})
    with pytest.raises(ValueError, match=rf"missing keys: [\w.]*{shortened}"):
        load(folder)
    rewrite({**tensors, stranger: torch.zeros(2)})
    with pytest.raises(ValueError, match=r"unexpected keys: [\w.]*\.stranger"):
        load(folder)
    rewrite({**tensors, lost: torch.zeros(3)})
    with pytest.raises(ValueError, match=rf"mismatched keys: .*{shortened}"):
        load(folder)


@LOADERS
@pytest.mark.parametrize(
    "model_type, message",
    [("llava", "'llava' .* is not supported"), ("internvl_chat", "-HF"), (None, "None")],
)
def test_other_architectures_are_refused_with_those_supported(tmp_path, load, model_type, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "auto_map": {"AutoModel": "evil.py"}}))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    for family in FAMILIES:
        assert all(known in str(caught.value) for known in family.model_types)


@LOADERS
def test_a_hub_name_without_network_is_a_clear_error(tmp_path, monkeypatch, load):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be fetched .*the network.*give the folder"):
        load("somebody/some-model")
    with pytest.raises(ValueError, match="no model at"):
        load("some/where/else")


@LOADERS
def test_what_the_hub_keeps_from_before_is_used_and_half_of_it_refused(folder, tmp_path, monkeypatch, load):
    """Offline, the hub's own folder of kept files is handed out even if a download was interrupted."""
    kept = tmp_path / "hub" / "models--somebody--some-model"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots").mkdir()
    folder.rename(kept / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load("somebody/some-model").preprocessing.patch_size == 4
    (kept / "snapshots" / ("0" * 40) / SHARDS[3]).unlink()
    with pytest.raises(ValueError, match=rf"half-downloaded.*{SHARDS[3]}"):
        load("somebody/some-model")


@LOADERS
def test_a_foreign_image_processor_is_refused(folder, load):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "patch_size": 8}))
    with pytest.raises(ValueError, match="patch_size = 8, the model 4"):
        load(folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    """transformers would make one up that knows no word."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer .*tokenizer\.json"):
        load_backbone(folder)
    load_tower(folder)


def test_chat_template_json_is_read_where_the_tokenizer_has_none(folder):
    expected = load_backbone(folder).chat_prompt("Hi", 1)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_backbone(folder).chat_prompt("Hi", 1) == expected


def test_other_features_and_windows_of_attention_are_refused(tmp_path):
    save_tiny_family(tmp_path / "model", "internvl")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "vision_feature_layer": -2}))
    with pytest.raises(ValueError, match="vision_feature_layer -2"):
        load_tower(tmp_path / "model")
    windows = {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 8}
    text = {**config["text_config"], **windows, "use_sliding_window": True}
    path.write_text(json.dumps({**config, "text_config": text}))
    with pytest.raises(ValueError, match="sliding_attention"):
        load_backbone(tmp_path / "model")


def test_internvl_sees_squares_only(tmp_path):
    save_tiny_family(tmp_path / "model", "internvl")
    tower = load_tower(tmp_path / "model")
    with pytest.raises(ValueError, match="square"):
        tower(tower.pixels(torch.zeros(1, 16, 24, 3, dtype=torch.uint8)))


def test_a_head_of_its_own_is_not_tied_away(tmp_path):
    """Published InternVL may leave `tie_word_embeddings` to its text part; transformers' default says tied."""
    original = save_tiny_family(tmp_path / "model", "internvl")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["tie_word_embeddings"]
    path.write_text(json.dumps(config))
    assert torch.equal(load_backbone(tmp_path / "model").head.weight, original.lm_head.weight)
