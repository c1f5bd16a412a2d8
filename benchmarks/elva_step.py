"""One step of ELVA's third stage, against the plain way, in one run.

    python benchmarks/elva_step.py [--short] [--json PATH]

Workload, the same for both sides: queries of a picture and some text, G = 8 summaries each; candidates of a picture and
some text, summarised greedily; summaries of an exact length (their stop tokens are made improbable), temperature 1;
a LoRA adapter of rank 16; KL by k3 to the model without it; float32, random weights, two geometries (`bundled`: 96 px,
width 160, 5 layers; `vit_b`: a ViT-B/16-sized tower at 224 px, decoder of 4 layers, width 768).

    ours   sample_summaries (one prefill a query, the state at [RET] in the same pass), encode for the candidates,
           policy.gradient.backpropagate (prefix replay of policy and reference, log-probs of the summaries only)
    twin   transformers' generate with num_return_sequences = G for queries and greedily for candidates, a full row
           each for the states at [RET], then every summary a full row with the logits of all positions: with gradient
           for the policy, without for the reference

The ratio counts the language model only: the tower's seconds are measured apart and left out on both sides, though
`generate` runs the tower for every copy. Both sides keep the same number of prompts in a replay's chunk and of
candidates in a batch. Each side runs in a process of its own; memory is that process's peak above what it held once the
model was built and warm.
"""

import argparse
import json
import platform
import string
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers
from _measuring import memory_mb, reset_peak_mb, run_side, write_json
from _saga_step import BUNDLED, VIT_B, Geometry, TowerClock, Workload, build, timed
from torch import Tensor
from torch.nn.functional import normalize

from fieldmark.data.retrieval import Item
from fieldmark.models.adapters import AdapterConfig
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import Pictures, UniversalEmbedder
from fieldmark.policy.divergence import kl_k3
from fieldmark.policy.gradient import PolicyGroup, Reference, ReplayConfig, backpropagate
from fieldmark.policy.replay import ReplayGroup

BETA = 0.2
CHAT_TEMPLATE = (
    "{%- for part in messages[0].content -%}{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}<|end|>"
)


@dataclass(frozen=True)
class Step:
    """Sizes of one step; text and summary in tokens, picture and the prompt's own words come on top."""

    geometry: Geometry
    vocabulary: int = 4096
    queries: int = 8
    group_size: int = 8
    candidates: int = 128
    text: int = 100
    summary: int = 48
    prompts_per_chunk: int = 2
    batch_size: int = 32


@dataclass(frozen=True)
class Measured:
    """Seconds by phase, without the tower; the tower's; peak memory in MB."""

    summaries: float
    candidates: float
    replay: float
    tower: float
    peak_mb: float = 0.0

    @property
    def seconds(self) -> float:
        return self.summaries + self.candidates + self.replay


LONG = [Step(BUNDLED), Step(BUNDLED, 32768), Step(VIT_B, queries=4, candidates=32)]
SHORT = [
    Step(BUNDLED, queries=2, candidates=8, summary=24),
    Step(VIT_B, queries=1, candidates=4, text=40, summary=12),
]


def build_embedder(step: Step) -> UniversalEmbedder:
    """Random weights, an adapter that is not the reference, stop tokens that are hardly ever drawn."""
    config = EmbedderConfig(mode="generative", image_size=step.geometry.side, max_new_tokens=step.summary)
    backbone = build(Workload(step.geometry, step.vocabulary))
    backbone.tokenizer.chat_template = CHAT_TEMPLATE
    model = UniversalEmbedder(backbone, config)
    generator = torch.Generator().manual_seed(0)
    model.add_adapter(AdapterConfig(rank=16, alpha=32, dropout=0.0), generator)
    with torch.no_grad():
        for name, parameter in model.trainable_parameters().items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
        head = model.backbone.head  # a copy of its own: where it is tied, the prompts' embeddings stay as they are
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        head.weight[list(model.stop_ids)] = 0.0
    return model.eval()


