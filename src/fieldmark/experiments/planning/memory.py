"""Device memory of one step: tensor bytes by part, phase by phase, from what our code keeps.

What a layer keeps for its backward pass follows from what the operations in it save:

* a product with a trained matrix keeps its input, with a frozen one nothing;
* RMSNorm under a frozen weight keeps its input in float32, with a trained one also what is scaled; LayerNorm with a
  trained one its input, mean and deviation;
* fused attention keeps queries, keys, values, output and one float32 per query and head; under a mask also the mask as
  numbers, and keys and values are repeated for every query head;
* gated units keep the gate, its activation and the other factor; GELU keeps its input;
* experts keep that for every one that a token is sent to, and what each hands back; the router keeps its probabilities.

The tower's graph of *every* micro-batch of a step lives until the step's end; the prompt's and the completions'
graph only for one chunk of the replay. Sampling keeps the prompt's keys and values once, with room to grow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from fieldmark.experiments.planning.families import TowerFacts
from fieldmark.experiments.planning.geometry import Geometry
from fieldmark.experiments.planning.workload import Sampling, Workload
from fieldmark.models.logprobs import DEFAULT_CHUNK_BYTES

PARTS = (
    "weights",
    "optimiser",
    "gradients",
    "tower activations",
    "vision tokens",
    "replay activations",
    "KV cache",
    "logits",
    "buffered rollouts",
    "working memory",
)


@dataclass(frozen=True)
class Moment:
    """Bytes by part while a phase needs most."""

    phase: str
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def step_moments(g: Geometry, w: Workload, rounds: int | None = None) -> tuple[Moment, ...]:
    """The most that each phase of a step (not the first: the optimiser's state exists) holds, in the step's order.

    rounds: micro-batches of the step, instead of the expected number.
    """
    count = rounds if rounds is not None else w.sampling.rounds if w.sampling else 1
    return tuple(_moments(g, w, count))


def _moments(g: Geometry, w: Workload, rounds: int) -> Iterator[Moment]:
    s = w.sampling
    tower, tokens = tower_activations(g, w), vision_tokens(g, w)
    leaves = tokens * 4 / w.dtype_bytes
    trained = trained_bytes(g, w)
    small = w.pooler_parameters * 4 + w.proxies * 4  # gradients that the metric loss leaves
    fixed = {"weights": weight_bytes(g, w), "optimiser": w.moment_bytes * trained}
    pooled = metric_graph(g, w)
    kept = {"tower activations": rounds * tower, "vision tokens": rounds * (tokens + leaves)}
    if s is None and rounds == 1:
        kept["vision tokens"] = tokens if w.dtype_bytes == 4 else tokens + w.batch * w.tokens * g.decoder.width * 4
    before = {"working memory": rounds * pooled}

    yield Moment(
        "tower forward",
        {
            **fixed,
            "tower activations": rounds * tower,
            "vision tokens": (rounds - 1) * (tokens + leaves) + tokens,
            "working memory": (rounds - 1) * pooled + _tower_forward_working(g, w),
        },
    )
    if s is not None and s.sampled:
        for phase, parts in _rollouts(g, w, s):
            working = before["working memory"] + parts.pop("working memory")
            yield Moment(phase, {**fixed, **kept, **before, **parts, "working memory": working})
    merged_gradients = rounds * leaves / (1 + g.tower.facts.deepstack)
    if s is not None:
        both = rounds * leaves  # the metric loss's gradients, kept apart from the policy's
        held = {**kept, "vision tokens": kept["vision tokens"] + merged_gradients + both}
        yield Moment("metric loss", {**fixed, **held, "gradients": small, "working memory": rounds * pooled})
        held["vision tokens"] = kept["vision tokens"] + 2 * both
        buffered = replay_buffers(g, w, s)
        for phase, parts in _replay(g, w, s):
            yield Moment(phase, {**fixed, **held, "gradients": small, "buffered rollouts": buffered, **parts})
        yield Moment(
            "balance of both gradients", {**fixed, **held, "gradients": small, "working memory": 4 * rounds * leaves}
        )
    else:
        held = kept
    working = _tower_backward_working(g, w)
    grown = w.tower.trained_bytes  # the tower's gradients come as its activations go
    again = _block_input(g, w) if w.tower.checkpoint else 0.0  # kept anyway, and so not a second time
    first = {**fixed, **held, "gradients": small, "working memory": working - again}
    last = {
        **fixed,
        **held,
        "tower activations": (rounds - 1) * tower,
        "gradients": trained,
        "working memory": working + (grown / max(1, w.tower.layers) if rounds > 1 else 0),
    }
    yield Moment("tower backward", max((first, last), key=lambda parts: sum(parts.values())))
    ended = {**held, "tower activations": 0.0}
    # On a GPU AdamW treats all tensors of a group at once and needs one more copy of what it divides by.
    at_once = max(w.tower.trained_bytes, w.pooler_parameters * 4, w.proxies * 4) if not w.cpu else 0.0
    yield Moment("optimiser", {**fixed, **ended, "gradients": trained, "working memory": at_once})


# ---- what stays


def weight_bytes(g: Geometry, w: Workload) -> float:
    """Tower and language model in the run's dtype (the tower in float32 under autocast); adapters, pooler and proxies
    in float32."""
    supervisor = g.tower.parameters * w.tower.weight_bytes + g.decoder.parameters * w.dtype_bytes
    return supervisor + (w.tower.adapters + w.pooler_parameters + w.proxies) * 4.0


def trained_bytes(g: Geometry, w: Workload) -> float:
    """What is trained: as many bytes of gradients, and twice as many of AdamW's moments."""
    return w.tower.trained_bytes + (w.pooler_parameters + w.proxies) * 4.0


# ---- tower


def tower_activations(g: Geometry, w: Workload) -> float:
    """Kept by the tower's graph for one micro-batch, its pictures included."""
    f, b, t = w.tower.facts, _tower_width(w), w.tower
    pictures = w.batch * 3 * w.image_size**2
    if t.layers == 0:
        return pictures
    mergers = 1 + f.deepstack
    if f.merger_rms_norm:  # a float32 copy of the input; for trained weights what is scaled and its result
        merging = mergers * (4 * (f.width + 1) + b * 2 * f.width * t.full)
    else:  # input, and for trained products result; DeepStack's input is a block's anyway
        merging = b * f.width * (1 + mergers * t.full)
    once = 0
    if f.rotary:
        once += 2 * 4 * f.width // f.heads  # tables
    if t.full:
        once += b * g.tower.patch_values  # for the gradient of the patch embedding
    if t.full and f.rotary:
        once += 4 * (8 + 4)  # places in the grid, for that of the position embedding
    inner = b * f.merger_inner * mergers * (1 + t.full)  # between the merger's products: the GELU's input, and result
    block = _block_input(g, w) if t.checkpoint else w.batch * g.tower.sequence(w.patches) * _block_activations(w)
    return f.depth * block + w.batch * w.patches * (merging + once) + w.batch * w.tokens * inner + pictures


def _tower_width(w: Workload) -> int:
    """Bytes of a number in the tower. Under autocast some are bfloat16 and some float32: all are counted as float32."""
    return max(w.dtype_bytes, w.tower.weight_bytes)


def _block_input(g: Geometry, w: Workload) -> float:
    """Bytes of what one block with a graph is given; 0 where none has."""
    return w.batch * g.tower.sequence(w.patches) * _tower_width(w) * w.tower.facts.width * (w.tower.layers > 0)


def _block_activations(w: Workload) -> float:
    """Bytes per row that one block keeps."""
    f, b, t = w.tower.facts, _tower_width(w), w.tower
    low, single = _block_numbers(f, frozen=t.adapters > 0)
    kept = b * low + 4.0 * single
    if t.adapters:
        kept += 4 * t.adapter_middle
    if t.adapters and b < 4:  # each adapter keeps its own float32 copy, and no frozen product what it was given
        kept += 4 * t.adapter_inputs - b * ((2 + f.rotary) * f.width + f.mlp_width)
    return kept


def _block_numbers(f: TowerFacts, frozen: bool) -> tuple[int, int]:
    """Numbers per row that one block keeps: in the run's dtype, and in float32 whatever that is.

    frozen: only adapters are trained. What a norm or a factor scales is then not kept; inputs of products are, for the
    adapters.
    """
    # Two norms: LayerNorm keeps input, mean and deviation, RMSNorm a float32 copy and what is scaled; then the input of
    # the product. q, k and v; q and k turned; attention's result, again where it is gathered; one float32 per head.
    low = 2 * 2 * f.width + 3 * f.width + f.width
    single = f.heads
    if f.rms_norm:
        low, single = low - 2 * f.width * frozen, single + 2 * (f.width + 1)
    else:
        low += 2 * 2
    if f.rotary:
        low += 3 * f.width
    if f.query_norms:
        low, single = low + 2 * f.width * (not frozen), single + 2 * (f.width + 1)
    if f.layer_scale and not frozen:
        low += 2 * f.width
    return low + f.mlp_kept * f.mlp_width, single


def vision_tokens(g: Geometry, w: Workload) -> float:
    """Merged and DeepStack tokens of one micro-batch."""
    return w.dtype_bytes * w.batch * w.tokens * g.decoder.width * (1 + g.tower.facts.deepstack)


def _tower_forward_working(g: Geometry, w: Workload) -> float:
    f = g.tower.facts
    pixels = 4 * g.tower.patch_values * 3 if w.dtype_bytes != 4 else 4 * g.tower.patch_values * 2
    attention = (4 * 4 if w.dtype_bytes == 4 else 5 * 4) * f.width
    return w.batch * w.patches * max(pixels / (f.depth * 4), attention)


def _tower_backward_working(g: Geometry, w: Workload) -> float:
    """What comes on top before more has been let go than was made: the merger's and the last block's gradients, and a
    block's activations where it is computed again."""
    f, b, t = w.tower.facts, _tower_width(w), w.tower
    again = g.tower.sequence(w.patches) * _block_activations(w) if t.checkpoint and t.layers else 0.0
    return w.batch * (again + b * max(w.tokens * f.merger_inner, w.patches * (f.width + f.mlp_width)))


# ---- pooler and metric loss


def metric_graph(g: Geometry, w: Workload) -> float:
    """Kept from the forward to the backward pass of pooler and metric loss, for one micro-batch."""
    pooled = 4.0 * w.batch * (3 * w.tokens + 2 * g.decoder.width + 3 * w.embedding)
    if w.potential_field:
        return pooled + 3 * 4.0 * (w.batch * w.embedding + w.proxies)
    return pooled + 2 * 4.0 * w.proxies + 8 * 4.0 * w.batch * (w.batch + w.proxies // w.embedding)


# ---- rollouts


def cache_tokens(s: Sampling) -> tuple[int, int]:
    """Keys of one row that there is room for after the prompt, and at the end of decoding."""
    room = min(s.new_tokens * s.group_size, 256)
    first = capacity = s.prompt + max(room, s.prompt // 2)
    end = s.prompt
    for _ in range(s.new_tokens - 1):
        end += s.group_size
        if end > capacity:
            capacity = end + max(room, end // 2)
    return first, capacity


def _rollouts(g: Geometry, w: Workload, s: Sampling) -> Iterator[tuple[str, dict[str, float]]]:
    d, b = g.decoder, w.dtype_bytes
    first, last = cache_tokens(s)
    per_key = s.pairs * 2 * d.key_heads * d.head_dim * b
    branches = s.pairs * s.group_size
    buffers = branches * s.new_tokens * (8.0 + 4 + 4 + 8)
    fed = s.pairs * s.prompt
    embedded = fed * b * d.width + s.pairs * 2 * w.tokens * b * d.width * g.tower.facts.deepstack
    queries = d.heads * d.head_dim
    mlp = b * (3 * d.width + 3 * d.facts.mlp_width + 2 * d.facts.routed)
    keys = 2 * queries if s.ragged else 2 * d.key_heads * d.head_dim
    attention = b * (3 * d.width + 3 * queries + keys)
    mask = s.pairs * s.prompt**2 * (1.0 + b) if s.ragged else 0.0
    yield (
        "rollouts: prompts",
        {
            "KV cache": d.layers * per_key * first,
            "buffered rollouts": buffers,
            "working memory": embedded + fed * max(mlp, attention) + mask,
        },
    )
    repeated = s.pairs * last * 2 * queries * b if d.heads != d.key_heads and s.group_size > 1 else 0.0
    seen = s.prompt + s.group_size * (s.new_tokens - 1)
    masks = branches * seen * (b + 2.0) + s.pairs * seen * 16.0
    if repeated:
        repeated = repeated * seen / last
    common = {"KV cache": d.layers * per_key * last, "buffered rollouts": buffers}
    sampling = 45 if s.sorts else 12 + (b if b < 4 else 0)  # bytes per logit while tokens are drawn
    logits = branches * d.vocabulary * float(4 if s.greedy else sampling)
    yield "rollouts: tokens", {**common, "working memory": embedded + masks + repeated}
    yield "rollouts: logits", {**common, "logits": logits, "working memory": embedded + masks}


# ---- replay


def replay_buffers(g: Geometry, w: Workload, s: Sampling) -> float:
    """Attention that is kept from one layer for the teacher maps, for one chunk. Ids and log-probabilities of the
    buffered rollouts themselves lie in the host's memory: see `host_bytes`."""
    if not s.tap:
        return 0.0
    rows, length = s.chunk * s.group_size, s.new_tokens
    if s.method == "prefix":
        heard = rows * length * (s.prompt + length) + s.chunk * s.prompt**2
    elif s.method == "packed":
        heard = s.chunk * (s.prompt + s.group_size * length) ** 2
    else:
        heard = rows * (s.prompt + length) ** 2
    return 4.0 * (heard + rows * length * s.prompt)


def host_bytes(s: Sampling) -> float:
    """Host memory of the buffered rollouts: ids, two log-probabilities and character offsets of every token."""
    return s.groups * s.group_size * s.new_tokens * (8.0 + 4 + 4 + 16)


def decoder_activations(g: Geometry, w: Workload, rows: float, queries: float, keys: float, masked: bool) -> float:
    """Kept by one decoder layer for `rows` rows of `queries` new tokens that see `keys` tokens."""
    d, b = g.decoder, w.dtype_bytes
    q, k = d.heads * d.head_dim, d.key_heads * d.head_dim
    norms = 4.0 * (2 * d.width + 2)
    if d.facts.query_norms:
        norms += 4 * (q + k + d.heads + d.key_heads)
    per_query = norms + b * 2 * q + 4 * d.heads + b * (3 * d.facts.mlp_width + d.facts.routed) + _routing(g)
    per_key = b * 2 * (q if masked else k)
    return rows * (queries * per_query + keys * per_key + (b * queries * keys if masked else 0.0))


def _routing(g: Geometry) -> float:
    """Bytes per token that choosing experts keeps: probabilities, and places of the tokens in four orders."""
    f = g.decoder.facts
    return 4.0 * f.experts + 8 * 4 * f.active


def _replay(g: Geometry, w: Workload, s: Sampling) -> Iterator[tuple[str, dict[str, float]]]:
    """A chunk at the end of the decoder's pass, at its logits, and at the beginning of its backward pass."""
    d, b = g.decoder, w.dtype_bytes
    t, n = s.new_tokens, s.chunk * s.group_size
    cache = 0.0
    if s.method == "prefix":
        tokens = s.chunk * s.prompt + n * t
        per_layer = decoder_activations(g, w, s.chunk, s.prompt, s.prompt, s.ragged)
        per_layer += decoder_activations(g, w, n, t, s.prompt + t, True)
        masks = 1.0 * n * t * (s.prompt + t)
        if d.heads != d.key_heads:  # else attention keeps the very tensors that are cached
            cache = n * (s.prompt + t) * 2.0 * d.key_heads * d.head_dim * d.layers * b
    elif s.method == "packed":
        width = s.prompt + s.group_size * t
        tokens = s.chunk * width
        per_layer = decoder_activations(g, w, s.chunk, width, width, True)
        masks = 1.0 * s.chunk * width**2
    else:
        tokens = n * (s.prompt + t)
        per_layer = decoder_activations(g, w, n, s.prompt + t, s.prompt + t, True)
        masks = 1.0 * n * (s.prompt + t) ** 2
    layers = d.layers * per_layer
    if s.checkpoint:
        layers = d.layers * tokens * b * d.width + per_layer
    visual = s.chunk * 2 * w.tokens * (s.group_size if s.method == "unpacked" else 1)
    embedded = tokens * b * d.width + visual * b * d.width * g.tower.facts.deepstack
    ends = 4 * (d.width + 1) * tokens + n * t * d.width * b  # final norm; the slope of the log-probabilities
    kept = layers + ends + embedded + 2 * tokens * d.head_dim * b
    chunk_rows = max(1, DEFAULT_CHUNK_BYTES // (4 * d.vocabulary))
    logits = min(n * t, chunk_rows) * d.vocabulary * (8.0 if b == 4 else 10.0)
    predicting = n * t * d.width * b * (3.0 if s.method == "prefix" else 2.0)
    # The shared cache is let go with the decoder's pass, before the first logits are there.
    yield "replay forward", {"replay activations": kept, "KV cache": cache, "working memory": masks + predicting}
    yield "replay logits", {"replay activations": kept, "logits": logits, "working memory": masks + predicting}
    working = (
        (n * t if s.method == "prefix" else tokens) * b * (3 * d.facts.mlp_width + 2 * d.width + 2 * d.facts.routed)
    )
    yield "replay backward", {"replay activations": kept, "working memory": masks + working}
