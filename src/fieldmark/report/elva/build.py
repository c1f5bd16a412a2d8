"""The report of universal embedders: everything about a comparison in one HTML file."""

from pathlib import Path

from fieldmark.report.build import MOSAIC, write_whole
from fieldmark.report.elva.attention import attention_section
from fieldmark.report.elva.curves import training_curves
from fieldmark.report.elva.gallery import rankings_section
from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.elva.items import ItemPictures
from fieldmark.report.elva.looking import Looked, look
from fieldmark.report.elva.maps import maps_section
from fieldmark.report.elva.ranks import ranks_section
from fieldmark.report.elva.results import result_section
from fieldmark.report.measure import role_styles
from fieldmark.report.page import page, settings_section


def build_elva_report(report: ElvaReport, out: Path) -> Path:
    """Write the report: one file that loads nothing, the same bytes for the same input.

    What cannot be shown (no grains, no log, nothing to compare with) is left out with a sentence saying so.

    Args:
        out: the HTML file; replaced whole, or not at all. Its folder is made.

    Returns:
        ``out``.

    Raises:
        ValueError: a log or a picture cannot be read, or ``out`` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name the file, for instance {out / 'report.html'}")
    styles = dict(zip((row.name for row in report.rows), role_styles([row.role for row in report.rows]), strict=True))
    pictures = ItemPictures(report.sizes.picture_pixels)
    looked = look(report, styles)
    sections = [
        result_section(report, styles),
        rankings_section(report, looked, pictures),
        ranks_section(report, looked),
        attention_section(report, looked, pictures),
        maps_section(report, looked),
        training_curves(report, styles),
        settings_section(report.settings),
    ]
    write_whole(out, page(report.title, report.intro, sections, _mosaic(looked, pictures)))
    return out


def _mosaic(looked: Looked, pictures: ItemPictures) -> list[str]:
    """Candidates at even distances; none if the pool has too few pictures."""
    files = [one.image for one in looked.candidates if one.image is not None]
    if len(files) < MOSAIC:
        return []
    return [pictures.uri(files[int((k + 0.5) * len(files) / MOSAIC)]) for k in range(MOSAIC)]
