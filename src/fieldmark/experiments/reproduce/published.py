"""Figures that the publication prints, to stand beside ours.

Source: SAGA, arXiv 2606.15134. Rows carry the keys of configs/saga/tables/<table>.yaml. Recalls in percent on unseen
classes, Qwen3-VL-8B tower unless the table says otherwise; a spread is the publication's ±.
"""

from fieldmark.experiments.tables.printed import PrintedFigures, Published


def _rows(
    table: str, benchmarks: tuple[str, ...], metric: str = "recall_at_1", **rows: tuple[float, ...]
) -> list[Published]:
    return [
        Published(table, row, benchmark, metric, percent)
        for row, figures in rows.items()
        for benchmark, percent in zip(benchmarks, figures, strict=True)
    ]


_FOUR, _TWO = ("cub", "cars", "aircraft", "inat"), ("cub", "aircraft")

PRINTED = PrintedFigures(
    "SAGA, arXiv 2606.15134",
    (
        # Table 1
        *_rows(
            "main",
            _FOUR,
            untrained=(75.6, 70.7, 53.1, 42.2),
            proxy_anchor=(79.5, 93.4, 73.1, 54.1),
            potential_field=(81.6, 93.7, 77.4, 55.6),
        ),
        Published("main", "saga", "cub", "recall_at_1", 87.9, 0.3),
        Published("main", "saga", "cars", "recall_at_1", 97.0, 0.3),
        Published("main", "saga", "aircraft", "recall_at_1", 83.5, 0.4),
        Published("main", "saga", "inat", "recall_at_1", 60.1, 0.4),
        # Table 3, left
        *_rows(
            "components",
            _TWO,
            potential_field=(81.6, 77.4),
            kl=(82.1, 78.1),
            grpo=(87.0, 82.3),
            grpo_generic=(84.1, 79.6),
            saga=(87.9, 83.5),
        ),
        *_rows("prompt", _TWO, potential_field=(81.6, 77.4), generic=(84.1, 79.6), structured=(87.0, 82.3)),
        # Table 3, right
        *_rows(
            "losses",
            _TWO,
            multi_similarity=(77.8, 72.5),
            saga_multi_similarity=(86.1, 82.3),
            proxy_anchor=(79.5, 73.1),
            saga_proxy_anchor=(87.3, 82.7),
            potential_field=(81.6, 77.4),
            saga=(87.9, 83.5),
        ),
        # Table 4; the full size is Table 1's
        *_rows(
            "dimension",
            _TWO,
            potential_field_full=(81.6, 77.4),
            saga_full=(87.9, 83.5),
            potential_field_512=(79.4, 76.3),
            saga_512=(86.5, 80.1),
            potential_field_128=(78.3, 75.5),
            saga_128=(83.8, 79.5),
        ),
        *_rows("dimension", _TWO, "recall_at_4", saga_512=(93.1, 93.3), saga_128=(92.7, 91.7)),
        # Table 5: InternVL3.5-8B
        *_rows("backbone", ("cub",), "recall_at_1", untrained=(50.8,), potential_field=(78.0,), saga=(80.1,)),
        *_rows("backbone", ("cub",), "recall_at_2", untrained=(64.8,), potential_field=(86.2,), saga=(87.6,)),
        *_rows("backbone", ("cub",), "recall_at_4", untrained=(76.4,), potential_field=(91.8,), saga=(92.3,)),
        *_rows("backbone", ("cub",), "recall_at_8", untrained=(85.8,), potential_field=(95.1,), saga=(95.6,)),
    ),
)


def published(table: str, row: str, benchmark: str, metric: str = "recall_at_1") -> Published | None:
    """The printed figure of a row, or None if the publication has none (or our copy of it lost it)."""
    return PRINTED.find(table, row, benchmark, metric)
