"""Colours of everything drawn, light and dark.

Shapes carry their light colours as attributes, which any viewer understands, and a class beside
them; a style sheet changes what has a class where a dark page is preferred. Hues are Okabe & Ito's
(2008), which people with any colour vision can tell apart.
"""

from __future__ import annotations

from pathlib import Path

from fusec.ir.graph import Node
from fusec.ir.ops import op

ROLES = {  # role of the heaviest op inside -> fill of a box; the first that a node has counts
    "rows": ("#cfe8f7", "#1d4a66"),
    "heads": ("#fbe3b3", "#664714"),
    "vector": ("#d5efe3", "#1b5340"),
    "pair": ("#f6d9e8", "#662f4d"),
    "store": ("#f6d9e8", "#662f4d"),
    "scalar": ("#ece7a8", "#57521a"),
    "fold": ("#ece7a8", "#57521a"),
    "element": ("#eeeeee", "#3a4049"),
    "clear": ("#eeeeee", "#3a4049"),
    "into": ("#eeeeee", "#3a4049"),
}
MEANINGS = {  # what the legends say
    "rows": "matrix times vector",
    "heads": "attention",
    "vector": "embedding, norm",
    "store": "KV cache, RoPE",
    "scalar": "reduction",
    "element": "element by element",
}
PARTS = {  # of a launch's predicted time
    "boundary": "#E69F00",
    "chain": "#CC79A7",
    "memory": "#0072B2",
    "compute": "#009E73",
}
EARLY = "#D55E00"
PAPER, INK, FAINT, LINE = "#ffffff", "#1f2328", "#5c6470", "#777777"
FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"

_DARK = {  # class -> property -> colour
    "paper": {"fill": "#14171c"},
    "ink": {"fill": "#e6e8ec"},
    "faint": {"fill": "#a3abb8"},
    "frame": {"fill": "#1a1e25", "stroke": "#3c4450"},
    "box": {"stroke": "#8b95a3"},
    "plain": {"fill": "#14171c", "stroke": "#8b95a3"},
    "grid": {"stroke": "#333a45"},
    "wire": {"stroke": "#8f99a8"},
    "head": {"fill": "#8f99a8"},
    "wire-early": {"stroke": "#ff8f4a"},
    "head-early": {"fill": "#ff8f4a"},
}


def role_of(node: Node) -> str:
    """The role that a node's colour is of."""
    roles = {op(plain.op).role for plain in node.ops}
    return next(role for role in ROLES if role in roles)


def svg_rules() -> str:
    """The style sheet of every picture: its dark colours."""
    rules = {name: {"fill": dark} for name, (_, dark) in ROLES.items()} | _DARK
    lines = (
        f"svg .{name}{{{';'.join(f'{key}:{colour}' for key, colour in found.items())}}}"
        for name, found in rules.items()
    )
    return f"@media (prefers-color-scheme:dark){{{''.join(lines)}}}"


def page_style() -> str:
    """The style sheet of a report, with the colours above as variables."""
    light = "".join(f"--{role}:{colour};" for role, (colour, _) in ROLES.items())
    light += "".join(f"--{part}:{colour};" for part, colour in PARTS.items())
    dark = "".join(f"--{role}:{colour};" for role, (_, colour) in ROLES.items())
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{svg_rules()}\n"
        + Path(__file__).with_name("page.css").read_text()
    )
