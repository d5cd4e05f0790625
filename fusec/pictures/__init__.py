"""Pictures of a compilation: the plan as SVG, and a report as one HTML file."""

from fusec.pictures.report import brief, html
from fusec.pictures.subject import Subject, find_stage, loop_of, of_compiled

__all__ = ["Subject", "brief", "find_stage", "html", "loop_of", "of_compiled"]
