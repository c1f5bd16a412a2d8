"""Is this supervisor worth training with, on these pictures? Asked before hours of GPU.

SAGA learns from groups of rollouts that disagree, and only as much as right verdicts go with right descriptions. The
check measures that without training: accuracy of the verdict by pair type, groups that would contribute, unparseable
answers, entropy of the described values, where the advantage falls, the norm of each loss's gradient at the tower, and
— where the true descriptions are known — whether the policy gradient points where the truth would.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldmark.data.collection import LabelledImages
from fieldmark.data.loader import load_all
from fieldmark.data.samplers import Pair
from fieldmark.evaluation.judging import judge_pairs
from fieldmark.evaluation.mechanism import described_value, value_pulls
from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import Adjudicator, RolloutConfig
from fieldmark.policy.buffer import permute_rewards
from fieldmark.policy.gradient import ReplayConfig
from fieldmark.policy.rollouts import PairType, RolloutGroup
from fieldmark.policy.update import backpropagate_policy


@dataclass(frozen=True)
class SupervisorCheckConfig:
    """How much to look at."""

    pairs_per_type: int = 64
    """Pairs of each type: same class, random different classes, look-alikes (nearest other class)."""
    pictures_per_batch: int = 48
    """Pictures whose tokens are held at one time."""
    seed: int = 0
    """Of pairs and sampling."""
    gradients: bool = True
    """Also measure gradients at the tower (costs a backward pass per batch)."""


@dataclass(frozen=True)
class PairTypeReport:
    """What the supervisor does with one type of pairs. Shares are of rollouts or groups as said."""

    pairs: int
    accuracy: float
    """Share of rollouts with the right verdict (unparseable is wrong)."""
    contributing: float
    """Share of groups whose rewards differ."""
    unparseable: float
    """Share of rollouts."""
    tokens: float
    """Mean tokens per completion."""
    value_entropy: float | None
    """Mean entropy, in nats, of a described value over a group's rollouts; None for prompts without attributes."""
    value_accuracy: float | None
    """Share of described values that are true; None where the truth is not known."""
    advantage_on_discriminating: float | None
    """Mean |advantage-weighted frequency| of values whose truth differs between the two pictures …"""
    advantage_on_shared: float | None
    """… and of values whose truth is shared: section 3.2 wants the first much larger."""
    oracle_cosine: float | None
    """Cosine at the tower between the policy gradient of these pairs and that of the true descriptions."""
    oracle_self_cosine: float | None
    """Cosine between the oracle gradients of two halves of the pairs: what a perfect signal would reach."""
    gradient_norm: float | None
    """Norm of the policy gradient at the tower."""


@dataclass(frozen=True)
class SupervisorReport:
    """The check's findings and its advice."""

    by_type: dict[str, PairTypeReport]
    mixture_cosine: float | None
    """Cosine with the oracle of the mixture that training uses: half same, half different, contributing groups only."""
    random_reward_cosine: float | None
    """The same with rewards permuted within each group: the noise level."""
    metric_gradient_norm: float | None
    """Norm at the tower of a metric loss on one batch, for comparison."""
    worth_training: bool
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """A table and the advice."""

        def show(value: float | None, form: str = ".2f") -> str:
            return "–" if value is None else format(value, form)

        rows = [
            f"{'pairs':<8}{'right':>7}{'mixed':>7}{'unread':>8}{'tokens':>8}{'entropy':>9}{'true':>7}"
            f"{'adv diff/shared':>18}{'cos oracle':>12}"
        ]
        for kind, r in self.by_type.items():
            advantage = f"{show(r.advantage_on_discriminating, '.3f')}/{show(r.advantage_on_shared, '.3f')}"
            cosine = f"{show(r.oracle_cosine, '+.2f')} of {show(r.oracle_self_cosine, '+.2f')}"
            rows.append(
                f"{kind:<8}{r.accuracy:>7.2f}{r.contributing:>7.2f}{r.unparseable:>8.2f}{r.tokens:>8.0f}"
                f"{show(r.value_entropy):>9}{show(r.value_accuracy):>7}{advantage:>18}{cosine:>14}"
            )
        if self.mixture_cosine is not None:
            rows.append(
                f"mixture trained on: cosine with the oracle {self.mixture_cosine:+.3f}; "
                f"with permuted rewards {show(self.random_reward_cosine, '+.3f')}"
            )
        return "\n".join(
            [
                *rows,
                "",
                "worth training" if self.worth_training else "not yet worth training",
                *(f"- {a}" for a in self.advice),
            ]
        )


