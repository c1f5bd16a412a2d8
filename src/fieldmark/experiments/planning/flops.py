"""Arithmetic of one step by phase: matrix products, as `torch.utils.flop_counter` counts them (2 per multiply-add).

A backward pass costs as much as the forward pass for the gradient of the input, and as much again where the weights
are trained; attention's costs twice its forward pass. The frozen language model's weights have no gradient, so its
backward pass is one forward pass of products. Attention is counted over the whole rectangle of queries and keys, since
the kernels run under a mask. Elementwise work is not counted: it is time, but not arithmetic.
"""

from dataclasses import dataclass, replace

from fieldmark.experiments.planning.geometry import Geometry
from fieldmark.experiments.planning.workload import Sampling, Workload


@dataclass(frozen=True)
class Phase:
    """name; floating-point operations; bytes that must cross the memory bus at least (0: arithmetic decides)."""

    name: str
    flops: float
    traffic: float = 0.0


def step_phases(g: Geometry, w: Workload) -> tuple[Phase, ...]:
    """Phases of one optimiser step, in their order."""
    rounds = w.sampling.rounds if w.sampling else 1
    forward = tower_forward(g, w) * rounds
    phases = [Phase("tower forward", forward)]
    s = w.sampling
    if s is not None and s.sampled:
        phases.append(Phase("rollouts: prompts", prefill(g, s, s.pairs) * rounds))
        phases.append(Phase("rollouts: tokens", decoding(g, s) * rounds, decoding_traffic(g, w, s) * rounds))
    phases.append(Phase("metric loss", metric(g, w) * rounds))
    if s is not None:
        phases.append(Phase("replay forward", replay_forward(g, s)))
        phases.append(Phase("replay backward", replay_backward(g, s)))
    phases.append(Phase("tower backward", tower_backward(g, w) * rounds))
    trained = w.tower.trained_bytes + (w.pooler_parameters + w.proxies) * 4
    phases.append(Phase("optimiser", 0.0, 7 * trained))  # reads weight, gradient, two moments; writes three
    return tuple(phases)


# ---- tower


def tower_forward(g: Geometry, w: Workload) -> float:
    """One micro-batch through the tower."""
    return _tower_products(g, w) + _tower_attention(g, w) + _adapters(g, w)


def tower_backward(g: Geometry, w: Workload) -> float:
    """Gradients of inputs and of trained weights, from the first trained block on; the pixels need none."""
    f, rows = w.tower.facts, w.batch * g.tower.sequence(w.patches)
    part = replace(g, tower=replace(g.tower, facts=f))
    blocks, attention, adapters = _block_products(part, w), _tower_attention(part, w), _adapters(g, w)
    again = blocks + attention + adapters if w.tower.checkpoint else 0.0
    if w.tower.checkpoint and not adapters and not f.layer_scale:
        # Recomputing stops once everything kept is there again: the product that closes an MLP is not repeated.
        again -= 2.0 * rows * f.depth * f.mlp_width * f.width
    if w.tower.full:
        return 2 * tower_forward(g, w) - _patch_products(g, w) + again
    if f.depth == 0:
        return 0.0
    # With adapters the weights have no gradient, nor has what the first queries, keys and values are made from.
    products = blocks - 2.0 * rows * 3 * f.width**2 + 2 * adapters if adapters else 2 * blocks
    return products + 2 * attention + _merger_products(part, w) + again


def _adapters(g: Geometry, w: Workload) -> float:
    return 2.0 * w.batch * g.tower.sequence(w.patches) * w.tower.adapters


def _patch_products(g: Geometry, w: Workload) -> float:
    return 2.0 * w.batch * w.patches * g.tower.patch_values * g.tower.facts.width


def _tower_products(g: Geometry, w: Workload) -> float:
    return _patch_products(g, w) + _block_products(g, w) + _merger_products(g, w)


def _block_products(g: Geometry, w: Workload) -> float:
    return 2.0 * w.batch * g.tower.sequence(w.patches) * g.tower.facts.depth * g.tower.facts.weights


def _merger_products(g: Geometry, w: Workload) -> float:
    return 2.0 * w.batch * w.tokens * (1 + g.tower.facts.deepstack) * g.tower.facts.merger_weights


def _tower_attention(g: Geometry, w: Workload) -> float:
    return 4.0 * w.batch * g.tower.attended(w.patches) * g.tower.facts.width


# ---- metric loss and pooler


