import math

import pytest
import torch
from torch import nn

from fieldmark.training.optimiser import (
    AdapterOptimiserConfig,
    NonFiniteLoss,
    OptimiserConfig,
    build_adapter_optimiser,
    build_optimiser,
    check_losses,
    clip_gradients,
    learning_rate_factor,
    learning_rates,
)


def parts() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    pooler = nn.Linear(4, 3)
    proxies = nn.Embedding(5, 3)
    return tower, pooler, proxies


def build(config: OptimiserConfig, total_steps: int = 100):
    tower, pooler, proxies = parts()
    return build_optimiser(
        config, tower.parameters(), pooler.parameters(), proxies.parameters(), total_steps=total_steps
    )


def test_groups_have_their_rates_and_only_matrices_decay() -> None:
    optimiser, _ = build(OptimiserConfig(weight_decay=0.1, warmup_fraction=0.0))
    found = {g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in optimiser.param_groups}
    assert found == {
        "tower": (2e-5, 0.1, 1),
        "tower_undecayed": (2e-5, 0.0, 3),
        "pooler": (1e-4, 0.1, 1),
        "pooler_undecayed": (1e-4, 0.0, 1),
        "loss": (pytest.approx(1e-2), 0.0, 1),
    }


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    tower, pooler, _ = parts()
    tower.requires_grad_(False)
    optimiser, _ = build_optimiser(OptimiserConfig(), tower.parameters(), pooler.parameters(), [], 10)
    assert [g["name"] for g in optimiser.param_groups] == ["pooler", "pooler_undecayed"]


def test_learning_rate_of_every_step_is_exact() -> None:
    config = OptimiserConfig(tower_lr=1.0, pooler_lr=0.5, proxy_lr_factor=2.0, warmup_fraction=0.2)
    optimiser, scheduler = build(config, total_steps=10)
    used = []
    for _ in range(10):
        used.append(learning_rates(optimiser))
        optimiser.step()
        scheduler.step()
    # two warm-up steps, then half a cosine over eight
    factors = [0.5, 1.0] + [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    for rates, factor in zip(used, factors, strict=True):
        assert rates["tower"] == 1.0 * factor
        assert rates["pooler_undecayed"] == 0.5 * factor
        assert rates["loss"] == 1.0 * factor
    assert learning_rates(optimiser)["tower"] == 0.0


def test_constant_schedule_warms_up_and_stays() -> None:
    config = OptimiserConfig(schedule="constant", warmup_fraction=0.5)
    assert [learning_rate_factor(config, step, 4) for step in range(6)] == [0.5, 1, 1, 1, 1, 1]


def test_a_run_of_one_step_moves() -> None:
    assert learning_rate_factor(OptimiserConfig(), 0, 1) == 1.0
    assert learning_rate_factor(OptimiserConfig(warmup_fraction=0.9), 0, 1) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tower_lr", -1.0),
        ("pooler_lr", math.nan),
        ("proxy_lr_factor", math.inf),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("eps", 0.0),
        ("warmup_fraction", 1.0),
        ("clip_norm", 0.0),
        ("schedule", "linear"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        OptimiserConfig(**{field: value})


def test_wrong_arguments_are_refused() -> None:
    tower, pooler, _ = parts()
    config = OptimiserConfig()
    with pytest.raises(ValueError, match="total_steps is 0"):
        build_optimiser(config, tower.parameters(), [], [], 0)
    with pytest.raises(ValueError, match="no parameter"):
        build_optimiser(config, [], [], [], 5)
    with pytest.raises(ValueError, match="twice"):
        build_optimiser(config, tower.parameters(), [*pooler.parameters(), tower[0].weight], [], 5)


def test_clipping_equals_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    params = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(1))]
    gradients = [torch.randn(p.shape, generator=generator) for p in params[:2]]
    for p, g in zip(params, gradients, strict=False):
        p.grad = g.clone()
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))

    assert clip_gradients(iter(params), math.inf) == pytest.approx(norm, rel=1e-6)
    assert all(torch.equal(p.grad, g) for p, g in zip(params, gradients, strict=False))
    assert clip_gradients(iter(params), 0.5) == pytest.approx(norm, rel=1e-6)
    for p, g in zip(params, gradients, strict=False):
        torch.testing.assert_close(p.grad, g * 0.5 / norm, rtol=1e-5, atol=1e-7)
    assert clip_gradients([params[2]], 1.0) == 0.0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_before_anything_changes(poison: float) -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    params[0].grad = torch.tensor([1.0, 2.0])
    params[1].grad = torch.tensor([3.0, poison])
    with pytest.raises(NonFiniteLoss, match=r"1 of 2 parameters.*Resume from the last checkpoint"):
        clip_gradients(params, 1.0)
    assert torch.equal(params[0].grad, torch.tensor([1.0, 2.0]))
    assert torch.equal(params[1], torch.ones(2))


def test_a_loss_that_is_not_finite_is_named() -> None:
    check_losses(3, metric=torch.tensor(1.0), policy=0.0)
    with pytest.raises(NonFiniteLoss, match=r"step 7: policy is nan\. .*learning rate"):
        check_losses(7, metric=torch.tensor(1.0), policy=torch.tensor(math.nan))
    assert issubclass(NonFiniteLoss, FloatingPointError)


def test_adapters_and_a_trained_tower_have_rates_of_their_own() -> None:
    config = AdapterOptimiserConfig(lr=1e-3, tower_lr=1e-5, warmup_fraction=0.0)
    adapter, tower, frozen = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    frozen.requires_grad_(False)
    optimiser, scheduler = build_adapter_optimiser(config, [adapter, frozen], [tower], total_steps=4)
    assert learning_rates(optimiser) == {"adapter": 1e-3, "tower": 1e-5}
    assert [len(group["params"]) for group in optimiser.param_groups] == [1, 1]
    assert all(group["weight_decay"] == 0 for group in optimiser.param_groups)
    optimiser.step()
    scheduler.step()
    factor = learning_rate_factor(config, 1, 4)
    assert learning_rates(optimiser)["adapter"] == pytest.approx(1e-3 * factor) and 0 < factor < 1
    assert list(learning_rates(build_adapter_optimiser(config, [adapter], [], 4)[0])) == ["adapter"]


def test_adapter_optimiser_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="tower_lr is -1"):
        AdapterOptimiserConfig(tower_lr=-1)
    with pytest.raises(ValueError, match="warmup_fraction"):
        AdapterOptimiserConfig(warmup_fraction=1.0)
    with pytest.raises(ValueError, match="add an adapter"):
        build_adapter_optimiser(AdapterOptimiserConfig(), [nn.Parameter(torch.ones(1), requires_grad=False)], [], 4)
    with pytest.raises(ValueError, match="total_steps is 0"):
        build_adapter_optimiser(AdapterOptimiserConfig(), [nn.Parameter(torch.ones(1))], [], 0)
