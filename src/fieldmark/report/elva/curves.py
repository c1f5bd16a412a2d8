"""Section "Training" of ELVA: rewards, groups with signal, entropy, KL, tokens, forced endings."""

from fieldmark.report.curves import LoggedRun, Panel, training_section
from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.page import Section

PANELS = (
    Panel(
        "val_recall_at_5",
        "R@5 on held-out training queries",
        "In a small pool of their own; compares steps.",
        True,
        False,
    ),
    Panel(
        "val_grain_sensitivity",
        "Grain sensitivity on held-out queries",
        "How far a dropped part moves the embedding, relative to unrelated queries.",
        True,
        False,
    ),
    Panel("reward", "Mean reward", "Over all summaries of a step, whether or not their group teaches.", False, True),
    Panel(
        "signal",
        "Groups with signal",
        "Share of queries whose summaries earn different rewards: only they teach.",
        True,
        True,
    ),
    Panel("reward_std", "Spread of rewards", "Standard deviation within groups, mean.", False, True),
    Panel(
        "reward_by_tokens",
        "Does length pay?",
        "Correlation of reward and length within groups: below 0, the reward pays for brevity.",
        False,
        True,
    ),
    Panel(
        "reward_by_grains",
        "Does naming grains pay?",
        "Correlation of reward and the share of grains that a summary names, within groups.",
        False,
        True,
    ),
    Panel(
        "entropy",
        "Entropy",
        "Mean of −log π of the sampled tokens, in nats: towards 0, all summaries are alike.",
        False,
        True,
    ),
    Panel("kl", "KL to the start", "Divergence from the policy before the run.", False, True),
    Panel("tokens", "Tokens", "Mean length of a summary.", False, True),
    Panel("forced", "Forced endings", "Share of summaries that did not end in [RET] by themselves.", True, True),
    Panel("rank", "Rank of the positive", "Among the positive and the negatives of the step, mean.", False, True),
    Panel("loss", "Contrastive loss", "InfoNCE of the batches; only in contrastive runs.", False, True),
)


def training_curves(report: ElvaReport, styles: dict[str, str]) -> Section:
    """A chart for each figure that any log has."""
    runs = [LoggedRun(row.title, styles[row.name], row.role, row.log) for row in report.rows]
    lead = "What each run logged on its way. Test queries play no part in any of it."
    return training_section(runs, PANELS, lead)