def draw_check_pairs(
    labels: np.ndarray, embeddings: Tensor, count: int, generator: torch.Generator
) -> dict[PairType, list[Pair]]:
    """``count`` pairs of each type from a whole collection; look-alikes are nearest pictures of another class."""
    labels_t = torch.tensor(labels)
    n = len(labels)
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    found: dict[PairType, list[Pair]] = {"same": [], "random": [], "hard": []}
    order = torch.randperm(n, generator=generator).tolist()
    for a in order:
        mates = ((labels_t == labels_t[a]) & (torch.arange(n) != a)).nonzero()[:, 0]
        others = (labels_t != labels_t[a]).nonzero()[:, 0]
        if len(mates) == 0 or len(others) == 0:
            continue
        pick = int(torch.randint(len(mates), (1,), generator=generator))
        found["same"].append(Pair(a, int(mates[pick]), True))
        pick = int(torch.randint(len(others), (1,), generator=generator))
        found["random"].append(Pair(a, int(others[pick]), False))
        nearest = others[(unit[others] @ unit[a]).argmax()]
        found["hard"].append(Pair(a, int(nearest), False))
        if len(found["same"]) == count:
            return found
    if not found["same"]:
        raise ValueError("no class has two pictures, or there is only one class: there are no pairs to check")
    return found


def check_supervisor(
    backbone: Backbone,
    images: LabelledImages,
    rollouts: RolloutConfig,
    config: SupervisorCheckConfig,
    image_size: int,
    *,
    truth: Sequence[Mapping[str, str]] | None = None,
    decisive: Sequence[str] | None = None,
    replay: ReplayConfig | None = None,
) -> SupervisorReport:
    """Run the check.

    Args:
        images: training pictures (never the test classes).
        truth: true attributes of every picture, where known (Fieldguide); enables the cosine with the oracle.
        decisive: attributes that count as discriminating when they differ; None: all asked for.
    """
    generator = torch.Generator().manual_seed(config.seed)
    adjudicator = Adjudicator(backbone, rollouts)
    replay = replay or ReplayConfig()
    pictures = torch.cat([b.images for b in load_all(images, image_size, workers=0, batch_size=64)])
    with torch.no_grad():
        pooled = torch.cat([_mean_tokens(backbone, pictures[i : i + 64]) for i in range(0, len(pictures), 64)])
    pairs = draw_check_pairs(images.labels, pooled, config.pairs_per_type, generator)

    reports: dict[str, PairTypeReport] = {}
    gradients: dict[str, list[Tensor]] = {"same": [], "random": [], "permuted": [], "oracle": []}
    for kind, chosen in pairs.items():
        groups: list[RolloutGroup] = []
        parts: dict[str, list[Tensor]] = {"policy": [], "permuted": [], "oracle": []}
        different: PairType = "hard" if kind == "hard" else "random"
        for batch in judge_pairs(
            backbone, adjudicator, pictures, chosen, different, generator, config.pictures_per_batch
        ):
            vision, judged = batch.vision, batch.groups
            groups += batch.global_groups
            if config.gradients:
                mixed = [g for g in judged if g.contributes]
                parts["policy"].append(_tower_gradient(backbone, vision, mixed, rollouts, replay))
                parts["permuted"].append(
                    _tower_gradient(backbone, vision, [permute_rewards(g, generator) for g in mixed], rollouts, replay)
                )
                if truth is not None:
                    known = [truth[i] for i in batch.index]
                    references = adjudicator.reference(batch.pairs, known, different, generator)
                    parts["oracle"].append(_tower_gradient(backbone, vision, references, rollouts, replay))
        reports[kind] = _report(groups, parts, truth, decisive)
        if config.gradients and kind in ("same", "random"):
            gradients[kind].append(torch.stack(parts["policy"]).sum(0))
            gradients["permuted"].append(torch.stack(parts["permuted"]).sum(0))
            if parts["oracle"]:
                gradients["oracle"].append(torch.stack(parts["oracle"]).sum(0))

    mixture = random_reward = None
    if config.gradients and gradients["oracle"]:
        # Each half enters with its own norm made equal: training sees as many contributing groups of each.
        oracle = sum(_unit(g) for g in gradients["oracle"])
        policy = _unit(gradients["same"][0]) + _unit(gradients["random"][0])
        assert isinstance(oracle, Tensor)
        mixture = _cosine(policy, oracle)
        random_reward = _cosine(gradients["permuted"][0] + gradients["permuted"][1], oracle)
    advice, worth = _advise(reports, mixture, random_reward)
    return SupervisorReport(reports, mixture, random_reward, None, worth, advice)


def metric_gradient_norm(
    backbone: Backbone, loss: nn.Module, pooler: nn.Module, images: Tensor, labels: Tensor
) -> float:
    """Norm at the tower of a metric loss on one batch, uint8 (B, H, W, 3) and (B,)."""
    backbone.zero_grad(set_to_none=True)
    vision = backbone.vision(backbone.pixels(images))
    tokens, _ = vision.padded()
    loss(pooler(tokens).embedding, labels).backward()
    return float(_flat_gradient(backbone).norm())


def _mean_tokens(backbone: Backbone, images: Tensor) -> Tensor:
    return torch.stack(
        [t.float().mean(0) for t in backbone.vision(backbone.pixels(images.to(backbone.device))).split()]
    ).cpu()


