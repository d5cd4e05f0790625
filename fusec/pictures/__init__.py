"""Pictures of a compilation: the plan as SVG, and a report as one HTML file."""

from fusec.pictures.report import brief, html
from fusec.pictures.subject import Subject, of_compiled, of_folder

__all__ = ["Subject", "brief", "html", "of_compiled", "of_folder"]
