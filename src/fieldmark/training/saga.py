"""`fieldmark train saga`: SAGA, Algorithm 1 (arXiv 2606.15134), block by block.

Where this differs from the publication, by default in nothing; as options: a quota of contributing groups per pair
type, prompts about a part of the vocabulary, advantages on decision tokens only, the policy gradient matched to the
metric loss's norm, pairs mined after the verdicts (``pairs.mining``), and three controls (``supervision``).

The tower runs once per micro-batch. Its tokens, as leaves, feed the metric loss and every replay; their gradients go
back into the tower in one backward pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldmark.data.loader import Batch
from fieldmark.data.samplers import Pair, sample_pairs
from fieldmark.losses.alignment import attention_alignment
from fieldmark.models.pooler import Pooled
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import Adjudicator
from fieldmark.policy.buffer import BufferResult, ContributingBuffer, GroupCounts, permute_rewards
from fieldmark.policy.rollouts import RolloutGroup, logprob_gap
from fieldmark.policy.update import TeacherMap, backpropagate_policy, count_tokens
from fieldmark.training.config import SagaConfig
from fieldmark.training.mining import pair_weights
from fieldmark.training.session import Session, attributes_of

PUBLISHED_TEACHER_DEPTH = 26 / 36


@dataclass
class Round:
    """One micro-batch of a step: its pictures' tokens (graph and leaves), metric loss, and kept groups."""

    batch: Batch
    vision: VisionTokens
    leaves: VisionTokens
    pooled: Pooled
    metric_loss: Tensor
    groups: list[RolloutGroup]


