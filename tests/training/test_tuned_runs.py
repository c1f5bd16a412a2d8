"""Runs that train a part of the tower: exact resume, small checkpoints, plain encoders, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fieldmark.evaluation.zero_shot import evaluate_encoder
from fieldmark.experiments.runs import load_saga_config
from fieldmark.models.bundled import bundled_path
from fieldmark.models.tower import load_tower
from fieldmark.models.tuning import TuningConfig
from fieldmark.training import session as session_module
from fieldmark.training.checkpoint import latest_checkpoint
from fieldmark.training.config import LossWeights, ModelConfig
from fieldmark.training.metric import train_metric
from fieldmark.training.run_folder import read_config
from fieldmark.training.saga import Saga
from fieldmark.training.session import Session


def encoder_weights(config):
    return load_file(Path(config.run) / "encoder" / "model.safetensors")


def log(config):
    lines = [json.loads(line) for line in (Path(config.run) / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def tuned(config, method, **options):
    return replace(config, model=replace(config.model, tuning=TuningConfig(method, **options)))


def changed(config):
    """Names of the tower's tensors that a run has changed."""
    before = load_tower(bundled_path()).model.state_dict()
    after = encoder_weights(config)
    names = {name.removeprefix("tower.model."): t for name, t in after.items() if name.startswith("tower.")}
    assert names.keys() == before.keys()  # plain: the names of an untuned tower
    return {name for name, t in names.items() if not torch.equal(t, before[name])}


def crash_before_update_three_and_resume(config, monkeypatch):
    real, calls = Session.update, []

    def crash(self, losses):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, losses)

    monkeypatch.setattr(Session, "update", crash)
    with pytest.raises(KeyboardInterrupt):
        train_metric(config)
    monkeypatch.setattr(Session, "update", real)
    train_metric(config, resume=True)


@pytest.mark.parametrize(
    ("tuning", "recompute", "trained"),
    [
        (TuningConfig("lora", rank=4, dropout=0.2), True, range(6)),
        (TuningConfig("last_blocks", blocks=2), False, (4, 5)),
    ],
    ids=["lora", "last_blocks"],
)
def test_a_killed_run_resumes_bit_for_bit(metric_config, tmp_path, monkeypatch, tuning, recompute, trained):
    def without_nmi(*inputs, **options):
        return evaluate_encoder(*inputs, **options | {"nmi_seeds": ()})

    monkeypatch.setattr(session_module, "evaluate_encoder", without_nmi)
    model = replace(metric_config.model, tuning=tuning, tower_checkpoint=recompute)
    config = replace(metric_config, model=model)
    train_metric(config)
    broken = replace(config, run=str(tmp_path / "broken"))
    crash_before_update_three_and_resume(broken, monkeypatch)
    one, other = encoder_weights(config), encoder_weights(broken)
    assert one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())
    assert log(config) == log(broken)
    found = changed(config)
    assert {name.split(".")[1] for name in found} == {str(block) for block in trained}
    file = latest_checkpoint(Path(config.run) / "checkpoints") / "tower.safetensors"
    if tuning.method == "lora":
        assert len(found) == 6 * 4  # every linear layer of every block, and nothing else
        assert len(load_file(file)) == 2 * 6 * 4 and all(".lora_" in name for name in load_file(file))


def test_a_step_of_saga_trains_the_adapters_and_nothing_else_of_the_supervisor(saga_config):
    config = replace(tuned(saga_config, "lora", rank=2), supervision="oracle")
    config = replace(config, optimiser=replace(config.optimiser, weight_decay=0.0))
    session = Session(config)
    saga = Saga(session, config)
    before = {name: p.clone() for name, p in session.backbone.model.named_parameters()}
    with session:
        figures = saga.step()
    assert figures["policy_norm"] > 0
    moved = {name for name, p in session.backbone.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".lora_B." in name}  # A's gradient is zero while B is
    assert len(moved) == 6 * 4


def test_only_what_trains_is_in_the_optimiser(metric_config):
    session = Session(tuned(metric_config, "lora", rank=2))
    sizes = {g["name"]: sum(p.numel() for p in g["params"]) for g in session.optimiser.param_groups}
    # rank times (inputs + outputs) of qkv, proj and the two layers of the MLP
    assert sizes["tower"] == 6 * 2 * ((160 + 480) + (160 + 160) + 2 * (160 + 480))
    assert "tower_undecayed" not in sizes


def test_a_frozen_tower_needs_no_policy(saga_config):
    with pytest.raises(ValueError, match=r"set weights\.policy to 0"):
        tuned(saga_config, "frozen")
    frozen = tuned(replace(saga_config, weights=LossWeights(policy=0.0), supervision="oracle"), "frozen")
    session = Session(frozen)
    saga = Saga(session, frozen)
    with session:
        before = {name: p.clone() for name, p in session.encoder.tower.named_parameters()}
        query = session.encoder.pooler.query.clone()
        saga.step()
    assert all(torch.equal(p, before[name]) for name, p in session.encoder.tower.named_parameters())
    assert not torch.equal(session.encoder.pooler.query, query)


def test_the_configuration_is_read_back_from_yaml(metric_config, tmp_path):
    config = tuned(metric_config, "lora", rank=3, alpha=6.0)
    Session(config)
    stored = read_config(config.run)["model"]
    assert stored["tuning"] == {"method": "lora", "rank": 3, "alpha": 6.0, "dropout": 0.0, "blocks": 4}
    file = tmp_path / "recipe.yaml"
    file.write_text("model: {tuning: {method: lora, rank: 3, alpha: 6}, tower_checkpoint: true}\n")
    read = load_saga_config(file).model
    assert read == ModelConfig(tuning=config.model.tuning, tower_checkpoint=True)
