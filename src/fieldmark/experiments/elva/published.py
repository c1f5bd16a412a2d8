"""Figures that ELVA's publication prints, to stand beside ours.

Source: ELVA, arXiv 2606.20280. Rows carry the keys of configs/elva/tables/<table>.yaml. Percent: averages over M-BEIR's
16 rows in their local pools, and over MRBench's sources; base Qwen2-VL-7B, or 2B where it is said.
"""

from fieldmark.experiments.elva.tables import MBEIR
from fieldmark.experiments.tables.printed import PrintedFigures, Published

SMALLER = "average_2b"
"""The average of the 2B model, which the publication's main table has beside the 7B model's."""


def _rows(table: str, metric: str, **rows: float) -> list[Published]:
    return [Published(table, row, MBEIR, metric, percent) for row, percent in rows.items()]


PRINTED = PrintedFigures(
    "ELVA, arXiv 2606.20280",
    (
        *_rows("main", "average", stage2=56.6, stage3=58.7),
        *_rows("main", SMALLER, stage2=51.6, stage3=53.8),
        *_rows("mrbench", "mrbench", stage2=38.1, stage3=43.2),
        *_rows(
            "ablation",
            "average",
            stage3=58.7,
            no_ranking=57.2,
            no_margin=58.1,
            no_negative_ranking=58.1,
            no_hard=58.2,
            no_random=58.4,
        ),
        *_rows("weights", "average", alpha_6=58.2, alpha_5=58.4, stage3=58.7),
    ),
)

IN_WORDS = {
    "posttrain": "Printed: +1.9 to +2.2 points of the M-BEIR average on other retrievers.",
}
"""What the publication says of a table without a figure for each row."""