def train_saga(config: SagaConfig, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Train and evaluate once on the test classes.

    Returns what results.json holds. Raises ValueError before the first step for bad input, NonFiniteLoss during it.
    """
    session = Session(config, resume=resume, overwrite=overwrite)
    try:
        saga = Saga(session, config)
    except ValueError:
        session.run.discard()
        raise
    with session:
        while session.progress.step < session.total_steps:
            session.after_step(saga.step())
    return session.finish()


class Saga:
    """Algorithm 1 on a session."""

    def __init__(self, session: Session, config: SagaConfig) -> None:
        self.session, self.config = session, config
        self.adjudicator = Adjudicator(session.backbone, config.rollouts)
        layers = session.backbone.num_layers
        layer = config.alignment_layer
        self.layer = round(PUBLISHED_TEACHER_DEPTH * layers) if layer is None else layer
        if not 0 <= self.layer < layers:
            raise ValueError(f"alignment_layer is {self.layer}, but the supervisor has layers 0 to {layers - 1}")
        if config.weights.alignment > 0 and config.rollouts.style == "generic":
            raise ValueError("the generic prompt has no attribute spans to align with: set weights.alignment to 0")
        if config.weights.alignment > 0 and session.encoder.pooler.kind != "attention":
            raise ValueError(f"attention alignment needs the attention pooler, not {session.encoder.pooler.kind!r}")
        if config.pairs.remembers_verdicts and config.supervision in ("oracle", "wrong"):
            raise ValueError(
                f"supervision={config.supervision!r} asks for no verdicts that pairs.mining={config.pairs.mining!r} "
                "could learn from: set pairs.mining to embedding or none"
            )
        self._check_context()
        if config.weights.need_rollouts:
            self._check_pairs()
        needs_truth = config.supervision in ("oracle", "wrong")
        self.truth = attributes_of(session.split.train) if needs_truth else []

    def _check_pairs(self) -> None:
        """Hold that a micro-batch has as many pairs of both kinds as are drawn from it."""
        d, wanted = self.config.data, self.config.pairs.pairs_per_round
        same = d.batch_size * (d.images_per_class - 1) // 2
        different = d.batch_size * (d.batch_size - d.images_per_class) // 2
        for kind, asked, there in (("one class", wanted // 2, same), ("two classes", wanted - wanted // 2, different)):
            if asked > there:
                raise ValueError(
                    f"pairs.pairs_per_round is {wanted}, {asked} of them of {kind}, but {d.batch_size} pictures "
                    f"with {d.images_per_class} of each class make only {there} such pairs: lower it to at most "
                    f"{2 * min(same, different)}, or raise data.batch_size"
                )

    def _check_context(self) -> None:
        """A prompt that cannot fit is an error now, not in step one."""
        backbone, rollouts = self.session.backbone, self.config.rollouts
        p = backbone.preprocessing
        patches = (self.config.data.image_size // (p.patch_size * p.merge_size)) ** 2
        needed = self.adjudicator.longest_prompt_tokens + 2 * patches + rollouts.max_new_tokens
        if needed > backbone.context_length:
            raise ValueError(
                f"a prompt of {self.adjudicator.longest_prompt_tokens} tokens, 2 pictures of {patches} and "
                f"{rollouts.max_new_tokens} new tokens need {needed} positions, but the supervisor has "
                f"{backbone.context_length}: lower rollouts.max_new_tokens, data.image_size, or shorten the vocabulary"
            )

    def step(self) -> dict[str, Any]:
        """One optimiser step; returns its figures."""
        session, weights = self.session, self.config.weights
        session.zero_grad()

        # A + B. Micro-batches, each with its metric loss and rollouts, until K groups contribute.
        rounds, buffer = self._collect()

        # A. The metric loss, averaged over the step's micro-batches, down to the vision tokens.
        with session.log.phase("metric"):
            metric_loss = torch.stack([r.metric_loss for r in rounds]).mean()
            (weights.metric * metric_loss).backward()
            metric_gradients = [torch.cat([g.flatten() for g in r.leaves.gradients()]).clone() for r in rounds]

        # C. Policy update: replay every buffered completion with gradient.
        policy_loss, gap, teachers = self._policy(rounds)
        norms = self._balance(rounds, metric_gradients)

        # D. Attention alignment: the pooler learns to look where the supervisor looked.
        with session.log.phase("alignment"):
            alignment_loss = self._align(rounds, teachers)

        # E. One backward through the tower per micro-batch, then one AdamW step.
        with session.log.phase("tower"):
            for r in rounds if session.trains_tower else ():
                r.vision.backward(r.leaves)
            figures = session.update({"metric": metric_loss.item(), "policy": policy_loss, "alignment": alignment_loss})
        return {
            "loss": metric_loss.item(),
            "policy_loss": policy_loss,
            "alignment_loss": alignment_loss,
            "replay_gap": gap,
            **norms,
            **_describe(buffer, rounds),
            **figures,
        }

    # ---- A and B ------------------------------------------------------------------------------------------------

    def _collect(self) -> tuple[list[Round], BufferResult | None]:
        session, pairs = self.session, self.config.pairs
        if not self.config.weights.need_rollouts:
            return [self._embed()], None
        every_one = pairs.contributing_pairs is None
        target = pairs.pairs_per_round if every_one else pairs.contributing_pairs
        assert target is not None
        buffer = ContributingBuffer(target, pairs.quota, 1 if every_one else pairs.max_rounds)
        rounds: list[Round] = []
        while buffer.wants_more:
            current = self._embed()
            rounds.append(current)
            with session.log.phase("rollouts"):
                groups = self._adjudicate(current)
            before = len(buffer.groups)
            if self.config.supervision in ("oracle", "wrong"):
                current.groups = groups
                return rounds, None
            buffer.add_round(groups)
            current.groups = buffer.groups[before:]
        result = buffer.result()
        if result.warning and not (every_one and result.groups):
            print(f"step {session.progress.step + 1}: {result.warning}")
        if self.config.supervision == "permuted":
            for r in rounds:
                r.groups = [permute_rewards(g, session.generator) for g in r.groups]
        return rounds, result

    def _embed(self) -> Round:
        session = self.session
        with session.log.phase("pictures"):
            batch = session.next_batch()
        with session.log.phase("tower"):
            vision = session.tokens(batch.images)
        with session.log.phase("metric"):
            leaves = vision.as_leaves()
            pooled = session.encoder.pool(leaves)
            loss = session.metric_loss(pooled.embedding, batch.labels)
        return Round(batch, vision, leaves, pooled, loss, [])

    def _adjudicate(self, current: Round) -> list[RolloutGroup]:
        session, config = self.session, self.config
        labels, embeddings = current.batch.labels.cpu(), current.pooled.embedding.detach().cpu()
        weights = None
        if config.pairs.mining != "none":
            confused = embeddings if config.pairs.mining in ("embedding", "both") else None
            weights = pair_weights(labels, config.pairs.mining_strength, session.verdicts, confused)
        pairs: list[Pair] = sample_pairs(
            labels,
            config.pairs.pairs_per_round,
            session.generator,
            different=config.pairs.different,
            embeddings=embeddings,
            weights=weights,
        )
        if config.supervision in ("oracle", "wrong"):
            truth = [self.truth[i] for i in current.batch.indices.tolist()]
            if config.supervision == "wrong":  # someone else's description, for both halves of the step alike
                order = torch.randperm(len(truth), generator=session.generator).tolist()
                truth = [truth[i] for i in order]
            return self.adjudicator.reference(pairs, truth, config.pairs.different, session.generator)
        groups = self.adjudicator.judge(current.vision, pairs, config.pairs.different, session.generator)
        if session.verdicts is not None:
            session.verdicts.update(groups, labels)
        return groups

    # ---- C --------------------------------------------------------------------------------------------------------

    def _policy(self, rounds: list[Round]) -> tuple[float, float, list[tuple[TeacherMap, ...]]]:
        config, weights = self.config, self.config.weights
        relative = weights.policy_relative is not None
        weight = 1.0 if relative else weights.policy
        groups = [g for r in rounds for g in r.groups]
        if not groups:
            return 0.0, 0.0, [() for _ in rounds]
        num_tokens = count_tokens(groups, config.rollouts)
        layer = self.layer if weights.alignment > 0 else None
        loss, gap = 0.0, 0.0
        teachers: list[tuple[TeacherMap, ...]] = []
        with self.session.log.phase("replay"):
            for r in rounds:
                update = backpropagate_policy(
                    self.session.backbone,
                    r.leaves,
                    r.groups,
                    num_tokens,
                    config.rollouts,
                    config.replay,
                    weight=weight,
                    attention_layer=layer,
                )
                loss, gap = loss + update.loss, max(gap, update.replay_gap)
                teachers.append(update.teachers)
        return loss, gap, teachers

    def _balance(self, rounds: list[Round], metric_gradients: list[Tensor]) -> dict[str, float]:
        """Norms of both gradients at the vision tokens and their cosine; rescales the policy's if asked for."""
        totals = [torch.cat([g.flatten() for g in r.leaves.gradients()]) for r in rounds]
        policy = torch.cat([t - m for t, m in zip(totals, metric_gradients, strict=True)])
        metric = torch.cat(metric_gradients)
        metric_norm, policy_norm = float(metric.norm()), float(policy.norm())
        figures = {"metric_norm": metric_norm, "policy_norm": policy_norm}
        if metric_norm > 0 and policy_norm > 0:
            figures["cosine"] = float(F.cosine_similarity(metric, policy, dim=0))
            relative = self.config.weights.policy_relative
            if relative is not None:
                factor = relative * metric_norm / policy_norm
                for r, part in zip(rounds, metric_gradients, strict=True):
                    for leaf, own in zip((r.leaves.merged, *r.leaves.deepstack), _like(part, r.leaves), strict=True):
                        assert leaf.grad is not None
                        leaf.grad = own + factor * (leaf.grad - own)
        return figures

    # ---- D --------------------------------------------------------------------------------------------------------

    def _align(self, rounds: list[Round], teachers: list[tuple[TeacherMap, ...]]) -> float:
        """λ_kl · mean over maps of KL(ᾱ ‖ β), backward into the pooler only; returns the mean.

        The publication adds image a and image b per rollout; this is that sum over rollouts divided by its number of
        rollouts when both images of each have a map.
        """
        count = sum(len(t) for t in teachers)
        if count == 0 or self.config.weights.alignment == 0:
            return 0.0
        total = 0.0
        for r, maps in zip(rounds, teachers, strict=True):
            if not maps:
                continue
            tokens, mask = r.leaves.detach().padded()
            log_student = self.session.encoder.pooler(tokens, None if bool(mask.all()) else mask).log_attention
            assert log_student is not None
            index = torch.tensor([m.image for m in maps], device=mask.device)
            teacher = torch.zeros(len(maps), mask.shape[1], device=mask.device)
            for row, m in enumerate(maps):
                teacher[row, : len(m.attention)] = m.attention
            loss = 2 * attention_alignment(teacher, log_student[index], mask[index]).sum() / count
            (self.config.weights.alignment * loss).backward()
            total += loss.item()
        return total


def _like(flat: Tensor, leaves: VisionTokens) -> list[Tensor]:
    """A flat gradient cut back into the leaves' shapes."""
    shapes = [leaf.shape for leaf in (leaves.merged, *leaves.deepstack)]
    pieces = flat.split([shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _describe(buffer: BufferResult | None, rounds: list[Round]) -> dict[str, Any]:
    """Figures of the rollouts: reward, mixed groups by type, unparseable share, tokens per completion."""
    if buffer is None:
        return {"rounds": len(rounds)}
    counts: dict[str, GroupCounts] = {kind: c for kind, c in buffer.counts.items() if c.drawn}
    drawn = sum(c.drawn for c in counts.values())
    rollouts = sum(c.rollouts for c in counts.values())
    kept = buffer.groups
    figures: dict[str, Any] = {
        "rounds": len(rounds),
        "groups": len(kept),
        "mixed": sum(c.contributing for c in counts.values()) / max(1, drawn),
        "unparseable": sum(c.unparseable_rollouts for c in counts.values()) / max(1, rollouts),
        "by_type": {kind: vars(c) for kind, c in counts.items()},
    }
    if kept:
        figures["reward"] = float(torch.cat([g.rewards for g in kept]).mean())
        figures["tokens"] = sum(g.num_tokens for g in kept) / sum(len(g.rollouts) for g in kept)
        figures["logprob_gap"] = logprob_gap(kept)
    return figures
