"""HTML pages that need nothing but themselves, from the templates beside this file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fusec.pictures.style import MEANINGS, PARTS, page_style
from fusec.report import size
from fusec.walls import COLOURS

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **data: Any) -> str:
    """A page. Whatever is no `Markup` is escaped."""
    return _templates().get_template(template).render(data)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow; only pages need it

    found = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["bytes"] = size
    found.globals |= {
        "style": Markup(page_style()),
        "meanings": MEANINGS,
        "parts": PARTS,
        "wall_colours": COLOURS,
    }
    return found
