"""The report of an ELVA run: what changed between two universal embedders, for single queries and on the whole."""

from fieldmark.report.elva.build import build_elva_report
from fieldmark.report.elva.inputs import ElvaReport, ElvaSizes, EmbedderRow

__all__ = ["ElvaReport", "ElvaSizes", "EmbedderRow", "build_elva_report"]