def make_requests(step: Step, count: int, seed: int) -> list[Request]:
    """A picture and `text` letters each: prompts of one length, so that neither side pads."""
    generator = torch.Generator().manual_seed(seed)
    side = step.geometry.side
    images = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    letters = torch.randint(0, 26, (count, step.text), generator=generator).tolist()
    texts = ["".join(string.ascii_lowercase[i] for i in row) for row in letters]
    return [
        Request(Item(f"{seed}-{i}", text), "", image) for i, (text, image) in enumerate(zip(texts, images, strict=True))
    ]


def advantages(step: Step) -> list[Tensor]:
    """Of every query: +1 and −1 in turn."""
    signs = torch.tensor([1.0 if g % 2 == 0 else -1.0 for g in range(step.group_size)])
    return [signs] * step.queries


def run_ours(model: UniversalEmbedder, step: Step) -> Measured:
    """The step as Fieldmark does it."""
    queries, candidates = make_requests(step, step.queries, 1), make_requests(step, step.candidates, 2)
    clock = TowerClock(model.backbone.model.model.visual)
    pictures = model.pictures(queries)
    groups, first = timed(
        lambda: model.sample_summaries(
            queries,
            num_samples=step.group_size,
            temperature=1.0,
            top_p=1.0,
            generator=torch.Generator().manual_seed(3),
            pictures=pictures,
        )
    )
    assert all(summary.completion.ids.numel() == step.summary for group in groups for summary in group)
    before = clock.seconds
    _, second = timed(lambda: model.encode(candidates, batch_size=step.batch_size))
    second -= clock.seconds - before
    scored = [
        PolicyGroup(
            ReplayGroup(model.prompt(query), images, tuple(s.completion.ids for s in group)),
            tuple(s.completion.logprobs for s in group),
            signs,
        )
        for query, images, group, signs in zip(queries, pictures.of, groups, advantages(step), strict=True)
    ]
    tokens = step.queries * step.group_size * step.summary
    how = ReplayConfig(prompts_per_chunk=step.prompts_per_chunk)
    reference = Reference(model.reference, BETA)
    _, third = timed(lambda: backpropagate(model.backbone, pictures.vision, scored, tokens, how, reference=reference))
    clock.remove()
    return Measured(first, second, third, clock.seconds)


def run_twin(model: UniversalEmbedder, step: Step) -> Measured:
    """The plain way."""
    queries, candidates = make_requests(step, step.queries, 1), make_requests(step, step.candidates, 2)
    clock = TowerClock(model.backbone.model.model.visual)
    torch.manual_seed(3)
    (summaries, _), first = timed(lambda: summarise(model, step, queries, step.group_size))
    first -= clock.seconds
    before = clock.seconds

    def embed_candidates() -> None:
        for start in range(0, len(candidates), step.batch_size):
            summarise(model, step, candidates[start : start + step.batch_size], 1)

    _, second = timed(embed_candidates)
    second -= clock.seconds - before
    pictures = model.pictures(queries)
    tokens = summaries.numel()
    signs = torch.cat(advantages(step))

    def replay_all() -> None:
        rows = step.prompts_per_chunk * step.group_size
        for start in range(0, len(summaries), rows):
            chosen = range(start, min(start + rows, len(summaries)))
            with torch.no_grad(), model.reference():
                other = full_row_logprobs(model, step, queries, pictures, summaries, chosen)
            ours = full_row_logprobs(model, step, queries, pictures, summaries, chosen)
            loss = -(signs[list(chosen), None] * ours).sum() + BETA * kl_k3(ours, other).sum()
            (loss / tokens).backward()

    _, third = timed(replay_all)
    clock.remove()
    return Measured(first, second, third, clock.seconds)


