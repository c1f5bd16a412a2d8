"""What commands print at their end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldmark.training.run_folder import to_plain, write_text


def retrieval_table(figures: Mapping[str, Any]) -> str:
    """Figures of `ZeroShotResult.as_json`, in percent."""
    columns = {
        f"R@{key.rsplit('_', 1)[1]}": key for key in figures if key.startswith("recall_at_") and key[10:].isdigit()
    }
    columns |= {"MAP@R": "map_at_r", "R-prec": "r_precision"}
    cells = {head: f"{100 * figures[key]:.1f}" for head, key in columns.items()}
    if "nmi" in figures:
        cells["NMI"] = f"{100 * figures['nmi']:.1f} ± {100 * figures['nmi_std']:.1f}"
    widths = {head: max(len(head), len(cell)) + 2 for head, cell in cells.items()}
    low, high = figures["recall_at_1_interval"]
    skipped = f", {figures['num_skipped']} without a second picture of their class" if figures["num_skipped"] else ""
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    sizes = figures.get("by_dimensions", {})
    nested = [f"R@1 of the first {size} numbers: {100 * cut['recall_at_1']:.1f}" for size, cut in sizes.items()]
    return "\n".join(
        (
            "".join(f"{head:>{widths[head]}}" for head in cells),
            "".join(f"{cell:>{widths[head]}}" for head, cell in cells.items()),
            f"R@1: 95 % interval {interval}; {figures['num_queries']} queries{skipped}",
            *nested,
        )
    )


def trained_text(run: str, results: Mapping[str, Any]) -> str:
    """What a training command says at its end; `results` is what results.json holds."""
    best = results["validation"]
    return "\n".join(
        (
            f"\nunseen test classes, after {results['steps']} steps ({results['pictures_seen']} pictures)",
            retrieval_table(results["test"]),
            f"validation R@1: {100 * best['recall_at_1']:.1f}, best at step {best['best_step']}",
            f"\nrun: {run}\nencoder: {run}/encoder",
            f"next: fieldmark report --run {run} --out {run}/report.html",
        )
    )


def as_text(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def printable(text: str) -> str:
    """A file's name on one line: what would break or recolour a terminal's lines is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def write_json(path: str | None, value: Any) -> None:
    """Writes `value` to `path` if there is one, and says so."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(path), as_text(to_plain(value)) + "\n")
        print(f"written: {path}")
