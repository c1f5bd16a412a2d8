"""What a report is made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fieldmark.data.collection import LabelledImages
from fieldmark.models.backbone import Backbone
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.policy.adjudication import RolloutConfig

Role = Literal["start", "baseline", "method", "control", "ceiling"]

ROLE_WORDS: Mapping[str, str] = {
    "start": "the tower before any training",
    "baseline": "what one would do without the method",
    "method": "what is being tested",
    "control": "the method with its signal removed: a gain that it keeps is not the signal's",
    "ceiling": "uses truths that nobody has in practice: the most that the method could reach",
}


@dataclass(frozen=True, eq=False)
class MethodReport:
    """One row of the report."""

    name: str
    """Short unique name ("saga"), as in results.json."""
    title: str
    """What readers call it ("SAGA")."""
    role: Role
    """Its part in the comparison; see ``ROLE_WORDS``."""
    note: str = ""
    """One sentence: how it was trained."""
    encoder: Path | RetrievalEncoder | None = None
    """Folder of the saved encoder, or the encoder itself; None leaves out everything that needs one."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """Its figures on the test classes, as ``ZeroShotResult.as_json`` gives them; computed from the encoder if
    empty."""
    log: Path | None = None
    """The run's log.jsonl."""

    def __post_init__(self) -> None:
        if not self.name or not self.title:
            raise ValueError(f"a method needs a name and a title, got {self.name!r} and {self.title!r}")
        if self.role not in get_args(Role):
            raise ValueError(f"role {self.role!r} of {self.name} is not one of {', '.join(get_args(Role))}")
        if self.encoder is None and not self.results:
            raise ValueError(f"{self.name} has neither an encoder nor results: there is nothing to report")


@dataclass(frozen=True)
class ReportSizes:
    """How much is shown."""

    differing_queries: int = 4
    """Gallery: queries on which the methods differ."""
    agreeing_queries: int = 2
    """Gallery: queries that every method gets right, and as many that every one gets wrong."""
    neighbours: int = 5
    """Gallery: nearest pictures per query."""
    attention_pictures: int = 6
    """Pictures with the poolers' attention."""
    pairs: int = 4
    """Pairs shown to the supervisor, drawn from three times as many."""
    open_rollouts: int = 3
    """Completions per pair that are open; the others unfold."""
    picture_pixels: int = 144
    """Pictures are stored at most this large."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that ``build_report`` needs."""

    title: str
    intro: str
    """A few sentences for somebody who knows nothing of the run; an empty line begins a new paragraph."""
    methods: Sequence[MethodReport]
    """In the order in which they are to be read."""
    test: LabelledImages
    """Pictures of unseen classes: every one is a query, the others are its gallery."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Seeds, versions, commands, times: shown at the end as they are (texts, numbers, lists, mappings)."""
    baseline: str | None = None
    """Name of the method that others are compared with; None takes the first with role "baseline"."""
    supervisor: Backbone | None = None
    """The multimodal LLM; None leaves out its attention and its completions."""
    rollouts: RolloutConfig | None = None
    """How it is asked; None leaves out the same."""
    attention_layer: int | None = None
    """Decoder layer of the supervisor's attention, from 0; None takes the one at 26/36 of the depth
    (published)."""
    seed: int = 0
    """Of everything that is drawn for the report: bootstrap, pairs, completions."""
    workers: int = 0
    """Processes that decode pictures."""
    sizes: ReportSizes = ReportSizes()

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names:
            raise ValueError("a report needs at least one method")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"methods are named twice: {', '.join(twice)}")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is none of the methods {', '.join(names)}")


def method_from_run(run: Path, name: str, title: str, role: Role, note: str = "") -> MethodReport:
    """A row from the folder of a finished run (``encoder/``, ``results.json``, ``log.jsonl``).

    Raises:
        ValueError: the run is not finished.
    """
    run = Path(run)
    results, log = run / "results.json", run / "log.jsonl"
    if not results.is_file():
        raise ValueError(
            f"{run} has no results.json: the run is not finished; resume it, or leave it out of the report"
        )
    content = json.loads(results.read_text(encoding="utf-8"))
    return MethodReport(
        name=name,
        title=title,
        role=role,
        note=note,
        encoder=run / "encoder" if (run / "encoder").is_dir() else None,
        results=content.get("test", content),
        log=log if log.is_file() else None,
    )
