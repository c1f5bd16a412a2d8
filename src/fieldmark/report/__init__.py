"""The run's report: one HTML file that holds everything it shows."""

from fieldmark.report.build import build_report
from fieldmark.report.inputs import MethodReport, Report, ReportSizes, method_from_run

__all__ = ["MethodReport", "Report", "ReportSizes", "build_report", "method_from_run"]
