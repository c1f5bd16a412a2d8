"""The commands about vocabularies for a domain of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.cli.commands import DATA_ALIASES, Run, command

if TYPE_CHECKING:
    from fieldmark.cli.options import Given, Options


@command("vocabulary propose", "which attributes tell your classes apart? ask the multimodal LLM, measure, rank")
def _vocabulary_propose(options: "Options") -> Run:
    """Shows the supervisor pairs of training pictures and collects the attributes it names; asks it for
    the value of each on single pictures; merges names whose values agree; ranks attributes by how
    much more often two pictures of one class agree than two of different classes (interval by
    resampling classes). Writes a YAML file to edit: what separates as `attributes`, the rest, which
    varies within classes, as `other_attributes`. `fieldmark train saga --rollouts.vocabulary FILE`
    uses it.

    examples:
      fieldmark vocabulary propose --data my/folders --supervisor models/qwen3-vl \\
        --proposal.item screw --out screws.yaml
      fieldmark vocabulary propose --data worlds/birds --data.image_size 96 --proposal.base fieldguide \\
        --proposal.discovery differences --proposal.max_new_tokens 96 --out birds.yaml
    """
    from fieldmark.experiments.vocabulary import VocabularyRun
    from fieldmark.training.config import SagaConfig

    options.config(VocabularyRun, DATA_ALIASES, ignored=SagaConfig.__dataclass_fields__)
    options.add("--out", "The YAML file to write.", required=True)
    options.flag("--force", "Replace the file if it exists.")
    options.add("--json", "Also write all findings to this file.", str | None)

    def run(given: "Given") -> None:
        from fieldmark.cli.printing import write_json
        from fieldmark.experiments.vocabulary import run_vocabulary_proposal

        proposal = run_vocabulary_proposal(given.config, Path(given.out), force=given.force)
        print(proposal.as_text())
        print(f"\nvocabulary: {given.out} (edit it, then: fieldmark train saga --rollouts.vocabulary {given.out} ...)")
        write_json(given.json, proposal.as_json())

    return run


@command("vocabulary evidence", "does `vocabulary propose` find the field marks of the bundled world?")
def _vocabulary_evidence(options: "Options") -> Run:
    """Draws bundled worlds, proposes a vocabulary on each with the bundled model, and compares with the
    truth: precision and recall of `attributes`, average precision and AUC of the ranking, each
    beside a ranking by lot. Writes OUT/result.json.

    example:
      fieldmark vocabulary evidence --out runs/vocabulary
    """
    from fieldmark.experiments.vocabulary import VocabularyEvidenceConfig

    options.config(VocabularyEvidenceConfig)

    def run(given: "Given") -> None:
        from fieldmark.experiments.vocabulary import evidence_text, run_vocabulary_evidence

        print(evidence_text(run_vocabulary_evidence(given.config)))
        print(f"written: {given.config.out}/result.json")

    return run