@torch.no_grad()
def summarise(model: UniversalEmbedder, step: Step, requests: list[Request], copies: int) -> tuple[Tensor, Tensor]:
    """Summaries (rows, T) by `generate`, and the states (rows, D) at [RET] behind them by a full row each."""
    backbone, prompts = model.backbone, [model.prompt(request) for request in requests]
    pixels = backbone.pixels(torch.stack([picture for r in requests for picture in r.pictures()]))
    pictures = model.pictures(requests)
    per_image = pictures.vision.counts[0]
    ids = torch.tensor(
        [
            [t for token in prompt.ids for t in [token] * (per_image if token == backbone.image_token_id else 1)]
            for prompt in prompts
        ]
    )
    sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0} if copies > 1 else {"do_sample": False}
    output = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == backbone.image_token_id).int(),
        pixel_values=pixels.pixel_values,
        image_grid_thw=pixels.grid_thw,
        num_return_sequences=copies,
        min_new_tokens=step.summary,
        max_new_tokens=step.summary,
        pad_token_id=0,
        **sampling,
    )
    summaries = output[:, ids.shape[1] :]
    assert summaries.shape == (len(requests) * copies, step.summary)
    owners = [row // copies for row in range(len(summaries))]
    batch = backbone.embed(
        [prompts[i] for i in owners],
        pictures.vision,
        [pictures.of[i] for i in owners],
        suffixes=[[*row, model.summary_id] for row in summaries.tolist()],
    )
    return summaries, normalize(backbone.decode_prompts(batch)[:, -1], dim=-1)


def full_row_logprobs(
    model: UniversalEmbedder, step: Step, queries: list[Request], pictures: Pictures, summaries: Tensor, rows: range
) -> Tensor:
    """(len(rows), T), from the logits of all positions."""
    owners, chosen = [row // step.group_size for row in rows], summaries[rows.start : rows.stop]
    batch = model.backbone.embed(
        [model.prompt(queries[i]) for i in owners],
        pictures.vision,
        [pictures.of[i] for i in owners],
        suffixes=chosen.tolist(),
    )
    logits = model.backbone.head(model.backbone.decode_prompts(batch))
    logprobs = logits.log_softmax(-1)[:, -step.summary - 1 : -1]
    return logprobs.gather(-1, chosen[..., None])[..., 0]


def measure_here(number: int, side: str) -> Measured:
    """Run one side in this process, after a small run that warms allocator and thread pool."""
    step = (LONG + SHORT)[number]
    run = {"ours": run_ours, "twin": run_twin}[side]
    small = replace(step, queries=1, group_size=2, candidates=2, summary=2)
    run(build_embedder(small), small)
    model = build_embedder(step)
    before = reset_peak_mb()
    measured = run(model, step)
    return replace(measured, peak_mb=memory_mb("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a smaller workload, under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        number, side = json.loads(arguments.child)
        torch.set_num_threads(arguments.threads)
        print(json.dumps(asdict(measure_here(number, side))))
        return

    rows = []
    print(
        f"{'workload':<14}{'side':<7}{'summaries':>10}{'candidates':>11}{'replay':>8}{'total':>8}{'MB':>7}{'(tower)':>9}"
    )
    for step in SHORT if arguments.short else LONG:
        number, threads = (LONG + SHORT).index(step), arguments.threads
        sides = {
            side: Measured(
                **run_side(__file__, ["--child", json.dumps([number, side]), "--threads", str(threads)], threads)
            )
            for side in ("ours", "twin")
        }
        name = f"{step.geometry.name} {step.vocabulary // 1024}k"
        for side, m in sides.items():
            print(
                f"{name:<14}{side:<7}{m.summaries:>10.2f}{m.candidates:>11.2f}{m.replay:>8.2f}{m.seconds:>8.2f}"
                f"{m.peak_mb:>7.0f}{m.tower:>9.2f}"
            )
        ours, twin = sides["ours"], sides["twin"]
        ratios = {
            "summaries": twin.summaries / ours.summaries,
            "candidates": twin.candidates / ours.candidates,
            "replay": twin.replay / ours.replay,
            "total": twin.seconds / ours.seconds,
            "peak_memory": twin.peak_mb / max(ours.peak_mb, 1.0),
        }
        print(
            f"{name:<14}{'ratio':<7}{ratios['summaries']:>9.1f}x{ratios['candidates']:>10.1f}x"
            f"{ratios['replay']:>7.1f}x{ratios['total']:>7.1f}x{ratios['peak_memory']:>6.1f}x",
            flush=True,
        )
        rows.append({"workload": asdict(step), **{k: asdict(m) for k, m in sides.items()}, "ratio": ratios})
    if arguments.json:
        report = {
            "benchmark": "elva_step",
            "short": arguments.short,
            "threads": arguments.threads,
            "processor": platform.processor() or platform.machine(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "rows": rows,
        }
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
