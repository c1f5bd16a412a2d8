"""``fieldmark report``: everything about a comparison of runs in one HTML file."""

import os
import tempfile
from pathlib import Path

from fieldmark.report.attention import attention_section, spaced_pictures
from fieldmark.report.completions import completions_section
from fieldmark.report.curves import curves_section
from fieldmark.report.gallery import gallery_section
from fieldmark.report.inputs import Report
from fieldmark.report.interview import interview
from fieldmark.report.measure import measure
from fieldmark.report.page import page, settings_section
from fieldmark.report.pictures import Pictures
from fieldmark.report.results import result_section
from fieldmark.report.shares import shares_section
from fieldmark.report.supervisor import supervisor_section

MOSAIC = 9


def build_report(report: Report, out: Path) -> Path:
    """Write the report: one file that loads nothing, the same bytes for the same input.

    What cannot be shown (no supervisor, no masks, no log, no attention pooler) is left out with a sentence
    saying so.
    Encoders are evaluated on ``report.test``; the supervisor is asked about a few of its pairs.

    Args:
        out: the HTML file; replaced whole, or not at all. Its folder is made.

    Returns:
        ``out``.

    Raises:
        ValueError: an encoder's folder or a log cannot be read, or pictures and models do not fit.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name the file, for instance {out / 'report.html'}")
    pictures = Pictures(report.test, report.sizes.picture_pixels)
    measured = measure(report)
    asked = interview(report, measured, pictures)
    sections = [
        result_section(report, measured),
        gallery_section(report, measured, pictures),
        shares_section(report, measured),
        attention_section(report, measured, pictures),
        supervisor_section(report, asked, pictures),
        completions_section(report, asked, pictures),
        curves_section(measured),
        settings_section(report.settings),
    ]
    mosaic = [pictures.uri(i) for i in spaced_pictures(report.test.labels, MOSAIC)]
    write_whole(out, page(report.title, report.intro, sections, mosaic))
    return out


def write_whole(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