def _tower_gradient(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[RolloutGroup],
    rollouts: RolloutConfig,
    replay: ReplayConfig,
) -> Tensor:
    """Gradient at all tower parameters, flat, of the *summed* policy loss (so that batches add up)."""
    backbone.zero_grad(set_to_none=True)
    if groups:
        leaves = vision.as_leaves()
        backpropagate_policy(backbone, leaves, groups, 1, rollouts, replay)
        features = (vision.merged, *vision.deepstack)
        torch.autograd.backward(
            features, [g.to(f.dtype) for f, g in zip(features, leaves.gradients(), strict=True)], retain_graph=True
        )
    return _flat_gradient(backbone)


def _flat_gradient(backbone: Backbone) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten().float().cpu()
            for p in backbone.tower_parameters()
        ]
    )


def _report(
    groups: Sequence[RolloutGroup],
    parts: Mapping[str, Sequence[Tensor]],
    truth: Sequence[Mapping[str, str]] | None,
    decisive: Sequence[str] | None,
) -> PairTypeReport:
    rollouts = [r for g in groups for r in g.rollouts]
    entropies: list[float] = []
    right: list[bool] = []
    pulls = [] if truth is None else value_pulls(groups, truth, decisive)
    for group in groups:
        for item in (0, 1):
            for name in group.prompt.attributes:
                values = [described_value(r, item, name) for r in group.rollouts]
                entropies.append(_entropy(values))
                if truth is None or name not in truth[group.pair[item]]:
                    continue
                right += [v == truth[group.pair[item]][name] for v in values]
    policy = torch.stack(list(parts["policy"])).sum(0) if parts["policy"] else None
    oracle = torch.stack(list(parts["oracle"])) if parts["oracle"] else None
    self_cosine = None
    if oracle is not None and len(oracle) > 1:
        self_cosine = _cosine(oracle[::2].sum(0), oracle[1::2].sum(0))
    return PairTypeReport(
        pairs=len(groups),
        accuracy=_mean([c for g in groups for c in g.correct]) or 0.0,
        contributing=_mean([g.contributes for g in groups]) or 0.0,
        unparseable=_mean([r.verdict.answer is None for r in rollouts]) or 0.0,
        tokens=_mean([r.num_tokens for r in rollouts]) or 0.0,
        value_entropy=_mean(entropies),
        value_accuracy=_mean(right),
        advantage_on_discriminating=_mean([p.pull for p in pulls if p.discriminating]),
        advantage_on_shared=_mean([p.pull for p in pulls if not p.discriminating]),
        oracle_cosine=None if oracle is None or policy is None else _cosine(policy, oracle.sum(0)),
        oracle_self_cosine=self_cosine,
        gradient_norm=None if policy is None else float(policy.norm()),
    )


def _entropy(values: Sequence[str]) -> float:
    counts = Counter(values)
    return -sum(c / len(values) * math.log(c / len(values)) for c in counts.values())


def _mean(values: Sequence[float] | Sequence[bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _cosine(a: Tensor, b: Tensor) -> float | None:
    if float(a.norm()) == 0 or float(b.norm()) == 0:
        return None
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def _unit(a: Tensor) -> Tensor:
    norm = a.norm()
    return a / norm if norm > 0 else a


def _advise(
    reports: Mapping[str, PairTypeReport], mixture: float | None, noise: float | None
) -> tuple[tuple[str, ...], bool]:
    advice: list[str] = []
    blocking = False
    same, random = reports["same"], reports["random"]
    if max(r.unparseable for r in reports.values()) > 0.2:
        advice.append(
            "more than a fifth of the answers cannot be read: check prompt and vocabulary, or allow more new tokens"
        )
        blocking = True
    if same.contributing < 0.1 and random.contributing < 0.1:
        advice.append(
            "fewer than a tenth of the groups disagree: there is next to no signal; "
            "raise the temperature, ask for more attributes, or draw hard pairs"
        )
        blocking = True
    if same.accuracy < 0.3:
        advice.append(
            f"only {same.accuracy:.0%} of same-class verdicts are right: "
            "ask for fewer attributes per prompt (rollouts.attributes_per_prompt)"
        )
        blocking = blocking or same.accuracy < 0.1
    if random.accuracy < 0.6:
        advice.append(
            f"only {random.accuracy:.0%} of different-class verdicts are right: "
            "the supervisor does not see what tells these classes apart; use another vocabulary or a stronger model"
        )
        blocking = True
    if same.accuracy > 0.95 and random.accuracy > 0.95:
        advice.append("nearly every verdict is right already: little is left to learn from it; draw hard pairs")
    if mixture is not None and noise is not None and mixture <= max(0.0, noise):
        advice.append(
            f"the reward's gradient does not point where the true descriptions do "
            f"(cosine {mixture:+.2f}, permuted rewards {noise:+.2f})"
        )
        blocking = True
    if not advice:
        advice.append("verdicts are in the range that teaches, groups disagree, answers can be read")
    return tuple(advice), not blocking
