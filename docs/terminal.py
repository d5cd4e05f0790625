"""Runs commands in a pseudo-terminal and draws what they print as an SVG.

    python docs/terminal.py docs/images/smollm2.svg 'fusec inspect smollm2'

Needs a POSIX system, and `fusec` on the path. Nothing is edited: the picture is the output.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import subprocess
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 100
FONT_FACES = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)  # fonts from the net: none needed


def output(command: str) -> str:
    """What a command prints to a terminal, without progress bars; then what it says on the side."""
    reader, writer = os.openpty()
    size = {"COLUMNS": str(WIDTH), "LINES": "50", "TERM": "xterm-256color"}
    run = subprocess.Popen(
        shlex.split(command), stdout=writer, stderr=subprocess.PIPE, env=os.environ | size
    )
    os.close(writer)
    with os.fdopen(reader, "rb", 0) as shown:
        printed = b"".join(chunks(shown))
    _, side = run.communicate()
    if run.returncode:
        raise SystemExit(f"{command}: {side.decode()}")
    return (printed + side).decode().replace("\r\n", "\n")


def chunks(shown: io.RawIOBase):  # type: ignore[no-untyped-def]
    """Reads until the other side has closed, which Linux reports as an error."""
    try:
        while part := shown.read(1 << 16):
            yield part
    except OSError:
        return


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw a terminal.")
    parser.add_argument("svg", type=Path)
    parser.add_argument("commands", nargs="+")
    args = parser.parse_args()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    for command in args.commands:
        console.print(Text.assemble(("$ ", "green"), (command, "bold")))
        console.print(Text.from_ansi(output(command)))
    svg = console.export_svg(title="fusec", theme=MONOKAI, unique_id="fusec")
    args.svg.write_text(FONT_FACES.sub("", svg), encoding="utf-8")


if __name__ == "__main__":
    main()