def metric(g: Geometry, w: Workload) -> float:
    """Pooler and metric loss of one micro-batch, forward and backward."""
    width = g.decoder.width
    total = 0.0
    if w.pooler == "attention":
        total += 3 * 2.0 * w.batch * w.tokens * width  # attention-weighted mean
    if w.pooler == "attention" or w.pooler_parameters:
        total += 3 * 2.0 * w.batch * width * w.embedding
    points = w.batch + w.proxies // w.embedding
    if w.potential_field:  # all points with all points: distances, and their gradient, found on the way
        total += 2 * 2.0 * points**2 * w.embedding
    else:  # the batch with proxies, or with itself where there are none
        total += 3 * 2.0 * w.batch * (w.proxies // w.embedding or w.batch) * w.embedding
    return total


# ---- language model


def _attention(g: Geometry, queries: float, keys: float) -> float:
    d = g.decoder
    return 4.0 * queries * keys * d.heads * d.head_dim * d.layers


def _products(g: Geometry, tokens: float) -> float:
    return 2.0 * tokens * g.decoder.layers * g.decoder.facts.layer_weights


def _head(g: Geometry, tokens: float) -> float:
    return 2.0 * tokens * g.decoder.width * g.decoder.vocabulary


def prefill(g: Geometry, s: Sampling, prompts: int) -> float:
    """`prompts` prompts through the language model, once each."""
    return prompts * (_products(g, s.prompt) + _attention(g, s.prompt, s.prompt))


def decoding(g: Geometry, s: Sampling) -> float:
    """Tokens of one micro-batch's rollouts: a prompt's G branches are the queries of one row, over all their keys."""
    branches = s.pairs * s.group_size
    steps = s.mean_tokens - 1  # the last token is not fed
    keys = s.prompt + s.group_size * (steps + 1) / 2
    fed = branches * steps
    return _head(g, branches * s.mean_tokens) + _products(g, fed) + _attention(g, fed, keys)


def decoding_traffic(g: Geometry, w: Workload, s: Sampling) -> float:
    """Bytes read while decoding: per token the language model's weights (of experts those that are asked), and the keys
    and values; under the mask of the shared prompt these are also written and read again once per query head."""
    d = g.decoder
    steps = s.mean_tokens - 1
    keys = s.prompt + s.group_size * (steps + 1) / 2
    repeated = 0 if d.heads == d.key_heads else 2 * d.heads
    cache = s.pairs * keys * 2 * (d.key_heads + repeated) * d.head_dim * d.layers
    # Of the experts those are read that at least one branch is sent to, if branches choose independently.
    f, branches = d.facts, s.pairs * s.group_size
    met = f.experts * (1 - (1 - f.active / f.experts) ** branches) if f.active else 0.0
    weights = d.layers * (f.layer_weights + (met - f.active) * f.expert_weights) + d.width * d.vocabulary
    return steps * w.dtype_bytes * (weights + cache)


def replay_forward(g: Geometry, s: Sampling) -> float:
    """All buffered groups with gradient, log-probabilities of completion tokens and their slope included."""
    tokens = s.groups * s.group_size * s.mean_tokens
    return _replay_products(g, s) + _replay_attention(g, s) + _tapped(g, s) + 2 * _head(g, tokens)


def replay_backward(g: Geometry, s: Sampling) -> float:
    """Gradient to the vision tokens, none to the frozen weights. Checkpointing runs each layer forward again, up to the
    last thing it kept: not the product that closes an MLP without experts."""
    products, attention = _replay_products(g, s), _replay_attention(g, s)
    total = products + 2 * attention
    if s.checkpoint:
        closing = g.decoder.facts.closing_weights / g.decoder.facts.layer_weights
        total += (1 - closing) * products + attention
    return total


def _replay_rows(s: Sampling) -> tuple[tuple[float, float], ...]:
    """(tokens, keys that each sees) of one group."""
    t, n = s.mean_tokens, s.group_size
    if s.method == "prefix":
        return (s.prompt, s.prompt), (n * t, s.prompt + t)
    if s.method == "packed":
        return ((s.prompt + n * t, s.prompt + n * t),)
    return ((n * (s.prompt + t), s.prompt + t),)


def _replay_products(g: Geometry, s: Sampling) -> float:
    return s.groups * _products(g, sum(tokens for tokens, _ in _replay_rows(s)))


def _replay_attention(g: Geometry, s: Sampling) -> float:
    return s.groups * sum(_attention(g, tokens, keys) for tokens, keys in _replay_rows(s))


def _tapped(g: Geometry, s: Sampling) -> float:
    """Scores of one layer, computed a second time."""
    return _replay_attention(g, s) / (2 * g.decoder.layers) if s.tap else 0.0
