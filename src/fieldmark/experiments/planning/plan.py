"""A run's step beside a GPU: does it fit, what takes how long, what to change."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fieldmark.experiments.planning.flops import Phase, step_phases
from fieldmark.experiments.planning.geometry import Geometry, meta_backbone, read_geometry
from fieldmark.experiments.planning.memory import PARTS, Moment, host_bytes, step_moments
from fieldmark.experiments.planning.workload import Assumptions, Workload, read_workload
from fieldmark.training.config import MetricConfig, SagaConfig

GIB = 2.0**30


@dataclass(frozen=True)
class Gpu:
    """memory in GiB; dense bfloat16 peak in TFLOP/s (no sparsity); memory bandwidth in TB/s. 0 TB/s: not known."""

    name: str
    memory: float
    tflops: float
    bandwidth: float = 0.0


# The makers' data sheets: SXM modules for the data-centre cards, products with float32 accumulation.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 141e9 / GIB, 989, 4.8),
        Gpu("h100", 80e9 / GIB, 989, 3.35),
        Gpu("a100-80", 80e9 / GIB, 312, 2.039),
        Gpu("a100-40", 40e9 / GIB, 312, 1.555),
        Gpu("l40s", 48e9 / GIB, 362, 0.864),
        Gpu("rtx4090", 24e9 / GIB, 165, 1.008),
    )
}


@dataclass(frozen=True)
class Machine:
    """The GPU and what of it can be had."""

    gpu: str = "h200"
    """h200, h100, a100-80, a100-40, l40s, rtx4090, or any name together with gpu_memory and gpu_tflops."""
    gpu_memory: float | None = None
    """Memory in GiB, instead of the table's."""
    gpu_tflops: float | None = None
    """Dense peak in TFLOP/s of the run's dtype, instead of the table's (bfloat16)."""
    gpu_bandwidth: float | None = None
    """Memory bandwidth in TB/s, instead of the table's."""
    usable: float = 0.92
    """Share of the memory that tensors can have; the rest is the driver's, kernels' and the allocator's."""
    peak_fraction: float = 0.4
    """Share of the peak that matrix products reach, and share of the bandwidth that reading reaches."""

    def __post_init__(self) -> None:
        for name in ("usable", "peak_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share: above 0, at most 1")
        for name in ("gpu_memory", "gpu_tflops", "gpu_bandwidth"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")

    def resolve(self) -> Gpu:
        """The GPU that is meant.

        Raises:
            ValueError: an unknown name without memory and peak.
        """
        known = GPUS.get(self.gpu.lower())
        if known is None and (self.gpu_memory is None or self.gpu_tflops is None):
            raise ValueError(
                f"gpu {self.gpu!r} is not one of {', '.join(GPUS)}: choose one, or give gpu_memory (GiB) and "
                "gpu_tflops (dense, of the run's dtype)"
            )
        base = known or Gpu(self.gpu, 0.0, 0.0)
        return Gpu(
            self.gpu.lower(),
            self.gpu_memory or base.memory,
            self.gpu_tflops or base.tflops,
            self.gpu_bandwidth or base.bandwidth,
        )


@dataclass(frozen=True)
class Change:
    """One more thing to change, and the peak in GiB with it and all before it."""

    what: str
    peak: float


@dataclass(frozen=True)
class Plan:
    """Everything that `fieldmark plan` prints."""

    gpu: Gpu
    machine: Machine
    assumed: Assumptions
    geometry: Geometry
    workload: Workload
    moments: tuple[Moment, ...]
    phases: tuple[Phase, ...]
    largest_batch: int
    """Largest micro-batch that fits, a multiple of images_per_class; 0 if none does."""
    changes: tuple[Change, ...] = field(default=())
    """What to change, in this order, until it fits; empty if it fits."""

    @property
    def peak(self) -> Moment:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def limit(self) -> float:
        """Bytes that tensors can have."""
        return self.gpu.memory * GIB * self.machine.usable

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.limit

    def seconds(self, phase: Phase) -> float:
        """The longer of arithmetic and memory traffic; starting kernels is not counted."""
        share = self.machine.peak_fraction
        reading = phase.traffic / (self.gpu.bandwidth * 1e12 * share) if self.gpu.bandwidth else 0.0
        return max(phase.flops / (self.gpu.tflops * 1e12 * share), reading)

    def as_json(self) -> dict[str, Any]:
        """All figures: bytes, operations, seconds."""
        return {
            "gpu": vars(self.gpu),
            "assumptions": {"usable": self.machine.usable, "peak_fraction": self.machine.peak_fraction}
            | vars(self.assumed),
            "fits": self.fits,
            "peak_bytes": self.peak.total,
            "limit_bytes": self.limit,
            "peak_phase": self.peak.phase,
            "memory": [{"phase": m.phase, "total": m.total, **m.parts} for m in self.moments],
            "phases": [{"phase": p.name, "flops": p.flops, "seconds": self.seconds(p)} for p in self.phases],
            "largest_batch": self.largest_batch,
            "changes": [vars(change) for change in self.changes],
            "reservations": list(_reservations(self.workload)),
        }

    def as_text(self) -> str:
        """Tables for people."""
        return "\n".join(_lines(self))


def make_plan(config: SagaConfig | MetricConfig, machine: Machine, assumed: Assumptions | None = None) -> Plan:
    """Plan one optimiser step of a run.

    Raises:
        ValueError: unknown GPU, no local checkpoint folder, or a configuration that could not be trained with.
    """
    assumed = assumed or Assumptions()
    gpu = machine.resolve()
    backbone = meta_backbone(config.model.supervisor)
    geometry = read_geometry(backbone)
    workload = read_workload(config, backbone, geometry, assumed)
    workload = replace(workload, cpu=False)  # the plan is for a GPU, wherever the configuration was tried
    plan = Plan(
        gpu,
        machine,
        assumed,
        geometry,
        workload,
        step_moments(geometry, workload),
        step_phases(geometry, workload),
        largest_batch=0,
    )
    largest = largest_micro_batch(geometry, workload, plan.limit)
    changes = () if plan.fits else tuple(_remedies(geometry, workload, plan.limit))
    return replace(plan, largest_batch=largest, changes=changes)


def peak_bytes(geometry: Geometry, workload: Workload) -> float:
    """The most that a step holds at any time."""
    return max(moment.total for moment in step_moments(geometry, workload))


def largest_micro_batch(geometry: Geometry, workload: Workload, limit: float) -> int:
    """Pictures per micro-batch, a multiple of images_per_class, everything else as it is; 0 if none fits."""
    unit = workload.images_per_class

    def fits(classes: int) -> bool:
        return peak_bytes(geometry, replace(workload, batch=classes * unit)) <= limit

    if not fits(2):  # one class has nothing to be told from
        return 0
    low, high = 2, 4
    while fits(high) and high < 2**20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * unit


def _remedies(geometry: Geometry, workload: Workload, limit: float) -> Iterator[Change]:
    """Changes in the order in which they cost the method least, each on top of those before, until it fits."""
    for what, changed in _candidates(workload):
        if peak_bytes(geometry, changed(workload)) < 0.99 * peak_bytes(geometry, workload):
            workload = changed(workload)
            yield Change(what, peak_bytes(geometry, workload) / GIB)
            if peak_bytes(geometry, workload) <= limit:
                return
    largest = largest_micro_batch(geometry, workload, limit)
    if largest:
        workload = replace(workload, batch=largest)
        yield Change(f"data.batch_size: {largest}", peak_bytes(geometry, workload) / GIB)
    else:
        yield Change("a GPU with more memory, or a smaller supervisor", peak_bytes(geometry, workload) / GIB)


def _in_bfloat16(w: Workload) -> Workload:
    return replace(w, dtype_bytes=2, tower=replace(w.tower, weight_bytes=4 if w.tower.autocast else 2))


def _candidates(w: Workload) -> Iterator[tuple[str, Any]]:
    if w.dtype_bytes == 4:
        yield "model.dtype: bfloat16", _in_bfloat16
    recomputed = (
        "model.tower_checkpoint: true (one more forward pass of the tower)",
        lambda one: replace(one, tower=replace(one.tower, checkpoint=w.tower.layers > 0)),
    )
    if w.sampling is None:
        yield recomputed
        return

    def sampling(**changed: Any) -> Any:
        return lambda one: replace(one, sampling=replace(one.sampling, **changed))

    for chunk in (2, 1):
        if chunk < w.sampling.chunk:
            yield f"replay.prompts_per_chunk: {chunk}", sampling(chunk=chunk)
    if w.sampling.method == "unpacked":
        yield "replay.method: prefix", sampling(method="prefix")
    yield recomputed
    if not w.sampling.tap and not w.sampling.checkpoint:
        yield "replay.method: packed, replay.checkpoint: true", sampling(method="packed", checkpoint=True)
    pairs = w.sampling.pairs
    while pairs > 4 and w.sampling.max_rounds > 1:
        pairs //= 2
        rounds = min(w.sampling.max_rounds, -(-w.sampling.rounds * w.sampling.pairs // pairs))
        yield f"pairs.pairs_per_round: {pairs} ({rounds} micro-batches a step)", sampling(pairs=pairs, rounds=rounds)
    tokens = w.sampling.new_tokens
    while tokens > 256:
        tokens //= 2
        yield (
            f"rollouts.max_new_tokens: {tokens} (longer answers earn nothing)",
            sampling(new_tokens=tokens, mean_tokens=min(tokens, w.sampling.mean_tokens)),
        )


# ---- text


def _lines(plan: Plan) -> Iterator[str]:
    g, w, s, gpu = plan.geometry, plan.workload, plan.workload.sampling, plan.gpu
    peak = plan.peak
    yield (
        f"{g.name}: tower {g.tower.parameters / 1e6:,.0f} M parameters ({_trained(w)}), "
        f"language model {g.decoder.parameters / 1e6:,.0f} M (frozen)"
    )
    yield f"micro-batch: {w.batch} pictures of {w.image_size} px, {w.patches} patches and {w.tokens} tokens each"
    if s is not None:
        rounds = f"{s.rounds} micro-batch{'es' if s.rounds > 1 else ''} a step"
        yield (
            f"rollouts: {rounds} with {s.pairs} pairs each x {s.group_size} completions of at most {s.new_tokens} "
            f"tokens; prompt {s.prompt} tokens; {s.groups} groups replayed, {s.chunk} at a time ({s.method})"
        )
    yield ""
    yield f"memory by part, GiB {'peak':>20}{'most':>10}"
    for part in PARTS:
        most = max(m.parts.get(part, 0.0) for m in plan.moments)
        if most > 0:
            yield f"  {part:<28}{peak.parts.get(part, 0.0) / GIB:>9.2f}{most / GIB:>10.2f}"
    yield f"  {'all':<28}{peak.total / GIB:>9.2f}          (peak: {peak.phase})"
    if s is not None:
        yield f"  buffered rollouts in the host's memory: {host_bytes(s) / 2**20:.1f} MiB"
    yield ""
    yield f"one step by phase {'GiB':>17}{'TFLOP':>12}{'seconds':>10}"
    memory = {m.phase: m.total for m in plan.moments}
    for phase in plan.phases:
        held = f"{memory[phase.name] / GIB:>9.2f}" if phase.name in memory else f"{'':>9}"
        yield f"  {phase.name:<24}{held}{phase.flops / 1e12:>12.2f}{plan.seconds(phase):>10.2f}"
    flops, seconds = sum(p.flops for p in plan.phases), sum(map(plan.seconds, plan.phases))
    yield f"  {'all':<24}{'':>9}{flops / 1e12:>12.2f}{seconds:>10.2f}"
    yield ""
    bandwidth = f", {gpu.bandwidth:g} TB/s" if gpu.bandwidth else ", bandwidth not known: reading not counted"
    yield f"{gpu.name}: {gpu.memory:.1f} GiB, {gpu.tflops:g} TFLOP/s dense{bandwidth}"
    if w.dtype_bytes == 4 and plan.machine.gpu_tflops is None:
        yield "  the run computes in float32, whose peak is lower than the table's (bfloat16): give --gpu_tflops"
    yield (
        f"assumed: {plan.machine.peak_fraction:g} of peak and bandwidth reached (--peak_fraction), kernel starts not "
        f"counted; {plan.machine.usable:g} of the memory for tensors (--usable);"
    )
    mean = "" if s is None else f"; completions of {s.mean_tokens:g} tokens (--completion_tokens)"
    mixed = "" if s is None else f"{plan.assumed.mixed:g} of the pairs contribute (--mixed); "
    yield f"  {mixed}{plan.assumed.classes} training classes (--classes){mean}"
    for reservation in _reservations(w):
        yield f"  {reservation}"
    yield ""
    yield from _verdict(plan)


def _trained(w: Workload) -> str:
    if w.tower.full:
        return "trained"
    return f"{w.tower.parameters / 1e6:,.1f} M {'of adapters ' if w.tower.adapters else ''}trained"


def _reservations(w: Workload) -> Iterator[str]:
    """What of this run the plan's memory is not held to a measurement for."""
    if w.tower.autocast:
        yield "the tower under autocast is counted as float32 throughout: it holds less, how much has not been measured"
    if w.tower.dropout:
        yield "not counted: what the dropout of the adapters (model.tuning.dropout) keeps"
    if w.moment_bytes != 2:
        yield "8-bit moments are counted as two bytes and two scales for every 256 numbers: not measured"


def _verdict(plan: Plan) -> Iterator[str]:
    need, have, s = plan.peak.total / GIB, plan.limit / GIB, plan.workload.sampling
    if plan.fits:
        yield f"fits: {need:.1f} of {have:.1f} GiB. Largest micro-batch that fits: {plan.largest_batch}"
    else:
        yield f"does not fit: {need:.1f} of {have:.1f} GiB, most in {plan.peak.phase!r}. Change, in this order:"
        for change in plan.changes:
            mark = "fits" if change.peak <= have else "not yet"
            yield f"  {change.what}: {change.peak:.1f} GiB, {mark}"
        if plan.largest_batch:
            yield f"or only data.batch_size: {plan.largest_batch}, the largest micro-batch that fits as it is"
    if s is not None and s.max_rounds > s.rounds:
        worst = max(m.total for m in step_moments(plan.geometry, plan.workload, s.max_rounds)) / GIB
        verdict = "fits" if worst <= have else "does not fit: lower pairs.max_rounds or data.batch_size"
        yield f"a step that needs all {s.max_rounds} micro-batches (pairs.max_rounds): {worst:.1f} GiB, {verdict}"
