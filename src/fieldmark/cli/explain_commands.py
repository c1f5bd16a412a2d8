"""The commands that explain why two pictures match."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("explain", "why do two pictures match? attention, patch by patch, and what the supervisor says")
def _explain(options: "Options") -> Run:
    """Splits the cosine of two pictures exactly over pairs of patches and shows which patch answers to which,
    what each weighs and carries, and what keeps the two apart. With --supervisor it also asks the
    multimodal LLM: its attributes of both, its verdict, and where it looked while it wrote each value.
    With --index it explains what goes beyond what all pictures of that index share.
    Writes explanation.html, explanation.png and explanation.json.

    examples:
      fieldmark explain a.jpg b.jpg --run runs/mine
      fieldmark explain a.jpg b.jpg --run runs/mine --index mine.index
      fieldmark explain a.jpg b.jpg --run runs/mine --supervisor bundled --vocabulary fieldguide --out why
    """
    from fieldmark.experiments.explain import ExplainConfig

    options.add("a", "A picture.")
    options.add("b", "Another.")
    options.config(ExplainConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.explain import explained_text, run_explain

        explained = run_explain(Path(given.a), Path(given.b), given.config)
        print(explained_text(explained))
        for path in (explained.html, explained.png, explained.json):
            print(f"written: {path}")

    return run


@command("explain evidence", "does the difference of look-alikes lie on the mark in which they differ?")
def _explain_evidence(options: "Options") -> Run:
    """Takes pairs of look-alike species of a bundled world's test half and finds the patch that does most to
    keep the two embeddings apart. How often does it lie on a field mark in which the two species
    differ, beside a patch drawn by lot, and beside the marks that they share? Once with two pictures as
    the world has them, once with one picture and the same picture with the other species' marks.

    example:
      fieldmark explain evidence --runs '[runs/demo/untrained,runs/demo/metric,runs/demo/saga]' --json explain.json
    """
    from fieldmark.experiments.explain_evidence import ExplainEvidenceConfig

    options.config(ExplainEvidenceConfig)
    options.add("--json", "Also write all figures to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.explain_evidence import evidence_json, evidence_text, run_explain_evidence

        found = run_explain_evidence(given.config)
        print(evidence_text(found))
        write_json(given.json, {"config": given.config, "rows": evidence_json(found)})

    return run
